import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.models.pooling import max_pool


@pytest.mark.parametrize(
    ('size', 'window', 'stride', 'padding'),
    [((8, 8), 3, 2, 1), ((9, 6), 3, 2, 1), ((7, 5), 2, 2, 0), ((2, 1), 3, 1, 1)],
)
def test_equals_xla_pooling_in_value_and_gradient_even_with_ties(size, window, stride, padding):
    # Few distinct values, half of them zero: most windows have ties, as after a ReLU.
    values = np.random.default_rng(0).integers(-2, 3, (3, *size, 4)).clip(0)

    def xla(x):
        return nn.max_pool(x, (window,) * 2, (stride,) * 2, ((padding, padding),) * 2)

    @jax.jit
    def both(x):
        results = []
        for pool in (lambda x: max_pool(x, window, stride, padding), xla):
            value, vjp = jax.vjp(pool, x)
            cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
            results.append((value, *vjp(cotangent)))
        return results

    for actual, expected in zip(*both(jnp.asarray(values, jnp.float32)), strict=True):
        np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_padding_never_wins():
    x = jnp.full((1, 4, 4, 1), -5.0)
    np.testing.assert_array_equal(max_pool(x, 3, 2, 1), np.full((1, 2, 2, 1), -5.0))
