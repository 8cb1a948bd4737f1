"""The tables of a report as plain values, made of the tidy table or of the paper's numbers."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from metriclt_jax.methods import METHODS
from metriclt_jax.reports import published
from metriclt_jax.reports.published import METRIC_TITLES, method_title
from metriclt_jax.reports.sections import Row, Section, first_stage_method
from metriclt_jax.reports.statistics import best_and_second, trainings_interval
from metriclt_jax.reports.tidy import estimates


class Column(NamedTuple):
    """A column of texts; a table is a list of columns of equal length."""

    heading: str
    cells: Sequence[str]
    group: str = ''  # above the headings of neighbouring columns
    words: bool = False  # aligned left, numbers right
    marks: Sequence[str] = ()  # 'bold', 'underline' or '' for each cell


Table = list[Column]


def from_rows(headings: Sequence[str], rows: Iterable[Sequence[str]], words: int) -> Table:
    """A table from its rows, whose first `words` columns hold words."""
    texts = enumerate(zip(*rows, strict=True))
    return [Column(headings[place], cells, words=place < words) for place, cells in texts]


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
    return f'{value:+.2f}'.replace('-', '−').replace('−0.00', '0.00').replace('+0.00', '0.00')


def _span(low: float, high: float, text: Callable[[float], str] = signed) -> str:
    return '-' if pd.isna(low) else f'{text(low)} to {text(high)}'


def _numbers(metric: str, found: pd.DataFrame, group: str = '', marked: bool = False) -> Column:
    """A column of a metric from means and deviations, with the best ones marked if wanted."""
    cells = list(map(number, found['mean'], found.deviation))
    marks = best_and_second(found['mean'].round(2)) if marked else ()
    return Column(METRIC_TITLES.get(metric, metric), cells, group, marks=marks)


def _of_rows(lines: pd.DataFrame, titles: Sequence[str], metric: str) -> pd.DataFrame:
    return lines[lines.metric == metric].set_index('row').reindex(titles)


def results_table(section: Section, lines: pd.DataFrame, methods: Sequence[str] = ()) -> Table:
    """Mean class recalls in `lines` of `tidy.results` beside the paper's.

    `methods`, if given, are printed in their order, run or not.
    """
    rows = [(row.method, row.title, row.variant, str(len(row.runs))) for row in section.main_rows]
    if methods:
        ran = {method: [row for row in rows if row[0] == method] for method in methods}
        rows = [e for m in methods for e in ran[m] or [(m, method_title(m), '', '-')]]
    names, titles, variants, runs = zip(*rows, strict=True)
    columns = [Column('Method', titles, words=True), Column('Runs', runs)]
    names = ['' if variant else name for name, variant in zip(names, variants, strict=True)]
    for metric in section.mcr_classes:
        ours = _of_rows(lines, titles, metric)
        column = _numbers(metric, ours, marked=metric == 'mcr_all')
        cells = [(section.dataset, section.model, name, metric) for name in names]
        paper = published.published_cells().reindex(cells).set_axis(titles)
        if paper['mean'].isna().all():
            columns.append(column)
        else:
            group, gaps = column.heading, ours['mean'].round(2) - paper['mean']
            columns.append(column._replace(heading='here', group=group))
            columns.append(_numbers('paper', paper, group))
            columns.append(Column('here − paper', list(map(signed, gaps)), group))
        if metric == 'mcr_all' and ours.low.notna().any():
            spans = [_span(*ends, number) for ends in zip(ours.low, ours.high, strict=True)]
            columns.append(Column('95 % interval', spans, columns[-1].group))
    return columns


def stages_table(section: Section, table: pd.DataFrame) -> Table | None:
    """Stage 1 against stage 2 in the rows with two stages; None if there is none."""
    rows = [row for row in section.main_rows if row.stage == 'last']
    rows = [row for row in rows if len(row.runs[0].results['stages']) > 1]
    if not rows:
        return None
    alone = [method_title(first_stage_method(row.method) or '-') for row in rows]
    texts = [(row.title, first, str(len(row.runs))) for row, first in zip(rows, alone, strict=True)]
    columns = from_rows(('Method', 'Stage 1 alone', 'Runs'), texts, words=1)
    keys = [(row.method, row.variant) for row in rows]
    by = ['method', 'variant', 'stage']
    found = estimates(table, [*by, 'metric'])
    for stage, group in (('1', 'stage 1'), ('last', 'stage 2')):
        for metric in section.mcr_classes:
            values = found.reindex([(*key, stage, metric) for key in keys])
            columns.append(_numbers(metric, values, group))
    recalls = table[table.metric == 'mcr_all'].set_index([*by, 'seed']).value.sort_index()
    gains = []
    for key in keys:
        ends = 100 * recalls[key].unstack('stage').reindex(columns=['last', '1']).dropna()
        gain = ends['last'] - ends['1']
        gains.append((signed(gain.mean()), _span(*trainings_interval(gain))))
    last = from_rows(('gain', '95 % interval'), gains, words=0)
    return [*columns, *(column._replace(group='stage 2 − stage 1') for column in last)]


def further_table(section: Section, lines: pd.DataFrame) -> Table:
    """Accuracy, macro F1, macro AUROC and calibration error (ECE) by method."""
    titles = [row.title for row in section.main_rows]
    found = {m: _of_rows(lines, titles, m) for m in ('accuracy', 'macro_f1', 'macro_auroc', 'ece')}
    numbers = [_numbers(metric, values, marked=metric != 'ece') for metric, values in found.items()]
    return [Column('Method', titles, words=True), *numbers]


def head_to_tail(section: Section) -> list[int]:
    """The classes from the most frequent one in training to the rarest."""
    return np.argsort(-np.asarray(section.results['train_counts']), kind='stable').tolist()


def recall_table(section: Section, lines: pd.DataFrame) -> Table:
    """Recall of each class by method, classes from the most frequent to the rarest."""
    results, titles = section.results, [row.title for row in section.main_rows]
    sizes = np.sum(results['final']['confusion'], axis=1)
    by_class = []
    for c in head_to_tail(section):
        name = results['class_names'][c]
        recalls = _numbers(name, _of_rows(lines, titles, f'recall {name}')).cells
        by_class.append([name, str(results['train_counts'][c]), str(sizes[c]), *recalls])
    if len(by_class) > 15:  # classes are rows, not columns
        return from_rows(['Class', 'training', 'test', *titles], by_class, words=1)
    first = Column('Method', ['images, training', 'images, test', *titles], words=True)
    return [first, *(Column(name, texts) for name, *texts in by_class)]


def differences_table(section: Section, lines: pd.DataFrame) -> Table:
    """Differences in a metric with their intervals and verdicts; `lines` of `tidy.differences`."""
    counts = {row.title: len(row.runs) for row in section.rows}
    rows = []
    for line in lines.itertuples():
        shared, most = len(line.seeds.split()), max(counts[line.first], counts[line.second])
        seeds = f'{shared}' if shared == most else f'{shared} of {most}'
        intervals = _span(line.trainings_low, line.trainings_high), _span(line.low, line.high)
        p = '-' if pd.isna(line.corrected_p) else f'{line.corrected_p:.2g}'
        gap = signed(line.difference)
        rows.append((line.first, line.second, gap, seeds, *intervals, p, line.verdict))
    headings = ('A', 'B', 'A − B', 'seeds in common', 'trainings', 'images', 'corrected p')
    *columns, last = from_rows((*headings, 'verdict on A'), rows, words=2)
    columns[4:6] = [column._replace(group='95 % interval over') for column in columns[4:6]]
    return [*columns, last._replace(words=True)]


def sensitivity_table(section: Section, lines: pd.DataFrame, study: Sequence[Row]) -> Table:
    """Mean class recalls of one method by the coefficient of its metric loss."""
    texts = [(f'{row.coefficient:g}', str(len(row.runs))) for row in study]
    titles = [row.title for row in study]
    recalls = [round(100 * row.validation_recall, 2) for row in study]
    marks = best_and_second(recalls)
    return [
        *from_rows(('Coefficient', 'Runs'), texts, words=1),
        Column('All', list(map(number, recalls)), 'validation', marks=marks),
        *(_numbers(m, _of_rows(lines, titles, m), 'test') for m in section.mcr_classes),
    ]


def files_table(section: Section) -> Table:
    """Every training of a section, once: its `results.json`, and what it says."""
    lines = [
        (
            *(f'{one.path}/results.json', method_title(row.method), row.variant or '-'),
            str(one.results['seed']) + (f', fold {fold}' if run.folds else ''),
            number(100 * one.results['final']['mcr_all']),
            'yes' if one.predictions else 'no',
        )
        for row in section.rows
        for run in row.runs
        for fold, one in enumerate(run.trainings)
        if row.stage == 'last'
    ]
    headings = ('File', 'Method', 'Variant', 'Seed', 'MCR all', 'Predictions kept')
    return from_rows(headings, sorted(lines), words=3)


def tuned_table(section: Section, tuned: Sequence[str]) -> Table:
    """The value of each of the `tuned` fields by method; [] if there are none."""
    rows = [row for row in section.main_rows if row.stage == 'last']
    texts = [(row.title, *(str(row.settings.get(field)) for field in tuned)) for row in rows]
    return from_rows(('Method', *tuned), texts, words=1) if tuned else []


def published_table(table: int) -> Table:
    """A table with the paper's numbers, marked by value. In table 4, columns are the backbones."""
    cells = published.table_values(table)[published.CELL]
    cells = cells.join(published.published_cells(), published.CELL)
    titles = published.DATASET_TITLES | published.MODEL_TITLES
    cells['column'] = (cells.model if table == 4 else cells.dataset).map(titles)
    return arrange(table, cells['column'].unique(), cells)


def arrange(table: int, columns: Sequence[str], cells: pd.DataFrame) -> Table:
    """A table with the rows and metrics of one of the paper's, for any columns and numbers.

    `cells` has the columns `column`, `method`, `metric`, `mean` and `deviation`, in per cent.
    """
    methods = published.methods_of(table)
    made = [Column('Method', [method_title(method) for method in methods], words=True)]
    if table == 3:  # rows are told apart by what they are made of
        rows = [METHODS[method] for method in methods]
        for heading, field in {
            'CE': 'classification',
            'SC': 'metric',
            'cRW': 'second_stage',
        }.items():
            made.append(Column(heading, ['✓' if getattr(row, field) else '-' for row in rows]))
    for column in columns:
        for metric in published.table_values(table).metric.unique():
            here = cells[(cells['column'] == column) & (cells.metric == metric)]
            found = here.set_index('method').reindex(methods)
            made.append(_numbers(metric, found, column, marked=metric == 'mcr_all'))
    return made
