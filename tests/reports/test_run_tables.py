"""The numbers in a report's tables are those of the runs."""

import csv
import io
import re

import numpy as np
import pytest

from metriclt_jax.reports.comparisons import comparisons
from metriclt_jax.reports.document import Cell
from metriclt_jax.reports.run_tables import (
    calibration_errors,
    confusion,
    differences_tables,
    files_table,
    further_table,
    pooled_calibration,
    recall_table,
    results_table,
    sensitivity_table,
    signed,
    stages_table,
    tidy,
)
from metriclt_jax.reports.runs import read_runs
from metriclt_jax.reports.sections import make_sections, studies, with_first_stages


@pytest.fixture
def section(tmp_path):
    return lambda: make_sections(read_runs(tmp_path / 'runs')[0])[0][0]


def text(value) -> str:
    return value.text if isinstance(value, Cell) else value


def texts(table) -> list[list[str]]:
    return [[text(cell) for cell in row] for row in table.rows]


def mean_and_deviation(values) -> str:
    return f'{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}'


def test_results_stand_beside_the_papers(section, make_run):
    made = [make_run(f'a{seed}', 'ce_crw', seed, right=0.6 + 0.1 * seed) for seed in range(3)]
    (sc,) = [make_run('b', 'ce_sc_crw', 0, right=0.95)]
    here = section()
    table = results_table(here, here.rows, ['ce_crw', 'bbn', 'ce_sc_crw'])
    assert table.groups == (('', 2), ('All', 3), ('Major', 3), ('Minor', 3))
    assert table.header[:5] == ('Method', 'Runs', 'here', 'paper', 'here − paper')
    crw, bbn, sc_row = texts(table)
    recalls = [r['final']['mcr_all'] for r in made]
    assert crw[:4] == ['CE → cRW', '3', mean_and_deviation(recalls), '84.11 ± 0.70']
    difference = round(100 * np.mean(recalls), 2) - 84.11
    assert crw[4] == f'{difference:+.2f}'.replace('-', '−')
    assert crw[6] == '85.08'
    assert sc_row[2] == f'{100 * sc["final"]["mcr_all"]:.2f}'
    assert bbn == ['BBN', '-', '-', '73.88 ± 0.35', '-', '-', '79.16', '-', '-', '80.51', '-']
    assert [row[2].mark for row in table.rows] == ['underline', '', 'bold']


def test_without_published_numbers_there_are_no_columns_for_them(section, make_run):
    make_run('a', 'ce', dataset='digits_lt')
    here = section()
    table = results_table(here, here.rows)
    assert (table.header, table.groups) == (('Method', 'Runs', 'All', 'Major', 'Minor'), ())


def test_the_paper_is_not_beside_other_settings_of_a_method(section, make_run):
    for margin in (20.0, 50.0):
        make_run(f'{margin}', 'ce_tp_crw', metric__triplet__margin=margin)
    make_run('crw', 'ce_crw')
    here = section()
    rows = texts(results_table(here, here.rows))
    assert [row[3] for row in rows] == ['84.11 ± 0.70', '-', '-']


def test_stages(section, make_run):
    made = [make_run(f'a{seed}', 'ce_crw', seed, right=0.7) for seed in range(2)]
    make_run('b', 'sc_crw', 0)
    make_run('c', 'rs', 0)
    here = section()
    table = stages_table(here, with_first_stages(here.rows))
    crw, sc = texts(table)
    ends = [[r['stages'][stage]['last']['test']['mcr_all'] for r in made] for stage in (0, 1)]
    assert crw[:4] == ['CE → cRW', 'CE', '2', mean_and_deviation(ends[0])]
    assert crw[6] == mean_and_deviation(ends[1])
    assert crw[9] == signed(100 * (np.mean(ends[1]) - np.mean(ends[0])))
    assert ' to ' in crw[10]
    assert sc[:6] == ['SC → cRW', '-', '1', '-', '-', '-']
    assert sc[9:] == ['-', '-']
    rs = [row for row in here.rows if row.method == 'rs']
    assert stages_table(here, rs) is None


def test_confusion_is_summed_and_recalls_are_averaged(section, make_run):
    made = [make_run(f'a{seed}', 'ce', seed, right=0.5 + 0.2 * seed) for seed in range(2)]
    here = section()
    matrices = np.array([r['final']['confusion'] for r in made])
    np.testing.assert_array_equal(confusion(here.rows[0]), matrices.sum(axis=0))
    table = recall_table(here, here.rows)
    assert table.header == ('Method', 'NV', 'MEL', 'BKL', 'BCC', 'AKIEC', 'VASC', 'DF')
    training, test, ce = texts(table)
    assert training[1:] == ['5029', '835', '824', '386', '245', '107', '86']
    assert test[1:] == ['60', '30', '30', '20', '15', '12', '10']
    last = [m[6, 6] / 10 for m in matrices]
    assert ce[7] == mean_and_deviation(last)


