"""The batch on eight devices gives the value and the gradient of the batch on one.

Under `pmap`, and under `shard_map` with and without its check of what varies over devices.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from metriclt_jax import losses
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


MESH = jax.make_mesh((8,), ('batch',), axis_types=(AxisType.Auto,))


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


# Other set-ups: explicit and automatic meshes, splits of other arrays and dimensions, vmap


SCORES = np.tanh(RANDOM.normal(size=(16, 4))).astype(np.float32)
ALL = {
    'cross_entropy': cross_entropy,
    'focal': losses.focal,
    'ldam': functools.partial(losses.ldam, class_counts=[9, 3, 2, 1]),
    'cosface': losses.cosface,
    'arcface': losses.arcface,
    'center': functools.partial(center, centers=np.eye(4, dtype=np.float32)),
    'triplet': functools.partial(triplet, margin=1.5),
    'batch_all': functools.partial(triplet, margin=1.5, mining='batch_all'),
    'supervised_contrastive': supervised_contrastive,
    'balanced_contrastive': functools.partial(
        balanced_contrastive, prototypes=np.eye(4, dtype=np.float32)
    ),
}


def value_and_slope(loss):
    def mean(scores, *batch):
        losses = loss(scores, *batch)
        return jnp.mean(losses), losses

    return jax.jit(jax.grad(mean, has_aux=True))


@pytest.mark.parametrize('kind', [AxisType.Explicit, AxisType.Auto])
@pytest.mark.parametrize('name', ALL)
def test_meshes_that_split_the_arrays_in_any_way(name, kind):
    labels, mask = np.arange(16) % 4, np.arange(16) < 13
    run = value_and_slope(lambda x, y, where: ALL[name](x, y, where=where))
    expected = run(SCORES, labels, mask)
    mesh = jax.make_mesh((4, 2), ('batch', 'model'), axis_types=(kind, kind))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5)
    with jax.set_mesh(mesh):
        for of_scores, of_labels, of_mask in (
            (P('batch'), P('batch'), P('batch')),
            (P('batch', 'model'), P('batch'), P()),
            (P(None, 'model'), P('batch'), P('batch')),
            (P(('batch', 'model')), P(), P()),
        ):
            arrays = (
                jax.device_put(SCORES, of_scores),
                jax.device_put(labels, of_labels),
                jax.device_put(mask, of_mask),
            )
            jax.tree.map(close, jax.device_get(run(*arrays)), jax.device_get(expected))


@pytest.mark.parametrize('name', ['cross_entropy', 'ldam'])
def test_soft_labels_and_weights_on_an_explicit_mesh(name):
    labels, weights = np.eye(4, dtype=np.float32)[np.arange(16) % 4], np.arange(16.0)
    run = jax.jit(lambda x, y, w: weighted_mean(ALL[name](x, y), w))
    expected = run(SCORES, labels, weights)
    with jax.set_mesh(jax.make_mesh((8,), ('batch',))):
        arrays = (jax.device_put(SCORES, P('batch')), jax.device_put(labels, P('batch')))
        np.testing.assert_allclose(run(*arrays, weights), expected, rtol=1e-5)


@pytest.mark.parametrize('name', ALL)
def test_vmap_over_models(name):
    labels, stack = np.arange(16) % 4, np.stack([SCORES, SCORES[::-1], 0 * SCORES])
    mapped_loss = jax.vmap(jax.vmap(ALL[name], (0, None)), (None, 0))
    both = jax.jit(mapped_loss)(stack, np.stack([labels, labels[::-1]]))
    for i, scores in enumerate(stack):
        for j, of_model in enumerate((labels, labels[::-1])):
            np.testing.assert_allclose(
                both[j, i], ALL[name](scores, of_model), rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize('check_vma', [True, False])
@pytest.mark.parametrize('name', ['triplet', 'batch_all', 'supervised_contrastive'])
def test_masks_and_anchors_over_two_axes_of_a_mesh(name, check_vma):
    """Batches over data and model axes, the last devices with nothing but padding."""
    labels, mask = np.arange(16) % 4, np.arange(16) < 11
    axes = ('a', 'b')

    def all_of(x, y, where, axis_name=None):
        value, slope = jax.value_and_grad(
            lambda scale: ALL[name](scale * x, y, where=where, axis_name=axis_name)
        )(jnp.ones(4))
        anchors = ALL[name](x, y, where=where, axis_name=axis_name, reduction='none')
        return value, slope if axis_name is None else jax.lax.pmean(slope, axis_name), anchors

    mesh = jax.make_mesh((4, 2), axes, axis_types=(AxisType.Auto, AxisType.Auto))
    actual = jax.jit(
        jax.shard_map(
            functools.partial(all_of, axis_name=axes),
            mesh=mesh,
            in_specs=P(axes),
            out_specs=(P(), P(), P(axes)),
            check_vma=check_vma,
        )
    )(SCORES, labels, mask)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
    jax.tree.map(close, actual, all_of(SCORES, labels, mask))
