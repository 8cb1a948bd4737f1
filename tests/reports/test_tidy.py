"""The tidy table holds the numbers of the runs; estimates and differences follow from it."""

import numpy as np
import pytest

from metriclt_jax.reports.statistics import bootstrap, trainings_interval
from metriclt_jax.reports.tidy import differences, reference_row, results, tidy


def compared(section, first, second, metric='mcr_all', reference=None):
    lines = differences(section, tidy(section), reference)
    of_pair = (lines['first'] == first) & (lines.second == second) & (lines.metric == metric)
    (line,) = lines[of_pair].itertuples()
    return line


def test_each_run_stage_and_metric_has_a_line(section, make_run):
    made = make_run('a', 'ce_crw', 3)
    make_run('b', 'rs', 0, predictions=False)
    table = tidy(section())
    assert not table.duplicated(['path', 'stage', 'metric']).any()
    values = table.set_index(['path', 'stage', 'metric']).value
    assert values['a', '1', 'macro_f1'] == made['stages'][0]['last']['test']['macro_f1']
    assert values['a', 'last', 'macro_auroc'] == made['final']['macro_auroc']
    assert values['a', 'last', 'recall DF'] == made['final']['confusion'][6][6] / 10
    assert [key for key in values.index if key[2] == 'ece'] == [('a', 'last', 'ece')]
    assert set(table[table.path == 'b'].stage) == {'last'}


def test_the_paper_has_the_default_settings_only(section, make_run):
    for path, margin in (('b', 20.0), ('c', 50.0)):
        make_run(path, 'ce_tp_crw', 0, metric__triplet__margin=margin)
    lines = results(section(), tidy(section())).set_index('variant')
    assert lines.paper_mean['margin=20.0'].isna().all()


def test_a_difference_is_over_common_seeds(section, make_run):
    a = [make_run(f'a{s}', 'ce_crw', s, right=0.6 + 0.03 * s) for s in (0, 1, 2)]
    b = [make_run(f'b{s}', 'ce_tp_crw', s, right=0.7) for s in (1, 2, 5)]
    found = compared(section(), 'CE+TP → cRW', 'CE → cRW')
    assert found.seeds == '1 2'
    pairs = [r['final']['mcr_all'] for r in b[:2]], [r['final']['mcr_all'] for r in a[1:]]
    assert found.difference == pytest.approx(100 * np.mean(np.subtract(*pairs)))
    ends = np.multiply(trainings_interval(np.subtract(*pairs)), 100)
    assert (found.trainings_low, found.trainings_high) == pytest.approx(ends)
    # The bootstrap is about the same two runs of each.
    _, crw, tp = section().main_rows
    shares = [
        np.mean([r.predictions.probabilities.argmax(1) == r.predictions.labels for r in runs], 0)
        for runs in (tp.runs[:2], crw.runs[1:])
    ]
    over_images = bootstrap(*shares, tp.runs[0].predictions.labels, range(7)).interval
    assert (found.low, found.high) == (100 * over_images.low, 100 * over_images.high)


def test_without_common_seeds_there_is_no_pairing_over_them(section, make_run):
    make_run('a', 'ce_crw', 0, right=0.5)
    make_run('b', 'ce_tp_crw', 1, right=0.9)
    found = compared(section(), 'CE+TP → cRW', 'CE → cRW')
    assert found.seeds == ''
    assert np.isnan(found.trainings_low)
    assert found.low > 0
    assert found.verdict == 'higher, for these trained networks'


@pytest.mark.parametrize('why', ['no predictions', 'other images', 'first stage'])
def test_where_there_is_no_bootstrap(section, make_run, tmp_path, why):
    make_run('a', 'ce_crw', 0)
    make_run('b', 'ce_tp_crw', 0, predictions=why != 'no predictions')
    if why == 'other images':
        path = tmp_path / 'runs/b/predictions.npz'
        with np.load(path) as arrays:
            np.savez(path, **(dict(arrays) | {'ids': np.arange(177).astype(str)}))
    first = 'CE *' if why == 'first stage' else 'CE+TP → cRW'
    found = compared(section(), first, 'CE → cRW')
    assert np.isnan(found.low)
    assert found.verdict == 'no interval'


def test_all_are_compared_with_the_reference_and_the_best_two(section, make_run):
    make_run('rw', 'rw', right=0.3)
    assert differences(section(), tidy(section())).empty
    for method, right in (('rs', 0.9), ('cutmix', 0.6)):
        make_run(method, method, right=right)

    def pairs(reference):
        lines = differences(section(), tidy(section()), reference)
        assert set(lines.metric) == {'mcr_all', 'mcr_major', 'mcr_minor'}
        lines = lines[lines.metric == 'mcr_all']
        return list(zip(lines['first'], lines.second, strict=True))

    assert pairs('rw') == [('RS', 'CutMix'), ('RS', 'RW'), ('CutMix', 'RW')]
    # With the best row as the reference, the best two are compared once.
    assert pairs('rs') == [('RW', 'RS'), ('CutMix', 'RS')]
    assert pairs(None) == [('RS', 'CutMix')]


def test_the_reference_is_the_row_most_like_the_default(section, make_run):
    make_run('a', 'ce_crw', weighting__beta=0.9)
    make_run('b', 'ce_crw', weighting__beta=0.9999)
    make_run('c', 'ce')
    rows = section().main_rows
    for order in (rows, rows[::-1]):
        assert reference_row(order).settings['weighting.beta'] == 0.9999
    assert reference_row([row for row in rows if row.method == 'ce']).method == 'ce'
    assert reference_row(rows, 'rs') is None