def test_many_classes_are_rows(section, make_run):
    names = [f'c{i}' for i in range(20)]
    make_run('a', 'ce', names=names, counts=range(20, 40), groups={'major': [19]}, sizes=[5] * 20)
    here = section()
    table = recall_table(here, here.rows)
    assert table.header == ('Class', 'training', 'test', 'CE')
    assert texts(table)[0][:3] == ['c19', '39', '5']  # from head to tail
    assert len(table.rows) == 20


def test_calibration_is_by_run_and_pooled(section, make_run):
    for seed in range(2):
        make_run(f'a{seed}', 'ce_crw', seed)
    make_run('a2', 'ce_crw', 2, predictions=False)
    here = section()
    ce, crw = with_first_stages(here.rows)
    errors = calibration_errors(crw)
    assert len(errors) == 2
    assert pooled_calibration(crw).counts.sum() == 2 * 177
    assert (calibration_errors(ce), pooled_calibration(ce)) == ([], None)
    rows = texts(further_table([ce, crw]))
    assert [row[0] for row in rows] == ['CE *', 'CE → cRW']
    assert rows[0][4] == '-'
    assert rows[1][4] == mean_and_deviation(errors)


def test_differences(section, make_run):
    for seed in range(2):
        make_run(f'a{seed}', 'ce_crw', seed, right=0.5)
        make_run(f'b{seed}', 'ce_tp_crw', seed, right=0.9)
    here = section()
    compared = comparisons(here, here.rows)
    table, *others = differences_tables(compared)
    assert [one.caption for one in others] == [
        'MCR major: differences in points.',
        'MCR minor: differences in points.',
    ]
    assert table.caption.startswith('MCR all: differences in points. ')
    assert table.alignments == ['l', 'l', 'r', 'r', 'r', 'r', 'l']
    (first,) = texts(table)
    assert first[:2] == ['CE+TP → cRW', 'CE → cRW']
    assert first[2] == signed(100 * compared[0].difference)
    assert first[3] == '2'
    ends = [float(word.replace('−', '-')) for word in re.findall(r'[+−][\d.]+', first[5])]
    assert ends == pytest.approx(
        [100 * compared[0].over_images.low, 100 * compared[0].over_images.high], abs=0.005
    )
    assert 'number of comparisons (3)' in table.caption


def test_differences_say_that_a_row_has_more_seeds(section, make_run):
    for seed in range(3):
        make_run(f'a{seed}', 'ce_crw', seed, right=0.5)
    make_run('b1', 'ce_tp_crw', 1, right=0.9)
    here = section()
    (row,) = texts(differences_tables(comparisons(here, here.rows))[0])
    assert row[3] == '1 of 3'


def test_studies(section, make_run):
    for value in (0.01, 0.001):
        make_run(f'{value}', 'ce_tp_crw', right=0.5 + value, metric__triplet__coefficient=value)
    here = section()
    (study,) = studies(here)
    assert [row[:2] for row in texts(sensitivity_table(here, study))] == [
        ['0.001', '1'],
        ['0.01', '1'],
    ]


def test_every_run_has_its_file(section, make_run):
    make_run('x/a', 'ce_crw', 3, predictions=False)
    here = section()
    (row,) = texts(files_table(with_first_stages(here.rows)))  # once, though it is two rows
    assert row[:4] == ['x/a/results.json', 'CE → cRW', '-', '3']
    assert row[5] == 'no'


def test_tidy_lines_hold_every_number(section, make_run):
    made = [make_run(f'a{seed}', 'ce_crw', seed) for seed in range(2)]
    here = section()
    lines = {
        (one['method'], one['metric']): one for one in tidy(here, with_first_stages(here.rows))
    }
    crw = lines['ce_crw', 'mcr_all']
    recalls = [100 * r['final']['mcr_all'] for r in made]
    assert float(crw['mean']) == pytest.approx(np.mean(recalls), rel=1e-5)
    assert float(crw['deviation']) == pytest.approx(np.std(recalls, ddof=1), rel=1e-4)
    assert (crw['paper_mean'], crw['paper_deviation'], crw['seeds']) == ('84.11', '0.7', '0 1')
    assert float(crw['difference']) == pytest.approx(np.mean(recalls) - 84.11, rel=1e-3)
    assert (crw['stage'], lines['ce', 'mcr_all']['stage']) == ('last', '1')
    assert lines['ce_crw', 'recall DF']['paper_mean'] == ''
    assert ('ce_crw', 'ece') in lines
    assert ('ce', 'ece') not in lines
    text = io.StringIO()
    writer = csv.DictWriter(text, list(crw))
    writer.writerows(lines.values())  # all have the same fields
