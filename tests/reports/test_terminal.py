"""The terminal table of a run."""

import copy
import io

import pytest
from rich.console import Console

from metriclt_jax.reports.terminal import stage_table

METRICS = ('mcr_all', 'mcr_major', 'mcr_minor', 'accuracy', 'macro_f1', 'macro_auroc')


def metrics(first: float) -> dict:
    """Each metric with a value of its own."""
    return {name: first + 0.01 * i for i, name in enumerate(METRICS)} | {'confusion': [[1]]}


RESULTS = {
    'dataset': 'skin7',
    'method': 'ce_sc_crw',
    'model': 'resnet50',
    'seed': 3,
    'class_names': ['a', 'b'],
    'train_counts': [2, 1],
    'groups': {'major': [0], 'minor': [1]},
    'stages': [
        {
            'name': 'stage1',
            'last': {'validation': metrics(0.1), 'test': metrics(0.20123)},
            'best': {'validation': metrics(0.3), 'test': metrics(0.40123)},
        },
        {
            'name': 'stage2',
            'last': {'validation': metrics(0.5), 'test': metrics(0.60123)},
            'best': {'validation': metrics(0.7), 'test': metrics(0.80123)},
        },
    ],
}


def printed(results, width: int = 80, **options) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, **options).print(stage_table(results))
    return file.getvalue().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.strip().startswith(name))
    return line.split()


def test_rows_are_stages_and_columns_are_metrics_of_the_test_part_in_per_cent():
    lines = printed(RESULTS)
    assert lines[0].strip() == 'ce_sc_crw on skin7 (resnet50, seed 3): test part, per cent'
    for stage, which, first in [
        ('stage1', 'last', 20),
        ('stage1', 'best', 40),
        ('stage2', 'last', 60),
        ('stage2', 'best', 80),
    ]:
        cells = [f'{first + i}.12' for i in range(6)]
        assert row(lines, f'{stage} {which}') == [stage, which, *cells]
    header = [line.split() for line in lines if 'MCR' in line or 'major' in line][:2]
    assert header == [
        ['MCR', 'MCR', 'MCR', 'macro', 'macro'],
        ['all', 'major', 'minor', 'acc.', 'F1', 'AUROC'],
    ]


def test_medium_classes_have_a_column_where_the_data_set_has_them():
    results = copy.deepcopy(RESULTS)
    results['groups']['medium'] = []
    for stage in results['stages']:
        for which in ('last', 'best'):
            stage[which]['test']['mcr_medium'] = 1.0
    lines = printed(results)
    assert row(lines, 'stage2 last')[2:6] == ['60.12', '61.12', '100.00', '62.12']
    assert all(len(line) <= 80 for line in lines)
    assert not any('…' in line for line in lines)  # nothing was cut off


def test_a_dash_stands_for_what_does_not_exist():
    results = copy.deepcopy(RESULTS)
    results['stages'][0] |= {'last': {'validation': None, 'test': None}, 'best': None}
    results['stages'][1]['best'] = None
    lines = printed(results)
    assert row(lines, 'stage1 last') == ['stage1', 'last', *'------']
    assert row(lines, 'stage2 last')[2] == '60.12'
    assert not any('best  ' in line for line in lines)


@pytest.mark.parametrize('name', ['stage1 last', 'stage1 best', 'stage2 last', 'stage2 best'])
def test_only_the_result_of_the_run_is_bold(name):
    lines = printed(RESULTS, force_terminal=True, color_system='standard')
    (line,) = (line for line in lines if name in line)
    assert ('\x1b[1m' in line) == (name == 'stage2 last')
