"""`train.py --config=FILE:METHOD[,scale=NAME] --workdir=DIR`: train, evaluate, write results."""

from absl import flags
from ml_collections import config_flags

from metriclt_jax.cli import main as cli

TERMINATED = 75  # exit code after SIGTERM: saved, run the same command again (EX_TEMPFAIL)

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME]; single fields by --config.stage1.epochs=50'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where to write; a new directory, or to go on in')
flags.mark_flags_as_required(['config', 'workdir'])


def train() -> int | None:
    """Runs what the flags say; prints the table of results."""
    from rich.console import Console

    from metriclt_jax.reports.tables import print_results
    from metriclt_jax.training.run import Interrupted, run

    console = Console()
    try:
        results = run(_CONFIG.value, _WORKDIR.value, console)
    except Interrupted as interrupted:
        console.print(f'SIGTERM: {interrupted}; run the same command again to go on')
        return TERMINATED
    print_results(results, console)
    console.print(f'written to {_WORKDIR.value}', highlight=False)
    return None


def main() -> None:
    """Entry point."""
    cli.run(train)


if __name__ == '__main__':
    main()
