"""Prepares a data set: prepare_data.py --dataset=NAME --source=DIR [--data_dir=DIR]."""

from metriclt_jax.cli.prepare_data import main

if __name__ == '__main__':
    main()
