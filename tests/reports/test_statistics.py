"""The statistics against hand-worked numbers, SciPy and scikit-learn."""

import math

import numpy as np
import pytest
from scipy import stats

from metriclt_jax.reports.statistics import (
    Interval,
    best_and_second,
    calibrate,
    images_interval,
    seeds_interval,
    verdict,
)


def test_ties_share_a_mark():
    assert best_and_second([1, 3, 2, 3]) == ['', 'bold', 'underline', 'bold']
    assert best_and_second([3, 2, 2, None]) == ['bold', 'underline', 'underline', '']
    assert best_and_second([None]) == ['']


@pytest.mark.parametrize('count', [2, 3, 10])
def test_seeds_interval_is_that_of_a_paired_t_test(count):
    first, second = np.random.default_rng(count).normal(size=(2, count))
    test = stats.ttest_rel(first, second)
    expected = test.confidence_interval(0.95)
    interval = seeds_interval(first, second)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high))


def test_one_seed_or_no_variation_allow_no_interval():
    bases = [3 / 23, 11 / 23, 7 / 23]  # one image more of 23 each time: equal but for rounding
    cases = ([0.9], [0.5]), ([0.75, 0.5], [0.5, 0.25]), ([base + 1 / 23 for base in bases], bases)
    assert all(np.isnan(seeds_interval(*case)).all() for case in cases)


def test_images_interval_enumerated():
    """One class of two images, gains 0 and 1: a draw is 0, 1/2, 1 with 1/4, 1/2, 1/4."""
    assert images_interval([0, 1], [0, 0], [0, 0], [0]) == (0, 1)


def test_images_interval_weighs_classes_equally_and_keeps_their_sizes():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [400, 100, 50])
    first, second = rng.random((2, len(labels))) < np.array([[0.8], [0.7]])
    interval = images_interval(first, second, labels, [0, 1, 2])
    gain = first.astype(float) - second
    parts = [gain[labels == c] for c in range(3)]
    mean = np.mean([part.mean() for part in parts])
    # The variance of the mean of three independent means; the percentile interval comes near.
    deviation = math.sqrt(sum(part.var() / len(part) for part in parts)) / 3
    assert interval.low == pytest.approx(mean - 1.96 * deviation, abs=0.06 * deviation)
    assert interval.high == pytest.approx(mean + 1.96 * deviation, abs=0.06 * deviation)


def test_images_interval_is_scipys_in_one_class():
    rng = np.random.default_rng(1)
    first, second = rng.random((2, 80)) < 0.6
    gain = first.astype(float) - second
    expected = stats.bootstrap(
        (gain,), np.mean, n_resamples=20_000, method='percentile', rng=np.random.default_rng(2)
    ).confidence_interval
    interval = images_interval(first, second, np.zeros(80, int), [0])
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), abs=0.013)


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
    ('difference', 'seeds', 'images', 'count', 'expected'),
    [
        (0.1, UP, UP, 3, 'higher'),
        (0.1, UP, UP, 2, 'higher, two seeds only'),
        (-0.1, DOWN, DOWN, 3, 'lower'),
        (0.1, BOTH, UP, 3, 'no difference shown'),
        (0.1, UP, BOTH, 3, 'no difference shown'),
        (0.1, NONE, UP, 1, 'higher, for these trained networks'),
        (0.1, NONE, BOTH, 1, 'no difference shown'),
        (-0.1, DOWN, NONE, 3, 'lower, on these images'),
        (0.1, NONE, NONE, 1, 'no interval'),
        (0.1, UP, DOWN, 3, 'no difference shown'),
    ],
)
def test_nothing_is_claimed_against_an_interval(difference, seeds, images, count, expected):
    assert verdict(difference, seeds, images, count) == expected
