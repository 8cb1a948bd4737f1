"""Which runs a table or a figure of the paper asks for, as data."""

import ast
import contextlib
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ml_collections import ConfigDict

from metriclt_jax.config import validate
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS, get_method
from metriclt_jax.reports.published import distinct, methods_of, table_values
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.workdir import config_as_json

# What a config makes of a method's name.
MakeConfig = Callable[[str], ConfigDict]

# Figure 2 shows the range in which the paper finds each coefficient stable, and its surroundings:
# the ends of the range, the default, and one value on either side.
SENSITIVITY = {
    'ce_ct_crw': ('center', (0.00001, 0.00005, 0.001, 0.004, 0.02)),
    'ce_tp_crw': ('triplet', (0.00001, 0.00005, 0.001, 0.01, 0.05)),
    'ce_sc_crw': ('supervised_contrastive', (0.01, 0.04, 1.0, 1.8, 5.0)),
}


_OF_THE_GRID = {
    'method': '--methods',
    'seed': '--seeds',
    'figures': 'no flag: the report draws the figures',
}


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid.

    Attributes:
        name: its work directory, below that of the grid.
        config: as `train.py` would have it.
    """

    name: str
    config: ConfigDict

    @cached_property
    def first_stage(self) -> tuple:
        """All that the first stage depends on: runs in which it is equal can share one training."""
        fields = config_as_json(self.config)
        for name in ('method', 'stage2', 'second_heads'):
            del fields[name]
        return replace(get_method(self.config.method), second_stage=None), fields


def config_maker(
    folder: Path, dataset: str, scale: str | None = None, overrides: Sequence[str] = ()
) -> MakeConfig:
    """What makes the config of a method, from the file `folder`/`dataset`.py.

    Args:
        folder: where the config files are.
        dataset: name of the file.
        scale: as in `--config=FILE:METHOD,scale=NAME`; None for the file's default.
        overrides: texts FIELD=VALUE, such as 'stage1.epochs=20'.

    Raises:
        InputError: there is no such file; later, from the function, an impossible scale or field.
    """
    path = folder / f'{dataset}.py'
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob('*.py')) or ['none is in there']
        raise InputError(
            f'there is no config file {path}; allowed as --dataset: {", ".join(names)} '
            '(--configs names another folder)'
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


def _override(config: ConfigDict, text: str) -> None:
    field, equals, value = text.partition('=')
    if not equals:
        raise InputError(f'--override is {text!r}; allowed: FIELD=VALUE, as stage1.epochs=20')
    if field in _OF_THE_GRID:
        raise InputError(f'--override is {text!r}; {field} is set by {_OF_THE_GRID[field]}')
    *groups, name = field.split('.')
    try:
        group = config
        for part in groups:
            group = group[part]
        old = group[name]
    except (KeyError, TypeError):
        raise InputError(
            f'--override is {text!r}; there is no field {field} in the config'
        ) from None
    if isinstance(old, ConfigDict):
        raise InputError(f'--override is {text!r}; {field} is a group of fields')
    if not isinstance(old, str):
        with contextlib.suppress(ValueError, SyntaxError):  # a text without quotation marks
            value = ast.literal_eval(value)
    try:
        group[name] = value
    except (ValueError, TypeError) as error:
        reason = ' '.join(str(error).split())
        raise InputError(f'--override is {text!r}, which cannot be its value: {reason}') from None


def table_grid(
    make_config: MakeConfig,
    table: int,
    seeds: int,
    methods: Sequence[str] | None = None,
    pretrained: str | None = None,
) -> list[PlannedRun]:
    """The runs of table 2, 3, 4 or 5, in the order in which they are best done.

    Args:
        make_config: from `config_maker`.
        table: number of the table. That of table 4 are trained with both of its backbones.
        seeds: how many, from 0 on.
        methods: rows; those of the table if None.
        pretrained: weights, where '{model}' stands for the name of the backbone; the config's if
            None.

    Raises:
        InputError: something is not allowed.
    """
    models = [None]
    if table == 4:
        models = distinct(table_values(4), 'model')
    runs = []
    for seed in _seeds(seeds):
        for model in models:
            for method in methods or methods_of(table):
                config = _copy(make_config(method), seed, model, pretrained)
                name = '/'.join(part for part in (model, method, str(seed)) if part)
                runs.append(PlannedRun(name, config))
    return first_stages_together(runs)


def figure_grid(
    make_config: MakeConfig,
    seeds: int,
    methods: Sequence[str] | None = None,
    pretrained: str | None = None,
) -> list[PlannedRun]:
    """The runs of figure 2: each metric loss with coefficients over the paper's range.

    `methods` are keys of SENSITIVITY, all if None; see `table_grid` for the rest.
    """
    runs = []
    for method in methods or SENSITIVITY:
        if method not in SENSITIVITY:
            raise InputError(
                f'--methods has {method}, which is not in figure 2; allowed: '
                f'{", ".join(SENSITIVITY)}'
            )
    for seed in _seeds(seeds):
        for method in methods or SENSITIVITY:
            loss, coefficients = SENSITIVITY[method]
            for coefficient in coefficients:
                config = _copy(make_config(method), seed, None, pretrained)
                # The default is also a run of the tables.
                is_default = config.metric[loss].coefficient == coefficient
                name = f'{method}/{seed}' if is_default else f'{method}/{coefficient:g}/{seed}'
                with config.unlocked():
                    config.metric[loss].coefficient = coefficient
                runs.append(PlannedRun(name, config))
    return runs


def first_stages_together(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs in their order, but those that share a first stage follow its first one."""
    groups: list[list[PlannedRun]] = []
    for run in runs:
        for group in groups:
            if run.first_stage == group[0].first_stage:
                group.append(run)
                break
        else:
            groups.append([run])
    return [run for group in groups for run in group]


def refuse_impossible(planned: Sequence[PlannedRun]) -> None:
    """Checks all configs as far as that is possible without data.

    Raises:
        InputError: the rows that cannot be trained, why the first of them cannot, and the
            `--methods` that leaves them out.
    """
    reasons = {}
    for one in planned:
        try:
            validate(one.config)
            make_models(one.config, make_stages(one.config), num_classes=2)
        except InputError as error:
            reasons.setdefault((one.config.model.name, one.config.method), str(error))
    if not reasons:
        return
    refused = dict.fromkeys(method for _, method in reasons)
    rest = dict.fromkeys(one.config.method for one in planned if one.config.method not in refused)
    models = ' and '.join(dict.fromkeys(model for model, _ in reasons))
    reason = next(iter(reasons.values()))
    text = f'{", ".join(refused)} cannot be trained here with {models}: {reason}'
    raise InputError(text + (f'; allowed: --methods={",".join(rest)}' if rest else ''))


def parse_methods(text: str | None) -> list[str] | None:
    """The methods of a flag: a comma-separated list, 'all' of the package, or None for none."""
    if text is None:
        return None
    names = list(METHODS) if text == 'all' else text.split(',')
    for name in names:
        get_method(name)
    return list(dict.fromkeys(names))


def _seeds(number: int) -> range:
    if number < 1:
        raise InputError(f'--seeds is {number}; allowed: 1 or more')
    return range(number)


def _copy(config: ConfigDict, seed: int, model: str | None, pretrained: str | None) -> ConfigDict:
    config = ConfigDict(config.copy_and_resolve_references())
    config.seed = seed
    if model is not None:
        config.model.name = model
    if pretrained is not None:
        config.model.pretrained = pretrained.replace('{model}', config.model.name)
    config.figures = False  # the report draws its own
    return config.lock()
