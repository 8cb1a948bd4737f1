"""The terminal table of a run."""

import copy
import io

import numpy as np
from rich.cells import cell_len
from rich.console import Console

from metriclt_jax.reports.terminal import stage_table, summary_table

GROUPS = ('mcr_all', 'mcr_major', 'mcr_medium', 'mcr_minor')
METRICS = (*GROUPS, 'accuracy', 'macro_f1', 'macro_auroc')
ROWS = {'stage1 last': 20, 'stage1 best': 40, 'stage2 last': 60, 'stage2 best': 80}  # per cent


def metrics(first: float) -> dict:
    """Each metric with a value of its own."""
    return {name: first + 0.01 * i for i, name in enumerate(METRICS)} | {'confusion': [[1]]}


def stage(name: str, last: float, best: float) -> dict:
    return {'name': name, 'last': {'test': metrics(last)}, 'best': {'test': metrics(best)}}


RESULTS = {
    **{'dataset': 'skin7', 'method': 'ce_sc_crw', 'model': 'resnet50', 'seed': 3},
    'groups': {'major': [0], 'medium': [], 'minor': [1]},
    'stages': [stage('stage1', 0.20123, 0.40123), stage('stage2', 0.60123, 0.80123)],
}


def printed(results=None, table=None, **options) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=80, **options).print(table or stage_table(results))
    return file.getvalue().splitlines()


def row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.strip().startswith(name))
    return line.split()


def test_rows_are_stages_and_columns_are_metrics_of_the_test_part_in_per_cent():
    lines = printed(RESULTS)
    assert {'ce_sc_crw', 'skin7', '(resnet50,', '3):'} <= set(lines[0].split())
    colored = printed(RESULTS, force_terminal=True, color_system='standard')
    for name, first in ROWS.items():
        (line,) = (line for line in colored if name in line)
        assert ('\x1b[1m' in line) == (name == 'stage2 last')  # bold
        assert row(lines, name) == [*name.split(), *(f'{first + i}.12' for i in range(7))]
    assert not any('…' in line for line in lines)  # 80 columns are enough


def test_a_dash_stands_for_what_does_not_exist():
    results = copy.deepcopy(RESULTS)
    del results['groups']['medium']  # and then it has no column
    results['stages'][0] |= {'last': {'test': None}, 'best': None}
    results['stages'][1]['best'] = None
    lines = printed(results)
    assert row(lines, 'stage1 last') == ['stage1', 'last', *'------']
    assert row(lines, 'stage2 last')[2] == '60.12'
    assert not any('best  ' in line for line in lines)


def test_a_summary_has_a_row_for_each_metric_and_class():
    summary = {'mcr_all': 0.75, 'mcr_minor': 0.5, 'confusion': [[3, 0], [1, 1]]}
    lines = printed(table=summary_table(summary, ['[x]', 'b'], {'minor': [1]}, 'skin7'))
    assert row(lines, 'MCR minor (b)')[-2:] == ['50.00', '2']
    assert row(lines, 'recall of [x]')[-2:] == ['100.00', '3']


def test_a_partial_summary_says_so():
    summary = {'mcr_all': 0.75, 'mcr_minor': None, 'confusion': [[3, 1], [0, 0]]}
    summary['classes_without_images'] = ['b']
    lines = printed(table=summary_table(summary, ['a', 'b'], {'minor': [1]}, 'skin7'))
    assert row(lines, 'recall of b')[-2:] == ['-', '0']
    assert row(lines, 'MCR minor (b)')[-2:] == ['-', '0']
    assert 'Partial' in ' '.join(lines)
    results = copy.deepcopy(RESULTS) | {'final': summary}
    assert 'no image of b' in ' '.join(printed(results))
    assert 'Partial' not in ' '.join(printed(RESULTS))


def test_names_are_printed_as_they_are():
    names = ['[red]x[/red]', '[/b]', ':skull:', 'end\\', '$a_b$', '-x', '皮肤癌']
    summary = {'mcr_all': 1.0, 'confusion': np.eye(len(names), dtype=int).tolist()}
    lines = printed(table=summary_table(summary, names, {}, '[/b] :skull:'))
    assert lines[0].strip() == '[/b] :skull:'
    for name in names:
        assert row(lines, f'recall of {name}')[-2:] == ['100.00', '1']
    long = summary_table(summary, [f'{name} ' * 30 for name in names], {}, 'long')
    assert max(map(cell_len, printed(table=long))) == 80
    assert '\u2026' not in ' '.join(printed(table=long))
