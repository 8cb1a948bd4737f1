"""The paper's tables 2 to 5 as data, and its names for data sets, backbones, methods and metrics.

Zeng, Lu, Chen, Wang and Zheng, *Learning Discriminative Representation via Metric Learning for
Imbalanced Medical Image Classification*. `paper_results.csv` has a row for each printed value, in
the paper's order and units (mean class recalls in per cent).
"""

import tomllib
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from metriclt_jax.errors import InputError

if TYPE_CHECKING:
    import pandas as pd  # slow to import

CAPTIONS = {
    2: 'Comparison with various baselines on three medical image data sets.',
    3: 'Ablation study on Skin7 and X-ray9.',
    4: 'Performance on Skin7 with DenseNet121 and MobileNetV2 backbones.',
    5: 'Performance on two natural image data sets.',
}
TABLES = tuple(CAPTIONS)  # those with results; table 1 describes the data

# Section 3.3: "relatively stable in certain range of coefficient values", shown in figure 2.
STABLE_COEFFICIENTS = {
    'center': (0.00005, 0.004),
    'triplet': (0.00005, 0.01),
    'supervised_contrastive': (0.04, 1.8),
}

_FILES = resources.files('metriclt_jax.reports')
_TITLES = tomllib.loads((_FILES / 'titles.toml').read_text(encoding='utf-8'))
METHOD_TITLES, DATASET_TITLES = _TITLES['methods'], _TITLES['datasets']
MODEL_TITLES, METRIC_TITLES = _TITLES['models'], _TITLES['metrics']
METRIC_LOSS_TITLES = _TITLES['metric_losses']
CELL = ['dataset', 'model', 'method', 'metric']


@cache
def published_values() -> 'pd.DataFrame':
    """All values of tables 1 to 5, a row each, in the paper's order.

    `mark` is 'underline' where the paper underlines; its bold type is not recorded.
    """
    import pandas as pd

    words = dict.fromkeys(['model', 'method', 'mark', 'text'], '')
    with (_FILES / 'paper_results.csv').open(encoding='utf-8') as file:
        return pd.read_csv(file).fillna(words)


def table_values(table: int) -> 'pd.DataFrame':
    """The values of one table; raises `InputError` if the paper has no such table of results."""
    if table not in TABLES:
        raise InputError(f'table is {table}, which must be one of {", ".join(map(str, TABLES))}')
    return published_values().query(f'table == {table}')


def distinct(values: 'pd.DataFrame', *columns: str) -> list:
    """The values of a column, or tuples of several columns, each once and in order."""
    rows = values[list(columns)].drop_duplicates().itertuples(index=False, name=None)
    return list(rows) if len(columns) > 1 else [value for (value,) in rows]


def methods_of(table: int) -> list[str]:
    """The rows of a table of the paper."""
    return distinct(table_values(table), 'method')


@cache
def published_cells() -> 'pd.DataFrame':
    """Mean and deviation by data set, backbone, method and metric; the first of two tables wins."""
    cells = published_values().query('table > 1').drop_duplicates(CELL)
    return cells.set_index(CELL)[['mean', 'deviation']]


def find_published(*cell: str) -> tuple[float, float] | None:
    """Mean and deviation (NaN if not printed), or None, by data set, backbone, method and metric.

    >>> find_published('skin7', 'resnet50', 'ce_sc_crw', 'mcr_all')
    (86.43, 0.44)
    """
    cells = published_cells()
    return tuple(cells.loc[cell].tolist()) if cell in cells.index else None


def method_title(name: str) -> str:
    """The paper's name of a method; a method that it does not have keeps its own name."""
    return METHOD_TITLES.get(name, name)


def setting_title(dataset: str, model: str) -> str:
    """A data set and a backbone in print."""
    return f'{DATASET_TITLES.get(dataset, dataset)}, {MODEL_TITLES.get(model, model)}'
