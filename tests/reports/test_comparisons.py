"""What is said of a difference between two methods."""

import numpy as np
import pytest

from metriclt_jax.reports.comparisons import (
    Comparison,
    compare,
    comparisons,
    mcr_classes,
    reference_row,
)
from metriclt_jax.reports.runs import read_runs
from metriclt_jax.reports.sections import make_sections, with_first_stages
from metriclt_jax.reports.statistics import Interval, images_interval, seeds_interval


@pytest.fixture
def section(tmp_path):
    return lambda: make_sections(read_runs(tmp_path / 'runs')[0])[0][0]


def test_a_difference_is_over_common_seeds(section, make_run):
    a = [make_run(f'a{s}', 'ce_crw', s, right=0.6 + 0.03 * s) for s in (0, 1, 2)]
    b = [make_run(f'b{s}', 'ce_tp_crw', s, right=0.7) for s in (1, 2, 5)]
    crw, tp = section().rows
    found = compare(tp, crw, 'mcr_all', range(7))
    assert found.seeds == (1, 2)
    pairs = [r['final']['mcr_all'] for r in b[:2]], [r['final']['mcr_all'] for r in a[1:]]
    assert found.difference == pytest.approx(np.mean(pairs[0]) - np.mean(pairs[1]))
    assert found.over_seeds == seeds_interval(*pairs)
    # The bootstrap is about the same two runs of each.
    right = [
        np.mean(
            [r.predictions.probabilities.argmax(1) == r.predictions.labels for r in runs], axis=0
        )
        for runs in (tp.runs[:2], crw.runs[1:])
    ]
    assert found.over_images == images_interval(*right, tp.runs[0].predictions.labels, range(7))
    assert found.over_images.difference == pytest.approx(found.difference)


def test_without_common_seeds_there_is_no_pairing_over_them(section, make_run):
    make_run('a', 'ce_crw', 0, right=0.5)
    make_run('b', 'ce_tp_crw', 1, right=0.9)
    crw, tp = section().rows
    found = compare(tp, crw, 'mcr_all', range(7))
    assert (found.seeds, found.over_seeds) == ((), None)
    assert found.over_images.low > 0
    assert found.verdict == 'higher, for these trained networks'


def test_without_predictions_there_is_no_bootstrap(section, make_run):
    make_run('a', 'ce_crw', 0)
    make_run('b', 'ce_tp_crw', 0, predictions=False)
    crw, tp = section().rows
    found = compare(tp, crw, 'mcr_all', range(7))
    assert (found.over_images, found.verdict) == (None, 'no interval')


def test_other_test_images_allow_no_bootstrap(section, make_run, tmp_path):
    make_run('a', 'ce_crw', 0)
    make_run('b', 'ce_tp_crw', 0)
    path = tmp_path / 'runs/b/predictions.npz'
    with np.load(path) as arrays:
        np.savez(path, **(dict(arrays) | {'ids': np.array([f'other{i}' for i in range(177)])}))
    crw, tp = section().rows
    assert compare(tp, crw, 'mcr_all', range(7)).over_images is None


def test_a_first_stage_has_no_predictions_of_its_own(section, make_run):
    make_run('a', 'ce_crw', 0)
    ce, crw = with_first_stages(section().rows)
    assert compare(ce, crw, 'mcr_all', range(7)).over_images is None


UP, DOWN, BOTH = Interval(0.1, 0.05, 0.2), Interval(-0.1, -0.2, -0.05), Interval(0.1, -0.1, 0.3)


@pytest.mark.parametrize(
    ('difference', 'over_seeds', 'over_images', 'verdict'),
    [
        (0.1, UP, UP, 'higher'),
        (-0.1, DOWN, DOWN, 'lower'),
        (0.1, BOTH, UP, 'no difference shown'),
        (0.1, UP, BOTH, 'no difference shown'),
        (0.1, None, UP, 'higher, for these trained networks'),
        (0.1, None, BOTH, 'no difference shown'),
        (-0.1, DOWN, None, 'lower, on these images'),
        (0.1, None, None, 'no interval'),
        (0.1, UP, DOWN, 'no difference shown'),
    ],
)
def test_nothing_is_claimed_against_an_interval(difference, over_seeds, over_images, verdict):
    found = Comparison(None, None, 'mcr_all', (0, 1, 2), difference, over_seeds, over_images)
    assert found.verdict == verdict


def test_two_seeds_are_said():
    assert (
        Comparison(None, None, 'mcr_all', (0, 1), 0.1, UP, UP).verdict == 'higher, two seeds only'
    )


def test_of_several_references_the_one_most_like_the_default_counts(section, make_run):
    make_run('a', 'ce_crw', weighting__beta=0.9)
    make_run('b', 'ce_crw', weighting__beta=0.9999)
    here = section()
    for rows in (here.rows, here.rows[::-1]):
        assert reference_row(rows).settings['weighting.beta'] == 0.9999


def pairs(found):
    return [(c.first.method, c.second.method, c.metric) for c in found]


def test_all_are_compared_with_the_reference_and_the_best_two(section, make_run):
    for method, right in (('ce_crw', 0.5), ('ce_ct_crw', 0.9), ('ce_tp_crw', 0.7)):
        make_run(method, method, right=right)
    here = section()
    found = pairs(comparisons(here, here.rows))
    of_all = [
        ('ce_ct_crw', 'ce_tp_crw', 'mcr_all'),
        ('ce_ct_crw', 'ce_crw', 'mcr_all'),
        ('ce_tp_crw', 'ce_crw', 'mcr_all'),
    ]
    assert found[:3] == of_all
    assert {metric for *_, metric in found} == {'mcr_all', 'mcr_major', 'mcr_minor'}
    # With the best row as the reference, the best two are compared once.
    assert pairs(comparisons(here, here.rows, 'ce_ct_crw'))[:2] == [
        ('ce_crw', 'ce_ct_crw', 'mcr_all'),
        ('ce_tp_crw', 'ce_ct_crw', 'mcr_all'),
    ]


def test_the_reference_is_the_plain_two_stage_row(section, make_run):
    make_run('a', 'ce')
    make_run('b', 'ce_crw')
    rows = section().rows
    assert reference_row(rows).method == 'ce_crw'
    assert reference_row(rows[:1]).method == 'ce'
    assert reference_row(rows, 'rs') is None
    assert comparisons(section(), rows[:1]) == []


def test_groups_are_those_of_the_data_set(section, make_run):
    make_run('a', 'ce', groups={'minor': [5, 6], 'medium': [3], 'major': [0]})
    assert list(mcr_classes(section())) == ['mcr_all', 'mcr_major', 'mcr_medium', 'mcr_minor']
    assert mcr_classes(section())['mcr_minor'] == [5, 6]
