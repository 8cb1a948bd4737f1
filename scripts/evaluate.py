"""Evaluates a finished run: evaluate.py --workdir=DIR [--part=test]."""

from metriclt_jax.cli.evaluate import main

if __name__ == '__main__':
    main()
