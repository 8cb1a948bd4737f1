"""The cells of the tables are those of the runs and of the paper."""

import re

import numpy as np
import pandas as pd
import pytest

from metriclt_jax.reports import tables
from metriclt_jax.reports.sections import studies
from metriclt_jax.reports.tidy import differences, results, tidy


def header(table):
    return [(column.group, column.heading) for column in table]


def texts(table):
    return [list(row) for row in zip(*(column.cells for column in table), strict=True)]


def results_of(section):
    return results(section, tidy(section))


def per_cent(values) -> str:
    return f'{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}'


def test_results_stand_beside_the_papers(section, make_run):
    made = [make_run(f'a{seed}', 'ce_crw', seed, right=0.6 + 0.1 * seed) for seed in range(3)]
    sc = make_run('b', 'ce_sc_crw', 0, right=0.95)
    here = section()
    methods = ['ce_crw', 'bbn', 'ce_sc_crw']
    table = tables.results_table(here, results_of(here), methods)
    assert header(table)[2:5] == [('All', 'here'), ('All', 'paper'), ('All', 'here − paper')]
    crw, bbn, sc_row = texts(table)
    recalls = [r['final']['mcr_all'] for r in made]
    assert crw[:4] == ['CE → cRW', '3', per_cent(recalls), '84.11 ± 0.70']
    assert crw[4] == f'{round(100 * np.mean(recalls), 2) - 84.11:+.2f}'.replace('-', '−')
    low, high = re.findall(r'[\d.]+', crw[5])
    assert float(low) < 100 * np.mean(recalls) < float(high)
    assert crw[7] == '85.08'
    assert sc_row[2] == f'{100 * sc["final"]["mcr_all"]:.2f}'
    major_and_minor = ['-', '79.16', '-', '-', '80.51', '-']
    assert bbn == ['BBN', '-', '-', '73.88 ± 0.35', '-', '-', *major_and_minor]
    assert table[2].marks == ['underline', '', 'bold']


def test_without_published_numbers_there_are_no_columns_for_them(section, make_run):
    groups = {'minor': [5, 6], 'medium': [3], 'major': [0]}
    make_run('a', 'ce', dataset='digits_lt', groups=groups)
    table = tables.results_table(section(), results_of(section()))
    headings = ['Method', 'Runs', 'All', '95 % interval', 'Major', 'Medium', 'Minor']
    assert [heading for _, heading in header(table)] == headings


def test_stages(section, make_run):
    made = [make_run(f'a{seed}', 'ce_crw', seed, right=0.7) for seed in range(2)]
    make_run('b', 'sc_crw', 0)
    make_run('c', 'rs', 0)
    crw, sc = texts(tables.stages_table(section(), tidy(section())))
    ends = [[r['stages'][stage]['last']['test']['mcr_all'] for r in made] for stage in (0, 1)]
    assert crw[:4] == ['CE → cRW', 'CE', '2', per_cent(ends[0])]
    assert crw[6] == per_cent(ends[1])
    assert crw[9] == tables.signed(100 * (np.mean(ends[1]) - np.mean(ends[0])))
    assert ' to ' in crw[10]
    assert sc[:6] == ['SC → cRW', '-', '1', '-', '-', '-']
    assert sc[9:] == ['-', '-']
    one = section().with_methods(['rs'])
    assert tables.stages_table(one, tidy(one)) is None


def test_recalls_are_averaged(section, make_run):
    made = [make_run(f'a{seed}', 'ce', seed, right=0.5 + 0.2 * seed) for seed in range(2)]
    table = tables.recall_table(section(), results_of(section()))
    names = ['Method', 'NV', 'MEL', 'BKL', 'BCC', 'AKIEC', 'VASC', 'DF']
    assert header(table) == [('', name) for name in names]
    training, test, ce = texts(table)
    assert training[1:] == ['5029', '835', '824', '386', '245', '107', '86']
    assert test[1:] == ['60', '30', '30', '20', '15', '12', '10']
    assert ce[7] == per_cent([r['final']['confusion'][6][6] / 10 for r in made])


