import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.losses import weighted_mean


def test_is_sum_of_weighted_values_over_sum_of_weights():
    assert weighted_mean([1.0, 2.0, 6.0], [1.0, 1.0, 2.0]) == 3.75
    values = jnp.array([[1.0, 100.0], [3.0, 100.0]])
    assert weighted_mean(values, values < 50) == 2.0  # a mask of any shape


def test_gradient_is_the_share_of_each_value_and_zero_if_weights_sum_to_zero():
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


def test_different_shapes_are_refused():
    # Broadcasting [B] against [B, 1] would give a plausible, wrong number.
    with pytest.raises(ValueError, match='shape'):
        weighted_mean(jnp.ones(3), jnp.ones([3, 1]))
