"""Reports on finished runs: report.py --runs=DIR, or on the paper's numbers: report.py --paper."""

from metriclt_jax.cli.report import main

if __name__ == '__main__':
    main()
