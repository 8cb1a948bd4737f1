from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.models.layers import BatchNorm, StatisticsGroup


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


def train(module, x, cotangent):
    """Outputs, running statistics, and gradients of the parameters and of `x`."""

    def loss(params, x):
        variables = {**VARIABLES, 'params': params}
        y, updated = module.apply(variables, x, train=True, mutable=['batch_stats'])
        return jnp.sum(y * cotangent), (y, updated['batch_stats'])

    gradients, outputs = jax.grad(loss, (0, 1), has_aux=True)(VARIABLES['params'], x)
    return *outputs, *gradients


@pytest.mark.parametrize('images', [0, 1, 2, 4, 8, 16])  # a device has two
def test_eight_devices_and_one_equal_one_group_after_the_other(images):
    x, cotangent = draw(0, 16, 2, 2, 3), draw(5, 16, 2, 2, 3)
    count = 16 // (images or 16)
    ghosts = [
        train(BatchNorm(), *batches)
        for batches in zip(np.split(x, count), np.split(cotangent, count), strict=True)
    ]
    expected = [np.concatenate([ghost[i] for ghost in ghosts]) for i in (0, 3)]
    stats = jax.tree.map(lambda *of_groups: np.mean(of_groups, axis=0), *(g[1] for g in ghosts))
    of_parameters = jax.tree.map(
        lambda *of_groups: np.sum(of_groups, axis=0), *(g[2] for g in ghosts)
    )

    def split(array):
        return array.reshape(8, 2, *array.shape[1:])

    module = BatchNorm(group=StatisticsGroup('batch', images))
    on_eight = jax.pmap(partial(train, module), axis_name='batch')(split(x), split(cotangent))
    mean, add = (partial(jax.tree.map, partial(f, axis=0)) for f in (np.mean, np.sum))
    on_eight = on_eight[0], mean(on_eight[1]), add(on_eight[2]), on_eight[3]
    on_one = train(BatchNorm(group=StatisticsGroup(images=images)), x, cotangent)
    for y, running, of_params, of_x in (on_eight, on_one):
        np.testing.assert_allclose(y.reshape(x.shape), expected[0], atol=1e-5)
        np.testing.assert_allclose(of_x.reshape(x.shape), expected[1], atol=1e-5)
        for name in ('mean', 'var'):  # n of the unbiased variance counts the whole group
            np.testing.assert_allclose(running[name], stats[name], rtol=1e-5)
        for name in ('scale', 'bias'):
            np.testing.assert_allclose(of_params[name], of_parameters[name], rtol=1e-4, atol=1e-4)


def test_only_groups_of_several_devices_exchange_statistics():
    x = jax.ShapeDtypeStruct((8, 2, 2, 2, 3), jnp.float32)
    for images, exchanges in ((0, True), (1, False), (2, False), (4, True)):
        module = BatchNorm(group=StatisticsGroup('batch', images))
        program = jax.pmap(partial(train, module), axis_name='batch').lower(x, x).as_text()
        assert ('all_reduce' in program) == exchanges, images


@pytest.mark.parametrize('images', [3, 6, 12, 32])
def test_groups_that_do_not_divide_the_batch_are_refused(images):
    module, x = BatchNorm(group=StatisticsGroup('batch', images)), draw(0, 8, 2, 2, 3)
    with pytest.raises(InputError, match=f'batch_norm_group is {images}, '):
        jax.pmap(partial(train, module), axis_name='batch')(
            x.reshape(4, 2, 2, 2, 3), x.reshape(4, 2, 2, 2, 3)
        )


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
