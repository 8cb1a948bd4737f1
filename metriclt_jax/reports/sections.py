"""Sorts runs into what may be compared; runs with different settings are never averaged.

A section has the same data set, backbone and shared settings; a row is a method with its own
settings (the coefficient of its metric loss, say) over several seeds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from metriclt_jax.config import FIELDS_WITHOUT_INFLUENCE, paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS
from metriclt_jax.reports.published import method_title, setting_title
from metriclt_jax.reports.runs import Problem, Run, flatten

Settings = Mapping[str, Any]  # by dotted field

# Fields that name the section, row and run, and those that hardly matter.
_NOT_COMPARED = (
    *FIELDS_WITHOUT_INFLUENCE,
    *('data.name', 'data.fold', 'method', 'model.name', 'seed'),
    *('evaluation.batch_size', 'evaluation.every', 'num_devices'),
)
_OF_DATA_SETS = ('data.groups', 'data.major', 'data.minor')
_OF_METHODS = ('metric.', 'classification.', 'mixing.', 'weighting.', 'second_heads.')
_OF_DATA = ('train_counts', 'class_names', 'groups')  # in results.json


@dataclass(frozen=True, eq=False)
class Row:
    """A method with its own settings, over its seeds."""

    method: str
    settings: Settings  # those that only some methods have
    runs: tuple[Run, ...]  # in the order of their seeds
    variant: str = ''  # the settings that tell it from the section's other rows of the method
    variant_fields: Sequence[str] = ()  # their config fields
    stage: str = 'last'  # or '1' where it is the first stage of another method's runs
    in_tables: bool = True  # False where it is only in a sensitivity study

    @property
    def title(self) -> str:
        """Its name in print, with a star for a first stage."""
        variant = f' ({self.variant})' if self.variant else ''
        return method_title(self.method) + variant + (' *' if self.stage == '1' else '')

    @property
    def seeds(self) -> tuple[int, ...]:
        """Those of its runs."""
        return tuple(run.results['seed'] for run in self.runs)

    @property
    def validation_recall(self) -> float:
        """Mean over its trainings of the MCR on the validation part at the end; NaN if unknown."""
        last = [t.results['stages'][-1]['last'] for run in self.runs for t in run.trainings]
        parts = [one['validation'] for one in last]
        return math.nan if None in parts else float(np.mean([part['mcr_all'] for part in parts]))

    @property
    def coefficient(self) -> float | None:
        """That of its metric loss."""
        return self.settings.get(coefficient_field(self.method))


@dataclass(frozen=True, eq=False)
class Section:
    """Rows that may be compared with each other."""

    dataset: str
    model: str
    settings: Settings | None  # the same in all rows; None where runs have no config
    rows: tuple[Row, ...]  # those of the tables in the paper's order, then those of studies only
    title: str = ''
    differing: Sequence[str] = ()  # fields unlike other sections of the data set and backbone

    @property
    def results(self) -> Mapping[str, Any]:
        """The results of any run, for class names, groups and training counts."""
        return self.rows[0].runs[0].results

    @property
    def main_rows(self) -> list[Row]:
        """The rows of the tables."""
        return [row for row in self.rows if row.in_tables]

    @property
    def mcr_classes(self) -> dict[str, list[int]]:
        """The metrics that are mean class recalls, with their classes; 'mcr_all' first."""
        groups = {'all': list(range(len(self.results['class_names']))), **self.results['groups']}
        order = dict.fromkeys(['all', 'major', 'medium', 'minor', *groups])
        return {f'mcr_{name}': groups[name] for name in order if name in groups}

    def with_methods(self, methods: Sequence[str]) -> 'Section':
        """Only the rows of some methods, in this order."""
        rows = [row for row in self.rows if row.method in methods]
        rows.sort(key=lambda row: (not row.in_tables, methods.index(row.method)))
        return replace(self, rows=tuple(rows))


def make_sections(
    runs: Sequence[Run], tuned: Sequence[str] = ()
) -> tuple[list[Section], list[Problem]]:
    """Sorts runs into sections, by data set and backbone; a run that repeats one is a problem.

    The config fields in `tuned` were chosen for each row, so they may differ between rows.
    """
    for field in tuned:
        if field not in default_settings() or field in _NOT_COMPARED:
            raise InputError(
                f'--tuned has {field}, which must be a config field that runs depend on'
            )
    problems, groups = [], {}
    for run in sorted(runs, key=lambda run: run.results['seed']):
        shared, own = _settings(run, tuned)
        data = [run.results[name] for name in ('dataset', 'model', *_OF_DATA)]
        _, rows = groups.setdefault((*data[:2], _key([shared, data])), (shared, {}))
        _, seeds = rows.setdefault((run.results['method'], _key(own)), (own, {}))
        other = seeds.setdefault(run.results['seed'], run)
        if other is not run:
            same = 'same' if run.results['final'] == other.results['final'] else 'other'
            what = f'repeats {other.path} (same settings, method and seed; {same} numbers)'
            problems.append((run.path, f'left out: {what}'))
    sections = []
    for (dataset, model, _), (shared, rows) in sorted(groups.items(), key=lambda item: item[0]):
        made = [Row(name, own, tuple(runs.values())) for (name, _), (own, runs) in rows.items()]
        sections.append(Section(dataset, model, shared, _sort_rows(made)))
    return [_tell_apart(section, sections) for section in sections], problems


def studies(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that differ only in the coefficient of their metric loss, in ascending order."""
    groups = {}
    for row in rows:
        if row.stage == 'last' and row.coefficient is not None:
            others = {**row.settings, coefficient_field(row.method): None}
            groups.setdefault((row.method, _key(others)), []).append(row)
    found = [group for group in groups.values() if len(group) > 1]
    return [sorted(group, key=lambda row: row.coefficient) for group in found]


