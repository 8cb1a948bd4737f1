"""The statistics against hand-worked numbers, SciPy and scikit-learn."""

import math

import numpy as np
import pytest
from scipy import stats

from metriclt_jax.reports.statistics import (
    Interval,
    best_and_second,
    bootstrap,
    calibrate,
    holm,
    trainings_interval,
    verdict,
)


def test_ties_share_a_mark():
    assert best_and_second([1, 3, 2, 3]) == ['', 'bold', 'underline', 'bold']
    assert best_and_second([3, 2, 2, None]) == ['bold', 'underline', 'underline', '']
    assert best_and_second([None]) == ['']


@pytest.mark.parametrize('count', [2, 3, 10])
def test_the_interval_over_trainings_is_that_of_a_paired_t_test(count):
    first, second = np.random.default_rng(count).normal(size=(2, count))
    test = stats.ttest_rel(first, second)
    expected = test.confidence_interval(0.95)
    interval = trainings_interval(first - second)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_training_or_no_variation_allow_no_interval():
    bases = [3 / 23, 11 / 23, 7 / 23]  # one image more of 23 each time: equal but for rounding
    cases = ([0.9], [0.5]), ([0.75, 0.5], [0.5, 0.25]), ([base + 1 / 23 for base in bases], bases)
    assert all(np.isnan(trainings_interval(np.subtract(*case))).all() for case in cases)


def test_bootstrap_enumerated():
    """One class of two images, gains 0 and 1: a draw is 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    value, interval, p = bootstrap([0, 1], [0, 0], [0, 0], [0])
    assert (value, interval) == (0.5, (0, 1))
    assert p == pytest.approx(0.5, abs=0.02)


def test_bootstrap_weighs_classes_equally_and_keeps_their_sizes():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [400, 100, 50])
    first, second = rng.random((2, len(labels))) < np.array([[0.8], [0.7]])
    interval = bootstrap(first, second, labels, [0, 1, 2]).interval
    gain = first.astype(float) - second
    parts = [gain[labels == c] for c in range(3)]
    mean = np.mean([part.mean() for part in parts])
    # The variance of the mean of three independent means; the percentile interval comes near.
    deviation = math.sqrt(sum(part.var() / len(part) for part in parts)) / 3
    assert interval.low == pytest.approx(mean - 1.96 * deviation, abs=0.06 * deviation)
    assert interval.high == pytest.approx(mean + 1.96 * deviation, abs=0.06 * deviation)


def test_bootstrap_is_scipys_in_one_class():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 80)) < 0.6
    gain = first.astype(float) - second
    expected = stats.bootstrap(
        (gain,), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(2)
    ).confidence_interval
    interval = bootstrap(first, second, np.zeros(80, int), [0]).interval
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.013)


def test_copies_in_one_group_add_no_information():
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, 120)
    first, second = rng.random((2, 120)) < 0.6
    alone = bootstrap(first, second, labels, [0, 1, 2])
    copies = [np.repeat(values, 4) for values in (first, second, labels)]
    groups = np.repeat(np.arange(120), 4).astype(str)
    together = bootstrap(*copies, [0, 1, 2], groups)
    assert together.value == pytest.approx(alone.value)
    np.testing.assert_allclose(together.interval, alone.interval, atol=0.01)
    apart = bootstrap(*copies, [0, 1, 2], np.full(480, '')).interval
    assert np.diff(apart) == pytest.approx(np.diff(alone.interval) / 2, rel=0.1)


def test_bootstrap_of_groups_has_the_variance_of_a_ratio():
    """Groups of several images and classes, against the linearised (sandwich) variance."""
    rng = np.random.default_rng(4)
    group = rng.integers(0, 150, 900)
    labels = np.where(rng.random(900) < 0.9, group % 3, (group + 1) % 3)
    easy = rng.normal(size=150)[group]
    first, second = ((easy + rng.normal(size=900) > cut).astype(float) for cut in (-0.5, 0))
    found = bootstrap(first, second, labels, [0, 1, 2], group.astype(str))
    influence = np.zeros(150)
    for c in range(3):
        gain, of_class = (first - second)[labels == c], group[labels == c]
        np.add.at(influence, of_class, (gain - gain.mean()) / len(gain) / 3)
    deviation = math.sqrt(np.sum(influence**2))
    assert np.diff(found.interval) == pytest.approx(2 * 1.96 * deviation, rel=0.06)
    assert 0 < found.p < 0.001


def test_other_classes_do_not_matter():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 4, 300)
    first, second = rng.random((2, 300)) < 0.7
    kept = np.isin(labels, [1, 3])
    groups = np.arange(300).astype(str)
    expected = bootstrap(first[kept], second[kept], labels[kept] // 2, [0, 1], groups[kept])
    assert bootstrap(first, second, labels, [1, 3], groups) == expected


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1.0, 1.0]


def test_folds_that_overlap_widen_the_interval():
    differences = np.random.default_rng(6).normal(1.0, 0.5, 5)
    plain = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    interval = trainings_interval(differences, test_share=0.2)
    # The factor of Nadeau and Bengio (2003): sqrt(1 + J n_test / n_train).
    assert np.diff(interval) == pytest.approx(np.diff(plain) * math.sqrt(1 + 5 / 4))
    assert np.mean(interval) == pytest.approx(differences.mean())


def test_calibration_by_hand():
    probabilities = [[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.45, 0.55]]
    bins = calibrate(probabilities, [0, 1, 1, 1], bins=2)
    assert bins.counts.tolist() == [0, 4]
    assert np.isnan(bins.accuracy[0])
    assert bins.confidence[1] == pytest.approx(0.7375)
    assert bins.accuracy[1] == 0.75
    assert bins.error == pytest.approx(0.0125)
    assert calibrate([[1.0, 0.0]], [0], bins=15).counts.tolist() == [0] * 14 + [1]


def test_bins_are_those_of_scikit_learn():
    """`calibration_curve` bins the confidence in "correct or not" the same way."""
    from sklearn.calibration import calibration_curve

    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet([1.0, 1.0, 1.0], size=500)
    labels = rng.integers(3, size=500)
    bins = calibrate(probabilities, labels, bins=10)
    correct = probabilities.argmax(axis=1) == labels
    accuracy, confidence = calibration_curve(correct, probabilities.max(axis=1), n_bins=10)
    filled = bins.counts > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy)
    np.testing.assert_allclose(bins.confidence[filled], confidence)


UP, DOWN, BOTH, NONE = Interval(0.05, 0.2), Interval(-0.2, -0.05), Interval(-0.1, 0.3), Interval()


@pytest.mark.parametrize(
    ('difference', 'over_trainings', 'p', 'count', 'expected'),
    [
        (0.1, UP, 0.01, 3, 'higher'),
        (0.1, UP, 0.01, 2, 'higher, two trainings only'),
        (-0.1, DOWN, 0.01, 3, 'lower'),
        (0.1, BOTH, 0.01, 3, 'no difference shown'),
        (0.1, UP, 0.06, 3, 'no difference shown'),
        (0.1, NONE, 0.01, 1, 'higher, for these trained networks'),
        (0.1, NONE, 0.2, 1, 'no difference shown'),
        (-0.1, DOWN, math.nan, 3, 'lower, on these images'),
        (0.1, NONE, math.nan, 1, 'no interval'),
        (0.1, DOWN, 0.01, 3, 'no difference shown'),
    ],
)
def test_nothing_is_claimed_against_an_interval(difference, over_trainings, p, count, expected):
    assert verdict(difference, over_trainings, p, count) == expected
