"""`train.py --config=FILE:METHOD[,scale=NAME] --workdir=DIR`: train, evaluate, write results."""

import os
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from metriclt_jax.cli import hosts as hosts_flags
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME]; single fields by --config.stage1.epochs=50'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'where to write; a new directory, or to go on in')
flags.mark_flags_as_required(['config', 'workdir'])
flags.adopt_module_key_flags(hosts_flags)


def train() -> int | None:
    """Runs what the flags say; prints the table of results."""
    config = _config()
    hosts_flags.connect()
    from metriclt_jax import hosts
    from metriclt_jax.errors import Interrupted
    from metriclt_jax.reports.terminal import stage_table
    from metriclt_jax.training.run import run

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    console = hosts.console()
    try:
        with hosts_flags.leaving():
            results = run(config, _WORKDIR.value, console)
    except Interrupted as interrupted:
        console.print(f'{interrupted}; run the same command again to go on')
        return cli.TERMINATED
    if config.figures and hosts.is_first():
        from metriclt_jax.reports.figures import draw_run  # matplotlib is slow to import

        draw_run(Path(_WORKDIR.value))
    console.print(stage_table(results))
    console.print(f'written to {_WORKDIR.value}', highlight=False)
    return None


def _config() -> ConfigDict:
    config = _CONFIG.value
    try:
        config.method  # noqa: B018 (a config file that failed to load says so at its first use)
    except OSError as error:
        missing = str(error).partition('No such file or directory: ')[2].partition('\n')[0]
        if missing:
            raise InputError(
                f'there is no config file {missing} (seen from {os.getcwd()}); config files lie in '
                'configs/ of the repository'
            ) from None
        raise InputError(str(error)) from None
    return config


def main() -> None:
    """Entry point."""
    cli.run(train)


if __name__ == '__main__':
    main()
