"""Measures speed and memory on this machine: benchmark.py [--models=NAMES] [--compare_torch]."""

from metriclt_jax.cli.benchmark import main

if __name__ == '__main__':
    main()
