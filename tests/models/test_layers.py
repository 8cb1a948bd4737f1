from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.models.layers import BatchNorm


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(1.5, 2.0, shape).astype(np.float32)


VARIABLES = {
    'params': {'scale': draw(1, 3), 'bias': draw(2, 3)},
    'batch_stats': {'mean': draw(3, 3), 'var': np.abs(draw(4, 3))},
}


def normalize(x, mean, var):
    scaled = (x - mean) / np.sqrt(var + 1e-5)
    return scaled * VARIABLES['params']['scale'] + VARIABLES['params']['bias']


@pytest.mark.parametrize('shape', [(4, 5, 6, 3), (7, 3)])
def test_training_takes_the_biased_variance_and_stores_the_unbiased_for_evaluation(shape):
    x = draw(0, *shape)
    y, updated = BatchNorm().apply(VARIABLES, x, train=True, mutable=['batch_stats'])
    flat = x.reshape(-1, 3).astype(np.float64)
    np.testing.assert_allclose(y, normalize(x, flat.mean(0), flat.var(0)), atol=2e-5)
    before, after = VARIABLES['batch_stats'], updated['batch_stats']
    np.testing.assert_allclose(after['mean'], 0.9 * before['mean'] + 0.1 * flat.mean(0), rtol=1e-5)
    unbiased = flat.var(0, ddof=1)
    np.testing.assert_allclose(after['var'], 0.9 * before['var'] + 0.1 * unbiased, rtol=1e-5)
    evaluated = BatchNorm().apply(VARIABLES, x)
    np.testing.assert_allclose(evaluated, normalize(x, before['mean'], before['var']), atol=2e-5)


def test_eight_devices_equal_one():
    x, cotangent = draw(0, 16, 2, 2, 3), draw(5, 16, 2, 2, 3)

    def forward(module, x, cotangent):
        def loss(params, x):
            variables = {**VARIABLES, 'params': params}
            y, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
            return jnp.sum(y * cotangent), (y, updated['batch_stats'])

        gradient = jax.grad(loss, (0, 1), has_aux=True)
        gradients, outputs = gradient(VARIABLES['params'], x)
        return *outputs, *gradients

    def split(array):
        return array.reshape(8, 2, *array.shape[1:])

    y, stats, params_gradient, x_gradient = forward(BatchNorm(), x, cotangent)
    parallel = jax.pmap(partial(forward, BatchNorm(axis_name='batch')), axis_name='batch')
    ys, all_stats, params_gradients, x_gradients = parallel(split(x), split(cotangent))
    np.testing.assert_allclose(ys.reshape(y.shape), y, atol=1e-5)
    np.testing.assert_allclose(x_gradients.reshape(x.shape), x_gradient, atol=1e-5)
    for name in ('mean', 'var'):  # n of the unbiased variance counts all devices
        for of_device in all_stats[name]:
            np.testing.assert_allclose(of_device, stats[name], rtol=1e-6)
    for name in ('scale', 'bias'):
        total = np.sum(params_gradients[name], axis=0)
        np.testing.assert_allclose(total, params_gradient[name], rtol=1e-4, atol=1e-4)


def test_statistics_are_float32_in_bfloat16():
    x = jnp.asarray(draw(0, 8, 4, 4, 3), jnp.bfloat16)
    module = BatchNorm(dtype=jnp.bfloat16)
    y, updated = module.apply(VARIABLES, x, train=True, mutable=['batch_stats'])
    assert y.dtype == jnp.bfloat16
    # Summed in bfloat16 the mean of 128 values would be off by far more.
    expected = np.asarray(x, np.float64).reshape(-1, 3).mean(0)
    stored = (updated['batch_stats']['mean'] - 0.9 * VARIABLES['batch_stats']['mean']) / 0.1
    np.testing.assert_allclose(stored, expected, rtol=1e-4)


def test_one_value_per_channel_is_refused():
    with pytest.raises(InputError, match='1 value per channel'):
        BatchNorm().apply(VARIABLES, np.ones((1, 1, 1, 3)), train=True, mutable=['batch_stats'])
