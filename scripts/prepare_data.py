"""Prepares a data set: `python scripts/prepare_data.py --dataset=skin7 --source=FOLDER`."""

from metriclt_jax.cli.prepare_data import main

if __name__ == '__main__':
    main()
