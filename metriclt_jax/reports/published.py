"""The numbers of the paper: tables 1 to 5, as data.

Zeng, Lu, Chen, Wang and Zheng, *Learning Discriminative Representation via Metric Learning for
Imbalanced Medical Image Classification*. `paper_results.csv` has a row for each printed value, in
the paper's order and units (mean class recalls in per cent).
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from metriclt_jax.errors import InputError

TABLES = (2, 3, 4, 5)  # those with results; table 1 describes the data

# Section 3.3: "relatively stable in certain range of coefficient values", shown in figure 2.
STABLE_COEFFICIENTS = {
    'center': (0.00005, 0.004),
    'triplet': (0.00005, 0.01),
    'supervised_contrastive': (0.04, 1.8),
}


@dataclass(frozen=True)
class PublishedValue:
    """One printed value.

    Attributes:
        table: number of the table, 1 to 5.
        dataset: as `results.json` names it.
        model: backbone; empty in table 1.
        method: row of `metriclt_jax.methods.METHODS`; empty in table 1.
        metric: as in `results.json`; in table 1 a property of the data set.
        mean: the number; None where the table has words.
        deviation: standard deviation over three runs, where the paper prints one.
        mark: 'underline' where the paper underlines the value. (Its bold type is not recorded: the
            text that the numbers come from does not show it.)
        text: the words of table 1.
    """

    table: int
    dataset: str
    model: str
    method: str
    metric: str
    mean: float | None
    deviation: float | None
    mark: str
    text: str


@cache
def published_values() -> tuple[PublishedValue, ...]:
    """All values of tables 1 to 5, in the order in which the paper prints them."""
    source = resources.files('metriclt_jax.reports') / 'paper_results.csv'
    with source.open(encoding='utf-8', newline='') as file:
        return tuple(_value(row) for row in csv.DictReader(file))


def table_values(table: int) -> tuple[PublishedValue, ...]:
    """The values of one table.

    Raises:
        InputError: the paper has no such table of results.
    """
    if table not in TABLES:
        raise InputError(f'table is {table}; allowed: {", ".join(map(str, TABLES))}')
    return tuple(value for value in published_values() if value.table == table)


def find_published(dataset: str, model: str, method: str, metric: str) -> PublishedValue | None:
    """What the paper has for a cell, or None; where two tables print it, the earlier one.

    >>> value = find_published('skin7', 'resnet50', 'ce_sc_crw', 'mcr_all')
    >>> value.mean, value.deviation
    (86.43, 0.44)
    """
    return _by_cell().get((dataset, model, method, metric))


def distinct(values: Sequence[PublishedValue], *fields: str) -> list:
    """The values of a field, or tuples of several fields, each once and in order."""
    rows = [tuple(getattr(value, field) for field in fields) for value in values]
    return list(dict.fromkeys(row if len(fields) > 1 else row[0] for row in rows))


@cache
def _by_cell() -> dict[tuple[str, str, str, str], PublishedValue]:
    values = {}
    for value in published_values():
        values.setdefault((value.dataset, value.model, value.method, value.metric), value)
    return values


def _value(row: dict[str, str]) -> PublishedValue:
    return PublishedValue(
        table=int(row['table']),
        dataset=row['dataset'],
        model=row['model'],
        method=row['method'],
        metric=row['metric'],
        mean=float(row['mean']) if row['mean'] else None,
        deviation=float(row['deviation']) if row['deviation'] else None,
        mark=row['mark'],
        text=row['text'],
    )
