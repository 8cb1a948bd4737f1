"""Sorts runs into what may be compared.

A section has the same data set, backbone and shared settings; a row is a method with its own
settings (the coefficient of its metric loss, say) over several seeds. So runs with different
settings are never averaged, and the fields in which sections and rows differ name them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from metriclt_jax.config import FIELDS_WITHOUT_INFLUENCE, paper_config
from metriclt_jax.methods import METHODS
from metriclt_jax.reports.published import method_title, setting_title
from metriclt_jax.reports.runs import Problem, Run, flatten

# Fields that name the section, row and run, and those that change rounding or which epoch counts as
# the best one: the report averages over the latter, as over seeds.
_NOT_COMPARED = (
    *FIELDS_WITHOUT_INFLUENCE,
    *('data.name', 'method', 'model.name', 'seed'),
    *('evaluation.batch_size', 'evaluation.every', 'num_devices'),
)
_OF_DATA_SETS = ('data.groups', 'data.major', 'data.minor')
_OF_METHODS = ('metric.', 'classification.', 'mixing.', 'weighting.', 'second_heads.')
_OF_DATA = ('train_counts', 'class_names', 'groups')  # in results.json
_MCR_ORDER = ('mcr_all', 'mcr_major', 'mcr_medium', 'mcr_minor')


@dataclass(frozen=True, eq=False)
class Row:
    """A method with its own settings, over its seeds.

    Attributes:
        method: name of the method.
        settings: the settings that only some methods have, by dotted field.
        runs: in the order of their seeds.
        variant_fields: the settings that tell it from the section's other rows of the method.
        stage: 'last', or '1' where the row is the first stage of another method's runs.
        in_tables: False where it is only in a sensitivity study.
    """

    method: str
    settings: Mapping[str, Any]
    runs: tuple[Run, ...]
    variant_fields: tuple[str, ...] = ()
    stage: str = 'last'
    in_tables: bool = True

    @property
    def variant(self) -> str:
        """The settings that tell it apart, as words."""
        short = {f.rpartition('.')[2]: self.settings.get(f) for f in self.variant_fields}
        if len(short) == len(self.variant_fields):
            return _words(short, short)
        return _words(self.settings, self.variant_fields)

    @property
    def title(self) -> str:
        """Its name in print, with a star for a first stage."""
        variant = f' ({self.variant})' if self.variant else ''
        return method_title(self.method) + variant + (' *' if self.stage == '1' else '')

    @property
    def coefficient(self) -> float | None:
        """That of its metric loss."""
        return self.settings.get(coefficient_field(self.method))


@dataclass(frozen=True, eq=False)
class Section:
    """Rows that may be compared with each other.

    Attributes:
        dataset: as `results.json` names it.
        model: backbone.
        settings: by dotted field, the same in all rows; None where runs have no config.
        rows: those of the tables in the paper's order, then those of sensitivity studies only.
        studies: sets of rows that differ in the coefficient of the metric loss only, by it.
        differing: the fields that tell it from the other sections of the data set and backbone.
    """

    dataset: str
    model: str
    settings: Mapping[str, Any] | None
    rows: tuple[Row, ...]
    studies: tuple[tuple[Row, ...], ...]
    differing: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """Its name in print, with the settings that tell it from its likes."""
        title = setting_title(self.dataset, self.model)
        if not self.differing:
            return title
        if self.settings is None:
            return f'{title} (settings unknown: no config.json)'
        return f'{title} ({_words(self.settings, self.differing)})'

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
        groups = {f'mcr_{name}': members for name, members in self.results['groups'].items()}
        groups['mcr_all'] = list(range(len(self.results['class_names'])))
        order = [name for name in _MCR_ORDER if name in groups]
        return {name: groups[name] for name in dict.fromkeys([*order, *groups])}

    def with_methods(self, methods: Sequence[str]) -> 'Section':
        """Only the rows and studies of some methods, in this order."""
        rows = [row for row in self.rows if row.method in methods]
        rows.sort(key=lambda row: (not row.in_tables, methods.index(row.method)))
        studies = [study for study in self.studies if study[0].method in methods]
        return replace(self, rows=tuple(rows), studies=tuple(studies))


def make_sections(runs: Sequence[Run]) -> tuple[list[Section], list[Problem]]:
    """Sorts runs into sections and rows.

    Returns:
        The sections, by data set and backbone, and a problem for each run that repeats another one
        (the same settings, method and seed): it is left out, so that no seed counts twice.
    """
    problems, groups = [], {}
    for run in runs:
        shared, own = _settings(run)
        data = [run.results[name] for name in _OF_DATA]
        section = (run.results['dataset'], run.results['model'], _key([shared, data]))
        rows = groups.setdefault(section, (shared, {}))[1]
        _, seeds = rows.setdefault((run.results['method'], _key(own)), (own, {}))
        other = seeds.setdefault(run.results['seed'], run)
        if other is not run:
            same = 'same' if run.results['final'] == other.results['final'] else 'other'
            problems.append(
                Problem(
                    run.path,
                    f'left out: repeats {other.path} (same settings, method and seed; {same} '
                    'numbers)',
                )
            )
    sections = []
    for (dataset, model, _), (shared, rows) in sorted(groups.items(), key=lambda item: item[0]):
        made = [
            Row(method, own, tuple(seeds[seed] for seed in sorted(seeds)))
            for (method, _), (own, seeds) in rows.items()
        ]
        sections.append(Section(dataset, model, shared, *_rows_and_studies(made)))
    return [_tell_apart(section, sections) for section in sections], problems


def _rows_and_studies(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[tuple[Row, ...], ...]]:
    """Rows of the tables with first stages, then the others; and the studies of a coefficient."""
    named = _name_variants(rows)
    groups = {}
    for row in named:
        if row.coefficient is not None:
            groups.setdefault((row.method, _key(_but_coefficient(row))), []).append(row)
    studies = [sorted(group, key=lambda row: row.coefficient) for group in groups.values()]
    studies = [study for study in studies if len(study) > 1]
    left_out = set()  # of the tables, where a study has the default coefficient
    for study in studies:
        default = default_settings().get(coefficient_field(study[0].method))
        others = [row.runs for row in study if row.coefficient != default]
        if len(others) < len(study):
            left_out.update(others)
    main = _name_variants([row for row in named if row.runs not in left_out])
    final = {row.runs: replace(row, in_tables=False) for row in named if row.runs in left_out}
    final |= {row.runs: row for row in main}
    studies = tuple(tuple(final[row.runs] for row in study) for study in studies)
    extra = [row for study in studies for row in study if not row.in_tables]
    return (*_with_first_stages(main), *extra), studies


def _with_first_stages(rows: Sequence[Row]) -> list[Row]:
    """Adds methods that were not run but are the first stage of one that was: `ce` of `ce_crw`."""
    added = {row.method: None for row in rows}
    for row in rows:
        name = first_stage_method(row.method)
        trained = any(run.results['stages'][0]['last']['test'] for run in row.runs)
        if name is not None and name not in added and trained and not row.variant:
            added[name] = replace(row, method=name, stage='1')
    return sorted([*rows, *filter(None, added.values())], key=_by_method)


def first_stage_method(method: str) -> str | None:
    """The method that the first stage of a two-stage method is by itself; None if there is none.

    >>> first_stage_method('ce_sc_crw'), first_stage_method('ce')
    ('ce_sc', None)
    """
    if method not in METHODS or METHODS[method].second_stage is None:
        return None
    alone = replace(METHODS[method], second_stage=None)
    return next((name for name, other in METHODS.items() if other == alone), None)


def coefficient_field(method: str) -> str | None:
    """The config field of the coefficient of a method's metric loss, if it has one.

    >>> coefficient_field('ce_tp_crw')
    'metric.triplet.coefficient'
    """
    metric = METHODS[method].metric if method in METHODS else None
    return metric and f'metric.{metric}.coefficient'


@cache
def default_settings() -> Mapping[str, Any]:
    """Every field of the default config, the paper's recipe, by its dotted name."""
    return flatten(paper_config().to_dict())


