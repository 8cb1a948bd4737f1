"""The paper's tables as data, and its names for data sets, backbones, methods and metrics.

Zeng, Lu, Chen, Wang and Zheng, *Learning Discriminative Representation via Metric Learning for
Imbalanced Medical Image Classification*.
"""

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, NamedTuple

from metriclt_jax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd  # slow to import

_FILES = resources.files('metriclt_jax.reports')
_TITLES = tomllib.loads((_FILES / 'titles.toml').read_text(encoding='utf-8'))
METHOD_TITLES, DATASET_TITLES = _TITLES['methods'], _TITLES['datasets']
MODEL_TITLES, METRIC_TITLES = _TITLES['models'], _TITLES['metrics']
METRIC_LOSS_TITLES = _TITLES['metric_losses']
# Section 3.3: "relatively stable in certain range of coefficient values", shown in figure 2.
STABLE_COEFFICIENTS = _TITLES['stable_coefficients']
CAPTIONS = {int(table): caption for table, caption in _TITLES['tables'].items()}
TABLES = tuple(CAPTIONS)  # those with results; table 1 describes the data
CELL = ['dataset', 'model', 'method', 'metric']


class PublishedValue(NamedTuple):
    """A printed number."""

    mean: float  # in per cent
    deviation: float | None  # over three runs, if it is printed


@cache
def published_values() -> 'pd.DataFrame':
    """All values of tables 1 to 5, in the paper's order and units (recalls in per cent).

    `mark` is 'underline' where the paper underlines; its bold type is not recorded.
    """
    import pandas as pd

    with (_FILES / 'paper_results.csv').open(encoding='utf-8') as file:
        words = dict.fromkeys(['model', 'method', 'mark', 'text'], '')
        return pd.read_csv(file).fillna(words)


def table_values(table: int) -> 'pd.DataFrame':
    """The values of one table; raises `InputError` if the paper has no such table of results."""
    if table not in TABLES:
        raise InputError(f'table is {table}, which must be one of {", ".join(map(str, TABLES))}')
    return published_values().query(f'table == {table}')


def methods_of(table: int) -> list[str]:
    """The rows of a table of the paper."""
    return table_values(table).method.unique().tolist()


@cache
def published_cells() -> 'pd.DataFrame':
    """Mean and deviation by data set, backbone, method and metric; the first of two tables wins."""
    results = published_values().query('table > 1').drop_duplicates(CELL)
    return results.set_index(CELL)[['mean', 'deviation']]


def find_published(dataset: str, model: str, method: str, metric: str) -> PublishedValue | None:
    """What the paper has for a cell, or None.

    >>> find_published('skin7', 'resnet50', 'ce_sc_crw', 'mcr_all')
    PublishedValue(mean=86.43, deviation=0.44)
    """
    cell = (dataset, model, method, metric)
    if cell not in published_cells().index:
        return None
    mean, deviation = published_cells().loc[cell].tolist()
    return PublishedValue(mean, deviation if deviation == deviation else None)


def method_title(name: str) -> str:
    """The paper's name of a method; a method that it does not have keeps its own name."""
    return METHOD_TITLES.get(name, name)


def setting_title(dataset: str, model: str) -> str:
    """A data set and a backbone in print."""
    return f'{DATASET_TITLES.get(dataset, dataset)}, {MODEL_TITLES.get(model, model)}'
