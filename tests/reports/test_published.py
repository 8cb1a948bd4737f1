"""The numbers of the paper: against its text where that is at hand, and copied by hand."""

import os
import re
from pathlib import Path

import numpy as np
import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS
from metriclt_jax.reports.published import (
    METHOD_TITLES,
    find_published,
    methods_of,
    published_values,
    table_values,
)

# Copied by hand from the printed tables: the corners of each, and what the text speaks of.
COPIED = [
    (1, 'skin7', '', '', 'min_count', 86, None),
    (2, 'xray9', 'resnet50', 'cutmix_crw', 'mcr_all', 52.87, 0.27),
    (2, 'pathmnist_lt', 'resnet50', 'ce_sc_crw', 'mcr_all', 87.45, 0.25),
    (3, 'skin7', 'resnet50', 'sc_crw', 'mcr_all', 84.36, None),
    (4, 'skin7', 'densenet121', 'ce_tp_crw', 'mcr_minor', 90.21, None),
    (5, 'dogs_lt', 'resnet50', 'ce_sc_crw', 'mcr_minor', 20.32, None),
]


@pytest.mark.parametrize('copied', COPIED, ids=lambda c: '-'.join(map(str, c[:5])))
def test_numbers_are_those_of_the_paper(copied):
    *cell, mean, deviation = copied
    values = published_values().set_index(['table', 'dataset', 'model', 'method', 'metric'])
    value = values.loc[tuple(cell)]
    assert value['mean'] == mean
    assert value.deviation == deviation or (deviation is None and np.isnan(value.deviation))


def test_tables_are_complete():
    values = published_values()
    # Table 1 has 7 facts on 3 sets; 2: 21 x 9; 3: 5 x 6; 4: 2 x 6 x 2; 5: 7 x 8.
    assert values.table.value_counts().to_dict() == {1: 21, 2: 189, 3: 30, 4: 24, 5: 56}
    assert not values.duplicated(['table', 'dataset', 'model', 'method', 'metric']).any()
    assert (values['mean'].isna() == (values.text != '')).all()
    with_deviation = values[values.deviation.notna()]
    assert set(zip(with_deviation.table, with_deviation.metric, strict=True)) == {(2, 'mcr_all')}


def test_methods_have_rows_and_titles():
    methods = set(published_values().method) - {''}
    assert methods <= set(METHOD_TITLES)
    assert methods - {'bbn'} <= set(METHODS)
    assert methods_of(2)[:5] == ['ce', 'ce_crw', 'ce_crs', 'ce_drw', 'rs']
    with pytest.raises(InputError, match='table is 1'):
        table_values(1)


def test_cells_are_found():
    # Skin7 with ResNet50 is in tables 2 and 3; the former has the deviation.
    assert find_published('skin7', 'resnet50', 'ce_crw', 'mcr_all') == (84.11, 0.70)
    assert find_published('skin7', 'densenet121', 'ce_crw', 'mcr_all') == (84.65, None)
    assert find_published('skin7', 'densenet121', 'ce_crw', 'mcr_major') is None
    assert find_published('digits_lt', 'resnet50', 'ce', 'mcr_all') is None


@pytest.fixture(scope='module')
def paper() -> list[str]:
    folder = os.environ.get('METRICLT_DATA')
    path = Path(folder or '.') / '../paper/paper.txt'
    if not folder or not path.exists():
        pytest.skip('METRICLT_DATA names no folder with ../paper/paper.txt')
    return path.read_text().splitlines()


# What the text of a table starts with, its rows, and the lines before them.
PLACES = {2: ('Methods\tSkin7', 21, 2), 3: ('CE\tSC\tcRW', 5, 2)}
PLACES |= {4: ('DenseNet121\t', 2, 0), 5: ('Method\tFlower-LT', 7, 2)}


def numbers_after(paper: list[str], caption: str, rows: int, skip: int) -> list[float]:
    """All numbers of the rows of a table with decimals, deviations left out."""
    start = next(i for i, line in enumerate(paper) if line.startswith(caption)) + skip
    text = '\n'.join(paper[start : start + rows])
    return [float(word) for word in re.findall(r'\d+\.\d\d', re.sub(r'_\{.*?\}', '', text))]


@pytest.mark.parametrize('table', PLACES)
def test_tables_have_the_numbers_of_the_text_in_its_order(paper, table):
    """Row by row as printed; the text's rows are methods, but backbones in table 4."""
    caption, rows, skip = PLACES[table]
    values, field = table_values(table), 'model' if table == 4 else 'method'
    names = values[field].unique()
    ours = [mean for name in names for mean in values['mean'][values[field] == name]]
    assert ours == numbers_after(paper, caption, rows, skip)


def test_deviations_and_underlines_are_those_of_the_text(paper):
    start = next(i for i, line in enumerate(paper) if line.startswith('Methods\tSkin7')) + 2
    words = re.findall(r'_\{(\d\.\d\d)\}', '\n'.join(paper[start : start + 21]))
    ours = table_values(2).deviation.dropna().tolist()
    assert ours == [float(word) for word in words]
    assert len(ours) == 63
    underlined = [float(x) for line in paper for x in re.findall(r'<u>([\d.]+)', line)]
    marked = published_values().query('mark == "underline"')['mean']
    assert sorted(marked) == sorted(underlined)
