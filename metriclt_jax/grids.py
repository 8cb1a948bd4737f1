"""The runs that a table or a figure of the paper asks for, as data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import product
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from metriclt_jax import config_files
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS, get_method
from metriclt_jax.quoting import quote_names
from metriclt_jax.reports.published import distinct, methods_of, table_values
from metriclt_jax.training.workdir import config_as_json

MakeConfig = Callable[[str], ConfigDict]  # of a method

# Figure 2: the ends of the range in which the paper finds each coefficient stable, its default, and
# one value on either side.
SENSITIVITY = {
    'ce_ct_crw': ('center', (0.00001, 0.00005, 0.001, 0.004, 0.02)),
    'ce_tp_crw': ('triplet', (0.00001, 0.00005, 0.001, 0.01, 0.05)),
    'ce_sc_crw': ('supervised_contrastive', (0.01, 0.04, 1.0, 1.8, 5.0)),
}

# Fields that the grid sets, and what sets them.
_GRID_FIELDS = {
    'method': '--methods',
    'seed': '--seeds',
    'figures': 'no flag: the report draws the figures',
}


@dataclass(frozen=True)
class PlannedRun:
    """A run of a grid: its work directory, relative to the grid's, and its config."""

    name: str
    config: ConfigDict

    @cached_property
    def first_stage(self) -> str:
        """All that the first stage depends on; runs in which it is equal can share its training."""
        fields = config_as_json(self.config)
        for name in ('method', 'stage2', 'second_heads'):
            del fields[name]
        return repr((replace(get_method(self.config.method), second_stage=None), fields))


def config_maker(
    folder: Path | None, dataset: str, scale: str | None = None, overrides: Sequence[str] = ()
) -> MakeConfig:
    """Makes configs from the file of a data set in `folder`, or where `config_files.find` looks.

    `scale` is as in `--config=FILE:METHOD,scale=NAME`, and each of the `overrides` is FIELD=VALUE,
    as in `--config.FIELD=VALUE`.
    """
    module = config_files.load(config_files.find(dataset, folder))

    def make(method: str) -> ConfigDict:
        config = module.get_config(method if scale is None else f'{method},scale={scale}')
        for override in overrides:
            _override(config, override)
        return config

    return make


def table_grid(
    make_config: MakeConfig,
    table: int,
    seeds: int,
    methods: Sequence[str] | None = None,
    pretrained: str | None = None,
    folds: int = 0,
) -> list[PlannedRun]:
    """The runs of table 2, 3, 4 (with both of its backbones) or 5, in the order to train them.

    Each row runs with `seeds` seeds, from 0 on, on each of `folds` folds of the data or, with 0, on
    its split; `methods` None takes the rows of the table. In `pretrained`, the weights to start
    from, '{model}' stands for the backbone.
    """
    models = distinct(table_values(4), 'model') if table == 4 else [None]
    runs = []
    rows = product(_seeds(seeds), range(folds or 1), models, methods or methods_of(table))
    for seed, fold, model, method in rows:
        config = _configured(make_config(method), seed, model, pretrained)
        if folds:
            config.data.folds, config.data.fold = folds, fold
        names = (model, method, str(seed), f'fold{fold}' if folds else None)
        runs.append(PlannedRun('/'.join(filter(None, names)), config.lock()))
    first = {}  # position of the first run with each first stage; those that share it come together
    for position, run in enumerate(runs):
        first.setdefault(run.first_stage, position)
    return sorted(runs, key=lambda run: first[run.first_stage])


def figure_grid(
    make_config: MakeConfig,
    seeds: int,
    methods: Sequence[str] | None = None,
    pretrained: str | None = None,
) -> list[PlannedRun]:
    """The runs of figure 2: each metric loss with coefficients over the paper's range.

    `methods` are keys of SENSITIVITY, None takes all; see `table_grid` for the other arguments.
    """
    runs = []
    for seed, method in product(_seeds(seeds), methods or SENSITIVITY):
        if method not in SENSITIVITY:
            raise InputError(f'--methods has {method}; figure 2 has {", ".join(SENSITIVITY)}')
        loss, coefficients = SENSITIVITY[method]
        for coefficient in coefficients:
            config = _configured(make_config(method), seed, None, pretrained)
            # The default is a run of the tables too.
            is_default = config.metric[loss].coefficient == coefficient
            name = f'{method}/{seed}' if is_default else f'{method}/{coefficient:g}/{seed}'
            config.metric[loss].coefficient = coefficient
            runs.append(PlannedRun(name, config.lock()))
    return runs


def parse_methods(text: str | None) -> list[str] | None:
    """The methods of a flag: a comma-separated list, or 'all' of the package."""
    if text is None:
        return None
    names = dict.fromkeys(METHODS if text == 'all' else text.split(','))
    for name in names:
        get_method(name)
    return list(names)


def _seeds(number: int) -> range:
    if number < 1:
        raise InputError(f'--seeds is {number}; it must be 1 or more')
    return range(number)


def _configured(
    config: ConfigDict, seed: int, model: str | None, pretrained: str | None
) -> ConfigDict:
    config = ConfigDict(config.copy_and_resolve_references())
    config.seed = seed
    if model is not None:
        config.model.name = model
    if pretrained is not None:
        config.model.pretrained = pretrained.replace('{model}', config.model.name)
    config.figures = False  # the report draws its own
    return config


def _override(config: ConfigDict, text: str) -> None:
    """Sets FIELD=VALUE by the parser of `--config.FIELD=VALUE`."""
    field = text.partition('=')[0]
    if field in _GRID_FIELDS:
        raise InputError(f'--override is {text!r}; {field} is set by {_GRID_FIELDS[field]}')
    argv, values = quote_names(['', f'--override.{text}']), flags.FlagValues()
    try:
        config_flags.DEFINE_config_dict('override', config, flag_values=values, sys_argv=argv)
        values(argv)
    except (AttributeError, KeyError):
        raise InputError(f'--override is {text!r}; the config has no field {field}') from None
    except flags.Error as error:
        raise InputError(f'--override is {text!r}; use FIELD=VALUE ({error})') from None
