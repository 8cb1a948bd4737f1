"""`train.py --config=FILE:METHOD[,scale=NAME] --workdir=DIR`: train, evaluate, write results."""

import os

from absl import flags
from ml_collections import ConfigDict, config_flags

from metriclt_jax.cli import hosts as hosts_flags
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME]; set single fields by --config.stage1.epochs=50'
)
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'where to write; a new directory or one to resume, local or gs://...'
)
flags.mark_flags_as_required(['config', 'workdir'])
flags.adopt_module_key_flags(hosts_flags)


@cli.command
def main() -> None:
    """Runs what the flags say and prints the table of results."""
    config = _config()
    hosts_flags.connect()
    from metriclt_jax import hosts
    from metriclt_jax.paths import to_path
    from metriclt_jax.reports.figures import draw_run
    from metriclt_jax.reports.terminal import stage_table
    from metriclt_jax.training.train import train

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    console = hosts.console()
    with hosts_flags.leaving():
        results = train(config, _WORKDIR.value, console)
        with hosts.together():
            if hosts.is_first() and config.figures:
                draw_run(to_path(_WORKDIR.value))
    console.print(stage_table(results))
    console.print(f'written to {_WORKDIR.value}', highlight=False)


def _config() -> ConfigDict:
    config = _CONFIG.value
    try:
        config.method  # noqa: B018 (a config file that failed to load says so at its first use)
    except OSError as error:
        missing = str(error).partition('No such file or directory: ')[2].partition('\n')[0]
        if missing:
            raise InputError(
                f'there is no config file {missing} (seen from {os.getcwd()}); the config files '
                'are in configs/ of the repository'
            ) from None
        raise InputError(str(error)) from None
    return config
