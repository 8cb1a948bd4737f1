"""Class weights, and the weighted mean that takes them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.losses import weighted_mean
from metriclt_jax.losses.class_weights import effective_number, inverse_frequency


@settings(deadline=None, max_examples=25)
@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=20),
    st.sampled_from([0, 0.5, 0.9, 0.999, 0.9999, 0.999999]),
)
def test_formulas_in_float64(counts, beta):
    n = np.array(counts, float)
    for weights, expected in (
        (inverse_frequency(counts), 1 / n),
        (effective_number(counts, beta), (1 - beta) / (1 - beta**n)),
    ):
        assert weights.dtype == jnp.float32
        np.testing.assert_allclose(weights, expected * len(n) / expected.sum(), rtol=1e-5)


def test_a_class_without_images_has_weight_zero_and_the_sum_stays():
    for weigh in (inverse_frequency, lambda n: effective_number(n, 0.99)):
        weights = weigh([0, 40, 10])
        assert weights[0] == 0
        np.testing.assert_allclose(weights.sum(), 3, rtol=1e-6)
        np.testing.assert_allclose(weights[1:], weigh([40, 10]) * 3 / 2, rtol=1e-6)
        np.testing.assert_array_equal(weigh([0, 0]), 0)


@pytest.mark.parametrize('beta', [-0.1, 1, 1.5, float('nan')])
def test_beta_outside_its_range_and_counts_of_wrong_rank_are_refused(beta):
    with pytest.raises(ValueError, match='beta'):
        effective_number([5000, 500, 50], beta)
    with pytest.raises(ValueError, match='counts'):
        inverse_frequency([[5000, 500, 50]])


def test_weighted_mean_is_sum_of_weighted_values_over_sum_of_weights():
    assert weighted_mean([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == 3.75
    values = jnp.array([[1.0, 100.0], [3.0, 100.0]])
    assert weighted_mean(values, values < 50) == 2.0  # a mask of any shape


def test_gradient_of_weighted_mean_is_the_share_of_each_value_and_zero_if_weights_sum_to_zero():
    values, weights = jnp.array([1.0, 2.0, 6.0]), jnp.array([1.0, 1.0, 2.0])
    by_values, by_weights = jax.grad(weighted_mean, argnums=(0, 1))(values, weights)
    np.testing.assert_allclose(by_values, weights / 4)
    np.testing.assert_array_equal(by_weights, 0)
    value, gradient = jax.value_and_grad(weighted_mean)(values, 0 * weights)
    np.testing.assert_array_equal([value, *gradient], 0)


def test_low_precision_is_summed_in_float32():
    # In bfloat16 a running sum of ones stops at 256.
    mean = weighted_mean(jnp.ones(1000, jnp.bfloat16), jnp.ones(1000, jnp.bfloat16))
    assert mean.dtype == jnp.float32
    assert mean == 1


def test_values_and_weights_of_different_shapes_are_refused():
    # Broadcasting [B] against [B, 1] would give a plausible, wrong number.
    with pytest.raises(ValueError, match='shape'):
        weighted_mean(jnp.ones(3), jnp.ones([3, 1]))
