"""Trains and evaluates: train.py --config=FILE:METHOD[,scale=NAME] --workdir=DIR."""

from metriclt_jax.cli.train import main

if __name__ == '__main__':
    main()
