import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.models.pooling import max_pool


@pytest.mark.parametrize('size', [(8, 8), (9, 6), (7, 5), (2, 1)])
@pytest.mark.parametrize('window', [(3, 2, 1), (2, 2, 0), (3, 1, 1)])
def test_equals_xla_pooling_in_value_and_gradient_even_with_ties(size, window):
    window, stride, padding = window
    if min(size) + 2 * padding < window:
        pytest.skip('no window fits')
    # Few distinct values, half of them zero: most windows have ties, as after a ReLU.
    values = np.random.default_rng(0).integers(-2, 3, (3, *size, 4)).clip(0)
    x = jnp.asarray(values, jnp.float32)

    def xla(x):
        return nn.max_pool(x, (window,) * 2, (stride,) * 2, ((padding, padding),) * 2)

    expected, expected_vjp = jax.vjp(xla, x)
    actual, actual_vjp = jax.vjp(lambda x: max_pool(x, window, stride, padding), x)
    np.testing.assert_array_equal(actual, expected)
    cotangent = jnp.asarray(np.random.default_rng(1).standard_normal(expected.shape), jnp.float32)
    np.testing.assert_allclose(actual_vjp(cotangent)[0], expected_vjp(cotangent)[0], atol=1e-6)


def test_padding_never_wins():
    x = jnp.full((1, 4, 4, 1), -5.0)
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1), np.full((1, 2, 2, 1), -5.0))
