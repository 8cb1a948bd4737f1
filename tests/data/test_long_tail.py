import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.data.long_tail import (
    exponential_counts,
    head_to_tail,
    long_tailed_counts,
    subset,
)
from metriclt_jax.data.sources.medmnist import PUBLISHED
from metriclt_jax.errors import InputError


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


def test_orders_from_head_to_tail():
    available = np.array([20, 30, 10, 30])
    assert head_to_tail('index', available, [*'abcd']).tolist() == [0, 1, 2, 3]
    assert head_to_tail('size', available, [*'abcd']).tolist() == [1, 3, 0, 2]  # ties by index
    assert head_to_tail('d,a,c,b', available, [*'abcd']).tolist() == [3, 0, 2, 1]
    names = ['nevus', 'nevus, blue', 'nev']  # of names that begin alike, the longest is taken
    assert head_to_tail('nevus, blue,nev,nevus', np.ones(3), names).tolist() == [1, 2, 0]


def test_an_order_of_names_with_commas():
    names = PUBLISHED['bloodmnist']['class_names']
    assert any(',' in name for name in names)
    order = np.random.default_rng(0).permutation(len(names))
    text = ','.join(names[label] for label in order)
    assert head_to_tail(text, np.ones(len(names)), names).tolist() == order.tolist()
    with pytest.raises(InputError, match='long_tail_order is'):
        head_to_tail(text + ',normal', np.ones(len(names)), names)


@pytest.mark.parametrize('order', ['a,b', 'a,b,c,c', 'a,b,c,d,', 'sizes', ''])
def test_an_order_that_is_none_of_the_classes_is_refused(order):
    with pytest.raises(InputError, match=r'long_tail_order is .*: a,b,c,d'):
        head_to_tail(order, np.ones(4, int), [*'abcd'])


def test_counts_follow_the_order_and_stop_at_what_there_is():
    available = np.array([50, 7, 80, 64])
    order = np.array([2, 0, 3, 1])
    # 80, 40, 20, 10 along the order; class 1 has but 7.
    assert long_tailed_counts(available, order, 8.0, 'first').tolist() == [40, 7, 80, 20]
    # 7, 3.5, 1.75, 0.875: from the smallest class there is always enough.
    assert long_tailed_counts(available, order, 8.0).tolist() == [4, 1, 7, 2]
    assert long_tailed_counts(available, order, 7.0, rounding='down').tolist() == [3, 1, 7, 1]


def test_a_ratio_that_leaves_nothing_is_refused():
    available, order = np.array([50, 7]), np.array([0, 1])
    long_tailed_counts(available, order, 100.0, 'first')
    long_tailed_counts(available, order, 50.0, 'first', 'down')
    for ratio, rounding, limit in ((101.0, 'nearest', 100), (51.0, 'down', 50)):
        with pytest.raises(InputError, match=f'imbalance_ratio is {ratio}; .* at most {limit}'):
            long_tailed_counts(available, order, ratio, 'first', rounding)
