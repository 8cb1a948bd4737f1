"""Imports weights: import_weights.py --model=NAME [--source=FILE] --output=DIR."""

from metriclt_jax.cli.import_weights import main

if __name__ == '__main__':
    main()
