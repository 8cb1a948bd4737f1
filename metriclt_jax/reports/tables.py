"""The tables of a report as plain values, made of the tidy table or of the paper's numbers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from metriclt_jax.methods import METHODS
from metriclt_jax.reports.published import (
    DATASET_TITLES,
    METRIC_TITLES,
    MODEL_TITLES,
    distinct,
    find_published,
    method_title,
    methods_of,
    setting_title,
    table_values,
)
from metriclt_jax.reports.sections import Row, Section, first_stage_method
from metriclt_jax.reports.statistics import best_and_second, seeds_interval
from metriclt_jax.reports.tidy import estimates, trained

WIDE = 15  # more classes than these are rows, not columns

# (method, metric, column) -> mean and deviation in per cent, or None where there is no number.
Values = Callable[[str, str, str], tuple[float, float | None] | None]


@dataclass(frozen=True)
class Column:
    """A column of texts.

    Attributes:
        heading: above the column.
        cells: a text for each row.
        group: above the headings of neighbouring columns.
        words: whether it holds words, which are aligned left; numbers are aligned right.
        marks: 'bold', 'underline' or '' for each cell; none if empty.
    """

    heading: str
    cells: Sequence[str]
    group: str = ''
    words: bool = False
    marks: Sequence[str] = ()


@dataclass(frozen=True)
class Table:
    """Columns of equal length."""

    columns: Sequence[Column]

    @property
    def rows(self) -> list[list[tuple[str, str]]]:
        """(text, mark) of each cell, row by row."""
        marked = [zip(c.cells, c.marks or [''] * len(c.cells), strict=True) for c in self.columns]
        return [list(row) for row in zip(*marked, strict=True)]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(text, number of columns) of each group; empty without groups."""
        spans = []
        for column in self.columns:
            if spans and spans[-1][0] == column.group:
                spans[-1] = (column.group, spans[-1][1] + 1)
            else:
                spans.append((column.group, 1))
        return spans if any(group for group, _ in spans) else []


