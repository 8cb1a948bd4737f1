import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.data.long_tail import exponential_counts, subset
from metriclt_jax.errors import InputError


def test_counts_of_pathmnist_lt():
    counts = exponential_counts(9366, 9, 100)
    assert counts.tolist() == [9366, 5267, 2962, 1666, 937, 527, 296, 167, 94]
    assert counts.sum() == 21282


def test_counts_of_dogs_lt_are_rounded_down():
    counts = exponential_counts(100, 120, 10, rounding='down')
    assert (counts[0], counts[-1], counts.sum()) == (100, 10, 4646)


@pytest.mark.parametrize('rounding', ['nearest', 'down'])
@given(n_max=st.integers(1, 10000), classes=st.integers(1, 200), smallest=st.integers(1, 100))
@settings(deadline=None, max_examples=100)
def test_the_ends_of_the_curve_are_exact(rounding, n_max, classes, smallest):
    n_max = max(n_max, smallest)
    counts = exponential_counts(n_max, classes, n_max / smallest, rounding)
    assert counts.shape == (classes,)
    assert counts[0] == n_max
    assert counts[-1] == (smallest if classes > 1 else n_max)
    assert np.all(np.diff(counts) <= 0)


def test_ratio_1_is_balanced():
    assert exponential_counts(7, 3, 1).tolist() == [7, 7, 7]


@pytest.mark.parametrize('ratio', [0.5, -1.0, float('nan')])
def test_a_ratio_below_1_is_refused(ratio):
    with pytest.raises(InputError, match=r'data\.imbalance_ratio'):
        exponential_counts(100, 10, ratio)


def test_subset_takes_what_is_asked_for():
    labels = np.random.default_rng(0).integers(0, 4, 400)
    chosen = subset(labels, [50, 20, 0, 5], seed=0)
    assert np.bincount(labels[chosen], minlength=4).tolist() == [50, 20, 0, 5]
    assert np.all(np.diff(chosen) > 0)
    np.testing.assert_array_equal(chosen, subset(labels, [50, 20, 0, 5], seed=0))
    assert not np.array_equal(chosen, subset(labels, [50, 20, 0, 5], seed=1))


def test_subsets_for_smaller_counts_lie_in_those_for_larger():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(9), 200))
    previous = np.arange(len(labels))
    for ratio in (1, 2, 10, 50, 100):
        chosen = subset(labels, exponential_counts(200, 9, ratio), seed=5)
        assert set(chosen) <= set(previous)
        previous = chosen
    assert len(previous) < len(labels) / 3


def test_more_images_than_there_are_is_refused():
    with pytest.raises(InputError, match='class 1 has 2 images, too few for 3'):
        subset(np.array([0, 0, 0, 1, 1]), [3, 3], seed=0)
