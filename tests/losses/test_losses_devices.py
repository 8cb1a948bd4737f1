"""The batch on eight devices gives the value and the gradient of the batch on one.

Under `pmap`, and under `shard_map` with and without its check of what varies over devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from metriclt_jax.losses import (
    balanced_contrastive,
    center,
    class_weights,
    cross_entropy,
    supervised_contrastive,
    triplet,
    weighted_mean,
)

# Sorted by class: the first four devices see class 0 only, and one sees two tail classes.
LABELS = np.array([0] * 9 + [1] * 3 + [2] * 2 + [3, 4])
MASK = np.array([1] * 9 + [0] * 7, bool)  # the padding of a last batch
CLASS_WEIGHTS = np.asarray(class_weights.inverse_frequency(np.bincount(LABELS)))

# (outputs [B, 5], batch, centers [5, 5], axis_name) -> scalar
OBJECTIVES = {
    'center masked': lambda x, batch, centers, axis: weighted_mean(
        center(x, batch['label'], centers), batch['mask'], axis
    ),
    'cross_entropy weighted': lambda x, batch, centers, axis: weighted_mean(
        cross_entropy(x, batch['label']), jnp.asarray(CLASS_WEIGHTS)[batch['label']], axis
    ),
    'cross_entropy masked': lambda x, batch, centers, axis: weighted_mean(
        cross_entropy(x, batch['label']), batch['mask'], axis
    ),
    'batch_hard': lambda x, batch, centers, axis: triplet(x, batch['label'], 1.5, axis_name=axis),
    'batch_all': lambda x, batch, centers, axis: triplet(
        x, batch['label'], 0.3, mining='batch_all', axis_name=axis
    ),
    'contrastive': lambda x, batch, centers, axis: supervised_contrastive(
        x, batch['label'], axis_name=axis
    ),
    'balanced': lambda x, batch, centers, axis: balanced_contrastive(
        x, batch['label'], centers, axis_name=axis
    ),
}
RANDOM = np.random.default_rng(0)
PARAMETERS = {
    name: RANDOM.normal(size=shape).astype(np.float32)
    for name, shape in {'kernel': (6, 5), 'bias': (5,), 'centers': (5, 5)}.items()
}
BATCH = {
    'input': RANDOM.normal(size=(16, 6)).astype(np.float32),
    'label': LABELS,
    'mask': MASK,
}


def evaluate(parameters, batch, axis_name=None, names=OBJECTIVES):
    """The value and the gradient by the parameters of each objective, as a training step does."""

    def loss(parameters, name):
        outputs = jnp.tanh(batch['input'] @ parameters['kernel'] + parameters['bias'])
        return OBJECTIVES[name](outputs, batch, parameters['centers'], axis_name)

    results = {name: jax.value_and_grad(loss)(parameters, name) for name in names}
    if axis_name is None:
        return results
    # Values are the same on every device, which out_axes=None and out_specs=P() take for granted.
    values = {name: jnp.broadcast_to(value, 1) for name, (value, _) in results.items()}
    gradients = {name: gradient for name, (_, gradient) in results.items()}
    return values, jax.lax.pmean(gradients, axis_name)


def split(batch):
    return jax.tree.map(lambda x: x.reshape(8, -1, *x.shape[1:]), batch)


MESH = jax.make_mesh((8,), ('batch',), axis_types=(jax.sharding.AxisType.Auto,))


@functools.cache
def mapped(how):
    """A function of parameters and batch; each value comes `[8]`, as the devices have it."""
    on_device = functools.partial(evaluate, axis_name='batch')
    if how == 'pmap':
        run = jax.pmap(on_device, 'batch', in_axes=(None, 0), out_axes=(0, None))
        return lambda parameters, batch: run(parameters, split(batch))
    return jax.jit(
        jax.shard_map(
            on_device,
            mesh=MESH,
            in_specs=(P(), P('batch')),
            out_specs=(P('batch'), P()),
            check_vma=how == 'checked',
        )
    )


@pytest.fixture(scope='module')
def expected():
    return jax.jit(evaluate)(PARAMETERS, BATCH)


def relative_difference(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('how', ['pmap', 'checked', 'unchecked'])
def test_values_and_gradients_are_those_of_one_device(how, expected):
    values, gradients = mapped(how)(PARAMETERS, BATCH)
    for name, (value, gradient) in expected.items():
        np.testing.assert_allclose(np.ravel(values[name]), np.full(8, value), rtol=1e-6)
        learned = [k for k in gradient if k != 'centers' or name.startswith(('center', 'balanced'))]
        for parameter in learned:
            actual = gradients[name][parameter]
            assert relative_difference(actual, gradient[parameter]) < 1e-5, (name, parameter)
            assert np.any(gradient[parameter])


@pytest.mark.parametrize('how', ['pmap', 'checked'])
def test_nothing_to_average_on_any_device_is_zero(how):
    for change, names in (
        ({'label': np.arange(16)}, ('batch_hard', 'batch_all', 'contrastive')),
        ({'label': np.zeros(16, int)}, ('batch_hard', 'batch_all')),
        ({'mask': np.zeros(16, bool)}, ('cross_entropy masked', 'center masked')),
    ):
        values, gradients = mapped(how)(PARAMETERS, BATCH | change)
        for name in names:
            np.testing.assert_array_equal(values[name], 0)
            jax.tree.map(lambda x: np.testing.assert_array_equal(x, 0), gradients[name])


def test_a_batch_split_over_an_explicit_mesh(expected):
    """`jax.make_mesh` makes one by default; the losses then see the global batch."""
    names = ('batch_hard', 'contrastive', 'balanced', 'center masked')
    with jax.set_mesh(jax.make_mesh((8,), ('batch',))):
        batch = jax.device_put(BATCH, P('batch'))
        actual = jax.device_get(
            jax.jit(functools.partial(evaluate, names=names))(PARAMETERS, batch)
        )
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, actual, {name: expected[name] for name in names})