def from_rows(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> Table:
    """A table from its rows, whose first `words` columns hold words."""
    columns = enumerate(zip(headings, zip(*rows, strict=True), strict=True))
    return Table([Column(name, cells, words=place < words) for place, (name, cells) in columns])


def number(mean: float | None, deviation: float | None = None) -> str:
    """Per cent as the paper prints them; a dash for None and NaN.

    >>> number(86.4321, 0.44), number(-1.5), number(None)
    ('86.43 ± 0.44', '−1.50', '-')
    """
    if pd.isna(mean):
        return '-'
    text = f'{mean:.2f}'.replace('-', '−')
    return text if pd.isna(deviation) else f'{text} ± {deviation:.2f}'


def signed(value: float | None) -> str:
    """A difference in points with its sign.

    >>> signed(1.5), signed(-0.25), signed(0.0), signed(None)
    ('+1.50', '−0.25', '0.00', '-')
    """
    if pd.isna(value):
        return '-'
    value = round(value, 2)
    return '0.00' if value == 0 else f'{value:+.2f}'.replace('-', '−')


def _span(low: float, high: float) -> str:
    return '-' if pd.isna(low) else f'{signed(low)} to {signed(high)}'


def _marks(means: Sequence[float]) -> list[str]:
    return best_and_second([round(mean, 2) for mean in means])


def _texts(section: Section, table: pd.DataFrame, rows: Sequence[Row] = ()) -> pd.DataFrame:
    """Each estimate as text, titles of rows (those of the tables by default) by metrics."""
    found = estimates(table)
    texts = [number(*pair) for pair in zip(found['mean'], found.deviation, strict=True)]
    wide = pd.Series(texts, found.index).unstack('metric')
    titles = [row.title for row in rows or section.main_rows]
    return (
        wide.reindex(index=titles, columns=table.metric.cat.categories).astype(object).fillna('-')
    )


def results_table(section: Section, lines: pd.DataFrame, methods: Sequence[str] = ()) -> Table:
    """Mean class recalls by method, beside the paper's for the same data set and backbone.

    Args:
        section: what the rows are taken from.
        lines: from `tidy.results`.
        methods: those that the table is about, run or not, in the order to print; those that were
            run if empty.
    """
    rows = section.main_rows
    entries = [(row.method, row) for row in rows]
    if methods:
        ran = {method: [row for row in rows if row.method == method] for method in methods}
        entries = [(method, row) for method in methods for row in ran[method] or [None]]
    titles = [row.title if row else method_title(method) for method, row in entries]
    runs = [str(len(trained(row))) if row else '-' for _, row in entries]
    columns = [Column('Method', titles, words=True), Column('Runs', runs)]
    for metric in section.mcr_classes:
        ours = (
            lines[lines.metric == metric]
            .set_index('row')
            .reindex([row.title if row else None for _, row in entries])
        )
        paper = [
            (not row or not row.variant)
            and find_published(section.dataset, section.model, method, metric)
            for method, row in entries
        ]
        title = METRIC_TITLES.get(metric, metric)
        cells = list(map(number, ours['mean'], ours.deviation))
        marks = _marks(ours['mean']) if metric == 'mcr_all' else ()
        if not any(paper):
            columns.append(Column(title, cells, marks=marks))
            continue
        gaps = [
            signed(round(mean, 2) - theirs.mean) if theirs else '-'
            for mean, theirs in zip(ours['mean'], paper, strict=True)
        ]
        columns += [
            Column('here', cells, title, marks=marks),
            Column('paper', [number(*theirs) if theirs else '-' for theirs in paper], title),
            Column('here − paper', gaps, title),
        ]
    return Table(columns)


def stages_table(section: Section, table: pd.DataFrame) -> Table | None:
    """Stage 1 against stage 2 in the rows with two stages; None if there is none."""
    rows = [row for row in section.main_rows if row.stage == 'last']
    rows = [row for row in rows if len(row.runs[0].results['stages']) > 1]
    if not rows:
        return None
    by = ('method', 'variant', 'stage', 'metric')
    found = estimates(table, by)
    alone = [first_stage_method(row.method) for row in rows]
    columns = [
        Column('Method', [row.title for row in rows], words=True),
        Column('Stage 1 alone', ['-' if a is None else method_title(a) for a in alone]),
        Column('Runs', [str(len(row.runs)) for row in rows]),
    ]
    for stage, group in (('1', 'stage 1'), ('last', 'stage 2')):
        for metric in section.mcr_classes:
            keys = [(row.method, row.variant, stage, metric) for row in rows]
            values = found.reindex(pd.MultiIndex.from_tuples(keys, names=by))
            cells = list(map(number, values['mean'], values.deviation))
            columns.append(Column(METRIC_TITLES.get(metric, metric), cells, group))
    gains, spans = [], []
    for row in rows:
        here = table[(table.method == row.method) & (table.variant == row.variant)]
        here = here[here.metric == 'mcr_all']
        ends = here.pivot(index='seed', columns='stage', values='value')
        ends = ends.reindex(columns=['last', '1']).dropna().to_numpy().T
        interval = seeds_interval(*ends)
        gains.append(signed(100 * np.mean(ends[0] - ends[1])) if ends.size else '-')
        spans.append(_span(100 * interval.low, 100 * interval.high) if interval else '-')
    group = 'stage 2 − stage 1'
    return Table([*columns, Column('gain', gains, group), Column('95 % interval', spans, group)])


def further_table(section: Section, table: pd.DataFrame) -> Table:
    """Accuracy, macro F1, macro AUROC and calibration error (ECE) by method."""
    texts, means = _texts(section, table), estimates(table)['mean'].unstack('metric')
    columns = [Column('Method', list(texts.index), words=True)]
    for metric in ('accuracy', 'macro_f1', 'macro_auroc'):
        marks = _marks(means[metric].reindex(texts.index))
        columns.append(Column(METRIC_TITLES[metric], list(texts[metric]), marks=marks))
    return Table([*columns, Column('ECE', list(texts['ece']))])


def head_to_tail(section: Section) -> list[int]:
    """The classes from the most frequent one in training to the rarest."""
    return np.argsort(-np.asarray(section.results['train_counts']), kind='stable').tolist()


def recall_table(section: Section, table: pd.DataFrame) -> Table:
    """Recall of each class by method, classes from the most frequent to the rarest."""
    order, results = head_to_tail(section), section.results
    names = [results['class_names'][c] for c in order]
    counts = pd.DataFrame(
        {
            'training': np.asarray(results['train_counts'])[order],
            'test': np.sum(results['final']['confusion'], axis=1)[order],
        }
    ).astype(str)
    texts = _texts(section, table)[[f'recall {name}' for name in names]]
    if len(names) > WIDE:
        columns = [Column(heading, list(counts[heading])) for heading in counts]
        columns += [Column(title, list(cells)) for title, cells in texts.iterrows()]
        return Table([Column('Class', names, words=True), *columns])
    first = ['images, training', 'images, test', *texts.index]
    columns = [
        Column(name, [*counts.iloc[place], *texts.iloc[:, place]])
        for place, name in enumerate(names)
    ]
    return Table([Column('Method', first, words=True), *columns])


def differences_table(section: Section, lines: pd.DataFrame) -> Table:
    """Differences in a metric with their intervals and verdicts; `lines` of `tidy.differences`."""
    counts = {row.title: len(trained(row)) for row in section.rows}
    common = []
    for line in lines.itertuples():
        most, shared = max(counts[line.first], counts[line.second]), len(line.seeds.split())
        common.append(f'{shared}' if shared == most else f'{shared} of {most}')
    group = '95 % interval over'
    return Table(
        [
            Column('A', list(lines['first']), words=True),
            Column('B', list(lines.second), words=True),
            Column('A − B', list(map(signed, lines.difference))),
            Column('seeds in common', common),
            Column('seeds', list(map(_span, lines.seeds_low, lines.seeds_high)), group),
            Column('images', list(map(_span, lines.images_low, lines.images_high)), group),
            Column('verdict on A', list(lines.verdict), words=True),
        ]
    )


def sensitivity_table(section: Section, table: pd.DataFrame, study: Sequence[Row]) -> Table:
    """Mean class recalls of one method by the coefficient of its metric loss."""
    texts = _texts(section, table, study)
    return Table(
        [
            Column('Coefficient', [f'{row.coefficient:g}' for row in study], words=True),
            Column('Runs', [str(len(row.runs)) for row in study]),
            *(Column(METRIC_TITLES.get(m, m), list(texts[m])) for m in section.mcr_classes),
        ]
    )


def files_table(section: Section) -> Table:
    """Every run of a section, once: its `results.json`, and what it says."""
    rows = sorted(section.rows, key=lambda row: row.stage == 'last')
    runs = {run.path: (run, row) for row in rows for run in row.runs}
    lines = [
        (
            f'{path}/results.json',
            method_title(run.results['method']),
            row.variant or '-',
            str(run.results['seed']),
            number(100 * run.results['final']['mcr_all']),
            'yes' if run.predictions is not None else 'no',
        )
        for path, (run, row) in sorted(runs.items())
    ]
    headings = ('File', 'Method', 'Variant', 'Seed', 'MCR all', 'Predictions kept')
    return from_rows(headings, lines, words=3)


def published_table(table: int) -> Table:
    """A table with the paper's numbers, marked by value. In table 4, columns are the backbones."""
    titles = {
        MODEL_TITLES[model] if table == 4 else DATASET_TITLES[dataset]: (dataset, model)
        for dataset, model in distinct(table_values(table), 'dataset', 'model')
    }
    return arrange(table, list(titles), lambda m, metric, c: find_published(*titles[c], m, metric))


def arrange(table: int, columns: Sequence[str], values: Values) -> Table:
    """A table with the rows and metrics of one of the paper's, for any columns and numbers."""
    methods = methods_of(table)
    made = [Column('Method', [method_title(method) for method in methods], words=True)]
    if table == 3:  # rows are told apart by what they are made of
        rows = [METHODS[method] for method in methods]
        parts = {
            'CE': [row.classification for row in rows],
            'SC': [row.metric for row in rows],
            'cRW': [row.second_stage for row in rows],
        }
        made += [Column(h, ['✓' if part else '-' for part in p]) for h, p in parts.items()]
    for column in columns:
        for metric in distinct(table_values(table), 'metric'):
            found = [values(method, metric, column) or (np.nan, None) for method in methods]
            marks = _marks([mean for mean, _ in found]) if metric == 'mcr_all' else ()
            cells = [number(*pair) for pair in found]
            made.append(Column(METRIC_TITLES[metric], cells, column, marks=marks))
    return Table(made)


def contradictions(table: int) -> list[str]:
    """Where the paper underlines another value than the second best, a sentence each."""
    sentences = []
    values = table_values(table)
    for (dataset, model), column in values[values.metric == 'mcr_all'].groupby(
        ['dataset', 'model'], sort=False
    ):
        marked = column[column.mark == 'underline']
        second = column[[mark == 'underline' for mark in best_and_second(column['mean'])]]
        if len(marked) and not marked.equals(second):
            said, right = (
                ' and '.join(f'{v.mean:.2f} ({method_title(v.method)})' for v in some.itertuples())
                for some in (marked, second)
            )
            sentences.append(
                f'{setting_title(dataset, model)}: the paper underlines {said} as the second best; '
                f'by value it is {right}.'
            )
    return sentences
