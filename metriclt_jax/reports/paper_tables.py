"""Tables 2 to 5 in the paper's order of rows and columns, with the paper's numbers or others."""

from collections.abc import Callable, Sequence

from metriclt_jax.methods import METHODS
from metriclt_jax.reports.document import Cell, Table
from metriclt_jax.reports.names import dataset_title, method_title, metric_title, model_title
from metriclt_jax.reports.published import distinct, find_published, table_values
from metriclt_jax.reports.statistics import best_and_second

# (method, metric, column) -> mean and deviation in per cent, or None where there is no number.
Values = Callable[[str, str, str], tuple[float, float | None] | None]

CAPTIONS = {
    2: 'Comparison with various baselines on three medical image data sets.',
    3: 'Ablation study on Skin7 and X-ray9.',
    4: 'Performance on Skin7 with DenseNet121 and MobileNetV2 backbones.',
    5: 'Performance on two natural image data sets.',
}
MARKS = 'Best of each column "All" bold, second best underlined, by printed value.'
_COMPONENTS = ('CE', 'SC', 'cRW')


def number(mean: float | None, deviation: float | None = None) -> str:
    """Per cent as the paper prints them; a dash for none.

    >>> number(86.4321, 0.44), number(-1.5), number(None)
    ('86.43 ± 0.44', '−1.50', '-')
    """
    if mean is None:
        return '-'
    text = f'{mean:.2f}'.replace('-', '−')
    return text if deviation is None else f'{text} ± {deviation:.2f}'


def methods_of(table: int) -> list[str]:
    """The rows of a table of the paper."""
    return distinct(table_values(table), 'method')


def metrics_of(table: int) -> list[str]:
    """The metrics of a table of the paper."""
    return distinct(table_values(table), 'metric')


def published_table(table: int) -> Table:
    """A table with the paper's numbers, marked by value. In table 4, columns are the backbones."""
    titles = {}
    for dataset, model in distinct(table_values(table), 'dataset', 'model'):
        title = dataset_title(dataset) if table != 4 else model_title(model)
        titles[title] = (dataset, model)

    def published(method, metric, column):
        value = find_published(*titles[column], method, metric)
        return value and (value.mean, value.deviation)

    caption = f'Table {table} of the paper. {CAPTIONS[table]} MCR in per cent. {MARKS}'
    return arrange(table, list(titles), published, caption, f'paper{table}')


def arrange(
    table: int, columns: Sequence[str], values: Values, caption: str, label: str = ''
) -> Table:
    """A table with the rows and metrics of one of the paper's, for any columns and numbers."""
    methods, metrics = methods_of(table), metrics_of(table)
    body = [[method_title(method)] for method in methods]
    if table == 3:  # rows are told by what they are made of
        body = [components(method) for method in methods]
    leading = len(body[0])
    for column in columns:
        for metric in metrics:
            found = [values(method, metric, column) for method in methods]
            means = [None if value is None else round(value[0], 2) for value in found]
            marks = best_and_second(means) if metric == 'mcr_all' else [''] * len(means)
            for row, value, mark in zip(body, found, marks, strict=True):
                row.append(Cell('-' if value is None else number(*value), mark))
    header = ('Method',) if leading == 1 else ('Method', *_COMPONENTS)
    return Table(
        caption,
        (*header, *(metric_title(metric) for _ in columns for metric in metrics)),
        tuple(map(tuple, body)),
        (('', leading), *((column, len(metrics)) for column in columns)),
        label,
    )


def components(name: str) -> list[str]:
    """Name of a row of table 3, and a tick for each of its components.

    >>> components('sc_crw')
    ['SC → cRW', '-', '✓', '✓']
    """
    method = METHODS[name]
    parts = (method.classification, method.metric, method.second_stage)
    return [method_title(name), *('-' if part is None else '✓' for part in parts)]


def contradictions(table: int) -> list[str]:
    """Where the paper underlines another value than the second best, a sentence each."""
    sentences = []
    values = [v for v in table_values(table) if v.metric == 'mcr_all']
    for dataset, model in distinct(values, 'dataset', 'model'):
        column = [v for v in values if (v.dataset, v.model) == (dataset, model)]
        marks = best_and_second([v.mean for v in column])
        second = [v for v, mark in zip(column, marks, strict=True) if mark == 'underline']
        marked = [v for v in column if v.mark == 'underline']
        if marked and marked != second:
            sentences.append(
                f'{dataset_title(dataset)}, {model_title(model)}: the paper underlines '
                f'{_list(marked)} as the second best; by value it is {_list(second)}.'
            )
    return sentences


def _list(values) -> str:
    return ' and '.join(f'{v.mean:.2f} ({method_title(v.method)})' for v in values)