def unlike_default(settings: Mapping[str, Any]) -> list[str]:
    """The fields whose values are not the defaults, apart from a data set's own class groups."""
    return [
        field
        for field, value in settings.items()
        if field not in _OF_DATA_SETS and _key(value) != _key(default_settings().get(field))
    ]


def _tell_apart(section: Section, sections: Sequence[Section]) -> Section:
    likes = [s for s in sections if (s.dataset, s.model) == (section.dataset, section.model)]
    known = [like.settings for like in likes if like.settings is not None]
    fields = _differing(known)
    if len(known) < len(likes) and section.settings is None:
        fields = ['config.json']
    settings = section.settings
    alike = [like for like in likes if _key(like.settings) == _key(settings)]
    for name in _OF_DATA:  # other data under the same name
        if len({_key(like.results[name]) for like in alike}) > 1:
            fields.append(name)
            settings = {**(settings or {}), name: section.results[name]}
            break
    return replace(section, settings=settings, differing=tuple(fields))


def _name_variants(rows: Sequence[Row]) -> list[Row]:
    """The rows in the paper's order, each with the fields that tell it from its likes."""
    named = []
    for row in rows:
        likes = [other.settings for other in rows if other.method == row.method]
        named.append(replace(row, variant_fields=tuple(_differing(likes))))
    return sorted(named, key=_by_method)


def _differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The fields whose values are not the same everywhere."""
    fields = dict.fromkeys(field for one in settings for field in one)
    return [field for field in fields if len({_key(one.get(field)) for one in settings}) > 1]


def _by_method(row: Row) -> tuple[int, str, str]:
    order = list(METHODS)
    place = order.index(row.method) if row.method in order else len(order)
    return place, row.method, row.variant


def _but_coefficient(row: Row) -> dict[str, Any]:
    field = coefficient_field(row.method)
    return {name: value for name, value in row.settings.items() if name != field}


def _settings(run: Run) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """The settings that a run shares with other methods, and those that only its method has."""
    if run.config is None:
        return None, {}
    config = {name: value for name, value in run.config.items() if name not in _NOT_COMPARED}
    start = run.results.get('pretrained')
    if start:  # the file's path may differ between machines, its content may not
        config['model.pretrained'] = f'{start["file"]} ({start["sha256"][:8]})'
    shared = {n: value for n, value in config.items() if not n.startswith(_OF_METHODS)}
    used = _own_prefixes(run.results['method'])
    return shared, {name: value for name, value in config.items() if name.startswith(used)}


def _own_prefixes(name: str) -> tuple[str, ...]:
    """The parts of the config that a method uses; all of them for an unknown method."""
    if name not in METHODS:
        return _OF_METHODS
    method, second = METHODS[name], METHODS[name].second_stage
    prefixes = {
        f'metric.{method.metric}.': method.metric,
        f'classification.{method.classification}.': method.classification,
        f'mixing.{method.mixing}.': method.mixing,
        'weighting.': {method.weighting, second.weighting if second else 'uniform'} != {'uniform'},
        f'second_heads.{second and second.head}.': second,
    }
    return tuple(prefix for prefix, used in prefixes.items() if used)


def _words(settings: Mapping[str, Any], fields: Sequence[str]) -> str:
    return ', '.join(f'{field}={settings.get(field)}' for field in fields)


def _key(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)