def _sort_rows(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Rows of the tables, with first stages that were not run alone, then those of studies only."""
    extra = []
    for study in studies(_name_variants(rows)):
        default = default_settings().get(coefficient_field(study[0].method))
        if default in [row.coefficient for row in study]:
            extra += [replace(r, in_tables=False) for r in study if r.coefficient != default]
    left_out = {row.runs for row in extra}
    main = _name_variants([row for row in rows if row.runs not in left_out])
    first = {row.method: None for row in main}
    for row in main:
        name = first_stage_method(row.method)
        runs = tuple(run for run in row.runs if run.results['stages'][0]['last']['test'])
        if name is not None and name not in first and runs and not row.variant:
            first[name] = replace(row, method=name, stage='1', runs=runs)
    return (*sorted([*main, *filter(None, first.values())], key=_by_method), *extra)


def _name_variants(rows: Sequence[Row]) -> list[Row]:
    """The rows in the paper's order, each with the settings that tell it from its likes."""
    named = []
    for row in rows:
        fields = _differing([other.settings for other in rows if other.method == row.method])
        short = [field.rpartition('.')[2] for field in fields]
        names = zip(short if len(set(short)) == len(fields) else fields, fields, strict=True)
        words = ', '.join(f'{name}={row.settings.get(field)}' for name, field in names)
        named.append(replace(row, variant=words, variant_fields=fields))
    return sorted(named, key=_by_method)


def _by_method(row: Row) -> tuple[int, str, str]:
    place = list(METHODS).index(row.method) if row.method in METHODS else len(METHODS)
    return place, row.method, row.variant


def _tell_apart(section: Section, sections: Sequence[Section]) -> Section:
    """Gives a section its title, with the settings in which it differs from its likes."""
    likes = [s for s in sections if (s.dataset, s.model) == (section.dataset, section.model)]
    words = {'config.json': 'settings unknown: no config.json'}
    if section.settings is not None:
        fields = _differing([like.settings for like in likes if like.settings is not None])
        words = {field: f'{field}={section.settings.get(field)}' for field in fields}
    alike = [like.results for like in likes if _key(like.settings) == _key(section.settings)]
    for name in _OF_DATA:  # other data under the same name
        if len({_key(results[name]) for results in alike}) > 1:
            words[name] = f'{name}={section.results[name]}'
            break
    title = setting_title(section.dataset, section.model)
    title += f' ({", ".join(words.values())})' if words else ''
    return replace(section, title=title, differing=tuple(words))


def first_stage_method(method: str) -> str | None:
    """The method that the first stage of a two-stage method is by itself, if there is one."""
    if method not in METHODS or METHODS[method].second_stage is None:
        return None
    alone = replace(METHODS[method], second_stage=None)
    return next((name for name, other in METHODS.items() if other == alone), None)


def coefficient_field(method: str) -> str | None:
    """The config field of the coefficient of a method's metric loss, if it has one."""
    metric = METHODS[method].metric if method in METHODS else None
    return metric and f'metric.{metric}.coefficient'


@cache
def default_settings() -> Settings:
    """Every field of the default config, the paper's recipe, by its dotted name."""
    return flatten(paper_config().to_dict())


def unlike_default(settings: Settings) -> dict[str, tuple]:
    """Values that are not the defaults, each with the default; without a data set's own groups."""
    fields = [f for f in settings if f not in _OF_DATA_SETS]
    pairs = {field: (settings[field], default_settings().get(field)) for field in fields}
    return {field: pair for field, pair in pairs.items() if _key(pair[0]) != _key(pair[1])}


def _settings(run: Run, tuned: Sequence[str]) -> tuple[Settings | None, Settings]:
    """The settings that a run shares with other methods, and those that only its method has."""
    if run.config is None:
        return None, {}
    config = {name: value for name, value in run.config.items() if name not in _NOT_COMPARED}
    start = run.results.get('pretrained')
    if start:  # the file's path may differ between machines, its content may not
        config['model.pretrained'] = f'{start["file"]} ({start["sha256"][:8]})'
    used = _OF_METHODS  # by an unknown method
    if method := METHODS.get(run.results['method']):
        second = method.second_stage
        kinds = {'metric': method.metric, 'classification': method.classification}
        kinds |= {'mixing': method.mixing, 'second_heads': second and second.head}
        used = tuple(f'{part}.{kind}.' for part, kind in kinds.items())
        if {method.weighting, second.weighting if second else 'uniform'} != {'uniform'}:
            used = (*used, 'weighting.')
    own = {n: v for n, v in config.items() if n.startswith(used) or n in tuned}
    shared = {n: v for n, v in config.items() if not n.startswith(_OF_METHODS) and n not in own}
    return shared, own


def _differing(settings: Sequence[Settings]) -> list[str]:
    """The fields whose values are not the same everywhere."""
    fields = dict.fromkeys(field for one in settings for field in one)
    return [field for field in fields if len({_key(one.get(field)) for one in settings}) > 1]


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
