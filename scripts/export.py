"""Exports a trained model: export.py --workdir=DIR --output=FILE [--format=stablehlo]."""

from metriclt_jax.cli.export import main

if __name__ == '__main__':
    main()
