"""Compiles a run for TPUs or GPUs elsewhere: compile.py --config=FILE:METHOD --target=v5e:4x4."""

from metriclt_jax.cli.compile import main

if __name__ == '__main__':
    main()
