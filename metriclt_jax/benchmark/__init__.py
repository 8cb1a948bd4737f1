"""How fast the models train and classify on this machine, beside PyTorch and beside a floor."""
