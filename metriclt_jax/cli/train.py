"""`train.py --config=FILE:METHOD[,scale=NAME] --workdir=DIR`: train, evaluate, write results."""

from absl import flags
from ml_collections import config_flags

from metriclt_jax.cli import hosts as hosts_flags
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError, explained

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME], as digits_lt:ce; set --config.stage1.epochs=50 etc.'
)
_WORKDIR = flags.DEFINE_string('workdir', None, 'directory, new or to resume; may be gs://...')
_PROFILE = flags.DEFINE_integer(
    'profile', 0, 'steps of each stage to trace for TensorBoard, in WORKDIR/profile', lower_bound=0
)
flags.mark_flags_as_required(['config', 'workdir'])
flags.adopt_module_key_flags(hosts_flags)


@cli.command
def main() -> None:
    """Runs what the flags say and prints the table of results."""
    config = _CONFIG.value
    hosts_flags.connect()
    from metriclt_jax import hosts
    from metriclt_jax.paths import to_path
    from metriclt_jax.progress import say
    from metriclt_jax.reports.figures import draw_run
    from metriclt_jax.reports.terminal import stage_table
    from metriclt_jax.training.train import train

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    console = hosts.console()
    with hosts_flags.leaving():
        results = train(config, _WORKDIR.value, console, _PROFILE.value)
        if hosts.is_first() and config.figures:
            try:
                with explained('the same command draws the missing figures'):
                    draw_run(to_path(_WORKDIR.value))
            except InputError as error:  # the results are written: this must not end the run
                say(f'results are complete, but not all figures could be drawn; {error}')
    console.print(stage_table(results))
    say(f'written to {_WORKDIR.value}', console)
