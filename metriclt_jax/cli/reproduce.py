"""`reproduce.py --table=2|3|4|5 --dataset=NAME [--seeds=3] [--scale=NAME]`, or `--figure=2`.

Trains all rows of a table of the paper, or the coefficients of figure 2, on a prepared data set,
and writes a report with the published numbers beside the measured ones. It can be stopped at any
time: the same command resumes and repeats no finished run. Several hosts that share --workdir may
run it at once.
"""

import json
from functools import partial
from pathlib import Path

from absl import flags

from metriclt_jax import config_files
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_TABLE = flags.DEFINE_enum('table', None, ['2', '3', '4', '5'], 'table of the paper')
_FIGURE = flags.DEFINE_enum('figure', None, ['2'], 'figure of the paper')
_DATASET = flags.DEFINE_string('dataset', None, 'data set: name of its config file')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'runs of a row, with seeds 0, 1, ...', lower_bound=1)
_FOLDS = flags.DEFINE_integer('folds', 0, 'folds of a cross-validation; 0: none', lower_bound=0)
_WORKERS = flags.DEFINE_integer('workers', 1, 'processes, each on its own cores or accelerators')
_METHODS = flags.DEFINE_string('methods', None, "rows, as ce,ce_crw, or 'all'; default: the table")
_SCALE = flags.DEFINE_string('scale', None, "scale of the config file; default: the file's own")
_PRETRAINED = flags.DEFINE_string(
    'pretrained', None, 'ImageNet weights; {model} stands for the backbone'
)
_OVERRIDE = flags.DEFINE_multi_string('override', [], 'FIELD=VALUE of the config, in all runs')
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'folder of prepared data sets')
_WORKDIR = flags.DEFINE_string(
    'workdir', None, 'folder of runs and report; default: runs/reproduce/DATASET[_SCALE]'
)
_CONFIGS = flags.DEFINE_string(
    'configs', None, "folder of the config files; default: configs/ here, then the package's own"
)
flags.mark_flag_as_required('dataset')


def _prepare(file: Path) -> None:
    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    config_files.load(file)  # it may add methods


@cli.command
def main() -> int | None:
    """Does what the flags say; prints a line for each run and where the report is."""
    if (_TABLE.value is None) == (_FIGURE.value is None):
        raise InputError('give either --table=2, 3, 4 or 5, or --figure=2')
    if _FIGURE.value and _FOLDS.value:
        raise InputError(
            '--folds goes with --table; for figure 2, set --override=data.folds=K and data.fold=k'
        )
    from rich.console import Console

    from metriclt_jax import grids
    from metriclt_jax.data import load_dataset
    from metriclt_jax.paths import to_path
    from metriclt_jax.progress import say
    from metriclt_jax.reports.published import methods_of
    from metriclt_jax.reports.report import report_runs
    from metriclt_jax.reproduce import check, execute
    from metriclt_jax.training.workdir import config_as_json
    from metriclt_jax.workers import shares

    configs = _CONFIGS.value and Path(_CONFIGS.value).expanduser()
    prepare = partial(_prepare, config_files.find(_DATASET.value, configs))
    prepare()
    data_dir = [f'data.data_dir={_DATA_DIR.value}'] if _DATA_DIR.value else []
    overrides = [*_OVERRIDE.value, *data_dir]
    make_config = grids.config_maker(configs, _DATASET.value, _SCALE.value, overrides)
    methods = grids.parse_methods(_METHODS.value)
    table = _TABLE.value and int(_TABLE.value)
    if table:
        options = methods, _PRETRAINED.value, _FOLDS.value
        planned = grids.table_grid(make_config, table, _SEEDS.value, *options)
    else:
        planned = grids.figure_grid(make_config, _SEEDS.value, methods, _PRETRAINED.value)
    name = '_'.join(filter(None, (_DATASET.value, _SCALE.value)))
    root = to_path(_WORKDIR.value or f'runs/reproduce/{name}')
    check(planned, root)
    distinct = {json.dumps(config_as_json(one.config)['data']): one.config for one in planned}
    if _WORKERS.value != 1:
        shares(_WORKERS.value)  # raises if they are too many
    for config in distinct.values():
        load_dataset(config.data)  # raises before any training if it is not prepared
    console = Console()
    failures = execute(planned, root, console, _WORKERS.value, prepare)
    for name, reason in failures.items():
        say(f'failed: {name}: {reason}', console)
    if table and not set(methods or ()) <= set(methods_of(table)):
        table = None  # the paper does not have these rows
    if not any((root / one.name / 'results.json').exists() for one in planned):
        return 1
    page = report_runs(root, table=table)
    say(f'written to {page}', console)
    return 1 if failures else None
