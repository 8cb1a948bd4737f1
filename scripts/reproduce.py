"""Reproduces a table or a figure: reproduce.py --table=2 --dataset=NAME [--seeds=3]."""

from metriclt_jax.cli.reproduce import main

if __name__ == '__main__':
    main()
