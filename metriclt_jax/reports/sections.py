"""Sorts runs into what may be compared: sections, and in them rows that differ in the seed only.

Runs of a section have the same data set, backbone and settings. A row is a method with its own
settings (the coefficient of its metric loss, say) over several seeds. So runs with different
settings are never averaged, and the fields in which sections and rows differ name them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from metriclt_jax.config import paper_config
from metriclt_jax.methods import METHODS
from metriclt_jax.reports.names import dataset_title, method_title, model_title
from metriclt_jax.reports.runs import Problem, Run, flatten

# Fields that have no influence on the numbers, and those that name the section, row and run.
_NO_SETTINGS = (
    'checkpoint_every',
    'data.data_dir',
    'data.name',
    'evaluation.batch_size',
    'evaluation.every',
    'figures',
    'method',
    'model.name',
    'num_devices',
    'seed',
)
_OF_DATA_SETS = ('data.groups', 'data.major', 'data.minor')
_OF_METHODS = ('metric.', 'classification.', 'mixing.', 'weighting.', 'second_heads.')
UNKNOWN_SETTINGS = 'config.json'  # the field that differs where there is none


@dataclass(frozen=True, eq=False)
class Row:
    """A method of a section, over its seeds.

    Attributes:
        method: name of the row.
        settings: what is the method's own among its settings, by dotted field.
        runs: one a seed, in their order.
        variant_fields: the settings that tell it from the section's other rows of the method.
        stage: index of the stage whose result it is; not the last one where the row is read off
            the first stage of another method.
    """

    method: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    variant_fields: tuple[str, ...] = ()
    stage: int = -1

    @property
    def variant(self) -> str:
        """The settings that tell it apart, as words."""
        short = {f.rpartition('.')[2]: self.settings.get(f) for f in self.variant_fields}
        if len(short) == len(self.variant_fields):
            return describe(short, list(short))
        return describe(self.settings, self.variant_fields)

    @property
    def title(self) -> str:
        """Name in print."""
        title = method_title(self.method)
        return f'{title} ({self.variant})' if self.variant else title

    def summaries(self, stage: int | None = None) -> dict[int, Mapping[str, Any]]:
        """By seed, the test metrics at the end of a stage (the row's own if None)."""
        stage = self.stage if stage is None else stage
        ends = {run.seed: run.results['stages'][stage]['last']['test'] for run in self.runs}
        return {seed: summary for seed, summary in ends.items() if summary is not None}

    def values(self, metric: str, stage: int | None = None) -> dict[int, float]:
        """By seed, a metric at the end of a stage, as a fraction."""
        return {seed: summary[metric] for seed, summary in self.summaries(stage).items()}


@dataclass(frozen=True, eq=False)
class Section:
    """Rows that may be compared with each other.

    Attributes:
        dataset: as `results.json` names it.
        model: backbone.
        settings: by dotted field, the same in all rows; None where runs have no config.
        differing: the fields that tell it from the other sections of the data set and backbone.
        rows: in the paper's order of methods.
    """

    dataset: str
    model: str
    settings: Mapping[str, Any] | None
    rows: tuple[Row, ...]
    differing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Name in print, with the settings that tell it from its likes."""
        title = f'{dataset_title(self.dataset)}, {model_title(self.model)}'
        if not self.differing:
            return title
        if self.settings is None:
            return f'{title} (settings unknown: no config.json)'
        return f'{title} ({describe(self.settings, self.differing)})'

    @property
    def results(self) -> Mapping[str, Any]:
        """The results of any run, for class names, groups and training counts."""
        return self.rows[0].runs[0].results


def make_sections(runs: Sequence[Run]) -> tuple[list[Section], list[Problem]]:
    """Sorts runs into sections and rows.

    Returns:
        The sections, by data set and backbone, and a problem for each run that repeats another one
        (the same settings, method and seed): it is left out, so that no seed counts twice.
    """
    problems, groups = [], {}
    for run in runs:
        shared, own = _settings(run)
        classes = [run.results[name] for name in ('class_names', 'train_counts', 'groups')]
        section = (run.results['dataset'], run.results['model'], _key([shared, classes]))
        seeds = groups.setdefault(section, {}).setdefault((run.method, _key(own)), {})
        if run.seed in seeds:
            same = run.results['final'] == seeds[run.seed].results['final']
            problems.append(
                Problem(
                    run.path,
                    f'repeats {seeds[run.seed].path} (same settings, method and seed; '
                    f'{"same" if same else "other"} numbers) and is left out',
                )
            )
        else:
            seeds[run.seed] = run
    sections = [
        Section(dataset, model, _settings(_any_run(rows))[0], _make_rows(rows))
        for (dataset, model, _), rows in sorted(groups.items())
    ]
    return _tell_apart(sections), problems


def with_first_stages(rows: Sequence[Row]) -> list[Row]:
    """Adds the rows that were not run and are the first stage of one that was: `ce` of `ce_crw`."""
    present = {row.method for row in rows}
    added = []
    for row in rows:
        name = first_stage_method(row.method)
        if name is not None and name not in present and row.summaries(0) and not row.variant:
            present.add(name)
            added.append(replace(row, method=name, stage=0))
    return sorted([*rows, *added], key=_by_method)


def first_stage_method(method: str) -> str | None:
    """The row that the first stage of a two-stage row is by itself; None if there is none.

    >>> first_stage_method('ce_sc_crw'), first_stage_method('ce')
    ('ce_sc', None)
    """
    if method not in METHODS or METHODS[method].second_stage is None:
        return None
    alone = replace(METHODS[method], second_stage=None)
    return next((name for name, other in METHODS.items() if other == alone), None)


def without_studies(rows: Sequence[Row]) -> list[Row]:
    """Leaves out rows that differ from the method's default row in a coefficient only."""
    kept = []
    for row in rows:
        field = coefficient_field(row.method)
        default = field and default_settings().get(field)
        others = [
            other
            for other in rows
            if other is not row
            and other.method == row.method
            and other.settings.get(field) == default
            and _without(other.settings, field) == _without(row.settings, field)
        ]
        if not others or row.settings.get(field) == default:
            kept.append(row)
    return _name_variants(kept)


def coefficient_field(method: str) -> str | None:
    """The config field of the coefficient of a method's metric loss, if it has one.

    >>> coefficient_field('ce_tp_crw')
    'metric.triplet.coefficient'
    """
    metric = METHODS[method].metric if method in METHODS else None
    return metric and f'metric.{metric}.coefficient'


def studies(section: Section) -> list[list[Row]]:
    """Sets of two rows or more that differ in the coefficient of the metric loss only, by it."""
    groups = {}
    for row in section.rows:
        field = coefficient_field(row.method)
        if field in row.settings and row.stage == -1:
            rest = _without(row.settings, field)
            groups.setdefault((row.method, _key(rest)), []).append(row)
    return [
        sorted(rows, key=lambda row: row.settings[coefficient_field(row.method)])
        for rows in groups.values()
        if len(rows) > 1
    ]


@cache
def default_settings() -> Mapping[str, Any]:
    """Every field of the default config, the paper's recipe, by its dotted name."""
    return flatten(paper_config().to_dict())


def unlike_default(settings: Mapping[str, Any]) -> list[str]:
    """The fields whose values are not the defaults; a data set's own groups of classes aside."""
    defaults = default_settings()
    return [
        field
        for field, value in settings.items()
        if field not in _OF_DATA_SETS and _key(value) != _key(defaults.get(field))
    ]


def describe(settings: Mapping[str, Any], fields: Sequence[str]) -> str:
    """Settings as words.

    >>> describe({'stage1.epochs': 10, 'seed': 0}, ['stage1.epochs'])
    'stage1.epochs=10'
    """
    return ', '.join(f'{field}={settings.get(field)}' for field in fields)


def _settings(run: Run) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """What a run shares with other methods, and what is its method's own."""
    if run.config is None:
        return None, {}
    config = {name: value for name, value in run.config.items() if name not in _NO_SETTINGS}
    start = run.results.get('pretrained')
    if start:  # the file's path may differ between machines, its content may not
        config['model.pretrained'] = f'{start["file"]} ({start["sha256"][:8]})'
    shared = {n: value for n, value in config.items() if not n.startswith(_OF_METHODS)}
    used = _own_prefixes(run.method)
    own = {name: value for name, value in config.items() if name.startswith(used)}
    return shared, own


def _own_prefixes(name: str) -> tuple[str, ...]:
    """The parts of the config that a method uses; all of them for a row from elsewhere."""
    if name not in METHODS:
        return _OF_METHODS
    method = METHODS[name]
    second = method.second_stage
    weighted = {method.weighting, second.weighting if second else 'uniform'} != {'uniform'}
    return (
        *([f'metric.{method.metric}.'] if method.metric else []),
        *([f'classification.{method.classification}.'] if method.classification else []),
        *([f'mixing.{method.mixing}.'] if method.mixing else []),
        *(['weighting.'] if weighted else []),
        *([f'second_heads.{second.head}.'] if second else []),
    )


def _make_rows(groups: Mapping[tuple[str, str], Mapping[int, Run]]) -> tuple[Row, ...]:
    rows = []
    for (method, _), seeds in groups.items():
        runs = tuple(seeds[seed] for seed in sorted(seeds))
        rows.append(Row(method, _settings(runs[0])[1], runs))
    return tuple(_name_variants(rows))


def _name_variants(rows: Sequence[Row]) -> list[Row]:
    """The rows in the paper's order, each with the fields that tell it from its likes."""
    named = []
    for row in rows:
        likes = [other.settings for other in rows if other.method == row.method]
        named.append(replace(row, variant_fields=tuple(differing_fields(likes))))
    return sorted(named, key=_by_method)


def differing_fields(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields whose values are not the same everywhere.

    >>> differing_fields([{'a': 1, 'b': 2}, {'a': 1, 'b': 3}])
    ['b']
    """
    fields = dict.fromkeys(field for one in settings for field in one)
    return [field for field in fields if len({_key(one.get(field)) for one in settings}) > 1]


def _tell_apart(sections: Sequence[Section]) -> list[Section]:
    named = []
    for section in sections:
        likes = [s for s in sections if (s.dataset, s.model) == (section.dataset, section.model)]
        known = [like.settings for like in likes if like.settings is not None]
        fields = differing_fields(known)
        if len(known) < len(likes) and section.settings is None:
            fields = [UNKNOWN_SETTINGS]
        for name in ('train_counts', 'class_names', 'groups'):  # other data under the same name
            if not fields and len({_key(like.results[name]) for like in likes}) > 1:
                fields = [name]
                section = replace(
                    section, settings={**(section.settings or {}), name: section.results[name]}
                )
        named.append(replace(section, differing=tuple(fields)))
    return named


def _by_method(row: Row) -> tuple[int, str, str]:
    order = list(METHODS)
    place = order.index(row.method) if row.method in order else len(order)
    return place, row.method, row.variant


def _any_run(rows: Mapping[tuple[str, str], Mapping[int, Run]]) -> Run:
    return next(iter(next(iter(rows.values())).values()))


def _without(settings: Mapping[str, Any], field: str | None) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != field}


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
