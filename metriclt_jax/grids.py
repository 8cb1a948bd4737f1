"""The runs that a table or a figure of the paper asks for, as data."""

import ast
import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict

from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS, get_method
from metriclt_jax.reports.published import distinct, methods_of, table_values
from metriclt_jax.training.workdir import config_as_json

# Makes the config of a method.
MakeConfig = Callable[[str], ConfigDict]

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
    folder: Path, dataset: str, scale: str | None = None, overrides: Sequence[str] = ()
) -> MakeConfig:
    """Makes configs from the file `folder`/`dataset`.py.

    Args:
        folder: the config files.
        dataset: name of the file.
        scale: as in `--config=FILE:METHOD,scale=NAME`; None takes the file's default.
        overrides: texts FIELD=VALUE, such as 'stage1.epochs=20'.

    Raises:
        InputError: there is no such file; the returned function raises for an unknown scale or an
            impossible override.
    """
    path = folder / f'{dataset}.py'
    if not path.is_file():
        names = ', '.join(sorted(file.stem for file in folder.glob('*.py')))
        raise InputError(
            f'there is no config file {path}; use one of --dataset={names or "(none)"}, or '
            '--configs=FOLDER'
        )
    spec = importlib.util.spec_from_file_location(f'metriclt_config_{dataset}', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

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
) -> list[PlannedRun]:
    """The runs of table 2, 3, 4 (with both of its backbones) or 5, in the order to train them.

    Args:
        make_config: from `config_maker`.
        table: number of the table.
        seeds: how many, from 0 on.
        methods: rows; None takes those of the table.
        pretrained: weights, in which '{model}' stands for the backbone; None takes the config's.

    Raises:
        InputError: an argument is impossible.
    """
    runs = []
    for seed in _seeds(seeds):
        for model in distinct(table_values(4), 'model') if table == 4 else [None]:
            for method in methods or methods_of(table):
                config = _configured(make_config(method), seed, model, pretrained)
                name = '/'.join(part for part in (model, method, str(seed)) if part)
                runs.append(PlannedRun(name, config.lock()))
    return _first_stages_together(runs)


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
    for seed in _seeds(seeds):
        for method in methods or SENSITIVITY:
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
    names = list(METHODS) if text == 'all' else text.split(',')
    for name in names:
        get_method(name)
    return list(dict.fromkeys(names))


def _first_stages_together(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs in their order, but those that share a first stage directly after each other."""
    first = {}
    for position, run in enumerate(runs):
        first.setdefault(run.first_stage, position)
    return sorted(runs, key=lambda run: first[run.first_stage])


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
    field, equals, value = text.partition('=')
    problem = f'--override is {text!r}'
    if not equals:
        raise InputError(f'{problem}; it must be FIELD=VALUE, such as stage1.epochs=20')
    if field in _GRID_FIELDS:
        raise InputError(f'{problem}; {field} is set by {_GRID_FIELDS[field]}')
    *groups, name = field.split('.')
    try:
        group = config
        for part in groups:
            group = group[part]
        old = group[name]
    except (KeyError, TypeError):
        raise InputError(f'{problem}; the config has no field {field}') from None
    if isinstance(old, ConfigDict):
        raise InputError(f'{problem}; {field} is a group of fields')
    if not isinstance(old, str):
        with contextlib.suppress(ValueError, SyntaxError):  # a text without quotation marks
            value = ast.literal_eval(value)
    try:
        group[name] = value
    except (ValueError, TypeError) as error:
        raise InputError(f'{problem}; {" ".join(str(error).split())}') from None