def test_many_classes_are_rows(section, make_run):
    names = [f'c{i}' for i in range(20)]
    make_run('a', 'ce', names=names, counts=range(20, 40), groups={'major': [19]}, sizes=[5] * 20)
    table = tables.recall_table(section(), results_of(section()))
    assert [heading for _, heading in header(table)] == ['Class', 'training', 'test', 'CE']
    assert texts(table)[0][:3] == ['c19', '39', '5']  # from head to tail
    assert len(texts(table)) == 20


def test_further_metrics_and_files(section, make_run):
    make_run('a0', 'ce_crw', 0)
    make_run('a1', 'ce_crw', 1, predictions=False)
    ce, crw = texts(tables.further_table(section(), results_of(section())))
    assert (ce[0], ce[4]) == ('CE *', '-')
    assert ' ± ' in crw[1]
    assert re.fullmatch(r'\d+\.\d\d', crw[4])  # one run has predictions
    first, second = texts(tables.files_table(section()))  # each once, though it is two rows
    assert first[:4] == ['a0/results.json', 'CE → cRW', '-', '0']
    assert (first[5], second[5]) == ('yes', 'no')


def test_a_coefficient_is_chosen_on_validation(section, make_run):
    for number, right in enumerate((0.6, 0.8)):
        coefficient = 0.001 * (1 + number)
        make_run(f'a{number}', 'ce_tp_crw', right=right, metric__triplet__coefficient=coefficient)
    (study,) = studies(section().rows)
    table = tables.sensitivity_table(section(), results_of(section()), study)
    second = texts(table)[1]
    assert header(table)[2:4] == [('validation', 'All'), ('test', 'All')]
    assert float(second[2]) == pytest.approx(float(second[3]) / 2, abs=0.01)
    assert table[2].marks == ['underline', 'bold']


def test_differences(section, make_run):
    for seed in range(2):
        make_run(f'a{seed}', 'ce_crw', seed, right=0.5)
    make_run('b1', 'ce_tp_crw', 1, right=0.9)
    lines = differences(section(), tidy(section()))
    lines = lines[lines.metric == 'mcr_all']
    table = tables.differences_table(section(), lines)
    row = next(row for row in texts(table) if row[:2] == ['CE+TP → cRW', 'CE → cRW'])
    line = next(line for line in lines.itertuples() if line.first == 'CE+TP → cRW')
    assert row[2:5] == [tables.signed(line.difference), '1 of 2', '-']
    ends = [float(word.replace('−', '-')) for word in re.findall(r'[+−][\d.]+', row[5])]
    assert ends == pytest.approx([line.low, line.high], abs=0.005)


# Best and second best by value of each column "All", read off the printed tables.
BEST = {
    2: [
        *('86.50 ± 0.34', '86.43 ± 0.44', '52.93 ± 0.26', '52.87 ± 0.27'),
        *('87.45 ± 0.25', '86.50 ± 0.42'),
    ],
    3: ['86.43 ± 0.44', '84.36', '52.77 ± 0.33', '51.81 ± 1.03'],
    4: ['86.30', '85.93', '86.26', '85.96'],
    5: ['90.99', '90.94', '34.71', '34.49'],
}
SHAPES = {2: (21, 10), 3: (5, 10), 4: (6, 5), 5: (7, 9)}


@pytest.mark.parametrize('number', SHAPES)
def test_tables_of_the_paper(number):
    table = tables.published_table(number)
    assert (len(texts(table)), len(table)) == SHAPES[number]
    best = []
    for column in (column for column in table if column.heading == 'All'):
        marked = dict(zip(column.marks, column.cells, strict=True))
        best += [marked['bold'], marked['underline']]
        assert '-' not in column.cells
    assert best == BEST[number]
    if number == 3:
        components = [''.join(row[1:4]) for row in texts(table)]
        assert components == ['✓--', '✓✓-', '✓-✓', '-✓✓', '✓✓✓']


def test_ties_in_print_share_a_mark_and_what_was_not_run_is_a_dash():
    cells = pd.DataFrame({'method': ['ce', 'ce_crw', 'ldam_drw'], 'mean': [90.001, 90.004, 89]})
    cells = cells.assign(column='here', metric='mcr_all', deviation=None)
    column = tables.arrange(5, ['here'], cells)[1]
    assert column.marks == ['bold', 'bold', 'underline', '', '', '', '']
    assert column.cells[3:] == ['-'] * 4
