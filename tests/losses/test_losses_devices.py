"""The batch on many devices gives the value and the gradient of the batch on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.losses import (
    balanced_contrastive,
    center,
    class_weights,
    cross_entropy,
    supervised_contrastive,
    triplet,
    weighted_mean,
)

# Sorted by class: with 8 devices the first four see class 0 only, and one sees two tail classes.
LABELS = np.array([0] * 9 + [1] * 3 + [2] * 2 + [3, 4])
MASK = np.array([1] * 9 + [0] * 7, bool)  # the padding of a last batch
CLASS_WEIGHTS = np.asarray(class_weights.inverse_frequency(np.bincount(LABELS)))


def center_mean(outputs, batch, parameters, axis_name):
    losses = center(outputs, batch['label'], parameters['centers'])
    return weighted_mean(losses, jnp.ones_like(losses), axis_name)


def center_masked_mean(outputs, batch, parameters, axis_name):
    losses = center(outputs, batch['label'], parameters['centers'])
    return weighted_mean(losses, batch['mask'], axis_name)


def cross_entropy_class_weighted(outputs, batch, parameters, axis_name):
    losses = cross_entropy(outputs, batch['label'])
    return weighted_mean(losses, jnp.asarray(CLASS_WEIGHTS)[batch['label']], axis_name)


def cross_entropy_masked(outputs, batch, parameters, axis_name):
    return weighted_mean(cross_entropy(outputs, batch['label']), batch['mask'], axis_name)


def triplet_batch_hard(outputs, batch, parameters, axis_name):
    return triplet(outputs, batch['label'], 1.5, axis_name=axis_name)


def triplet_batch_all(outputs, batch, parameters, axis_name):
    return triplet(outputs, batch['label'], 0.3, mining='batch_all', axis_name=axis_name)


def contrastive(outputs, batch, parameters, axis_name):
    return supervised_contrastive(outputs, batch['label'], axis_name=axis_name)


def balanced(outputs, batch, parameters, axis_name):
    return balanced_contrastive(outputs, batch['label'], parameters['centers'], axis_name=axis_name)


OBJECTIVES = [
    center_mean,
    center_masked_mean,
    cross_entropy_class_weighted,
    cross_entropy_masked,
    triplet_batch_hard,
    triplet_batch_all,
    contrastive,
    balanced,
]
LEARN_CENTERS = [center_mean, center_masked_mean, balanced]


@pytest.fixture
def parameters(rng):
    shapes = {'kernel': (6, 5), 'bias': (5,), 'centers': (5, 5)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def batch(rng):
    inputs = rng.normal(size=(16, 6)).astype(np.float32)
    return {'input': inputs, 'label': LABELS, 'mask': MASK}


def value_and_gradients(objective, axis_name=None):
    """Of one device: a loss, its gradient by the parameters, and by the device's own inputs."""

    def loss(parameters, inputs, batch):
        outputs = jnp.tanh(inputs @ parameters['kernel'] + parameters['bias'])
        return objective(outputs, batch, parameters, axis_name)

    def apply(parameters, batch):
        value_and_grad = jax.value_and_grad(loss, argnums=(0, 1))
        value, (by_parameters, by_inputs) = value_and_grad(parameters, batch['input'], batch)
        return value, by_parameters, by_inputs

    return apply


def on_one_device(objective, parameters, batch):
    return jax.jit(value_and_gradients(objective))(parameters, batch)


def split(batch, num_devices):
    return jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)


def on_devices(objective, num_devices, parameters, batch):
    """Means over devices, as a training step takes them."""
    values, by_parameters, by_inputs = jax.pmap(
        value_and_gradients(objective, axis_name='batch'),
        axis_name='batch',
        in_axes=(None, 0),
        devices=jax.devices()[:num_devices],
    )(parameters, split(batch, num_devices))
    value, by_parameters = jax.tree.map(lambda x: np.mean(x, axis=0), (values, by_parameters))
    # The gradient by an example already sums over the losses of all devices (the transpose of
    # all_gather does), so that only the division is left of their mean.
    return value, by_parameters, np.reshape(by_inputs, batch['input'].shape) / num_devices


def relative_difference(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('num_devices', [2, 8])
@pytest.mark.parametrize('objective', OBJECTIVES)
def test_value_and_gradients_are_those_of_one_device(objective, num_devices, parameters, batch):
    value, by_parameters, by_inputs = on_one_device(objective, parameters, batch)
    actual_value, actual_by_parameters, actual_by_inputs = on_devices(
        objective, num_devices, parameters, batch
    )
    assert relative_difference(actual_value, value) < 1e-6
    assert relative_difference(actual_by_inputs, by_inputs) < 1e-5
    for name in ('kernel', 'bias'):
        assert relative_difference(actual_by_parameters[name], by_parameters[name]) < 1e-5
    assert np.any(by_parameters['centers']) == (objective in LEARN_CENTERS)
    if objective in LEARN_CENTERS:
        assert relative_difference(actual_by_parameters['centers'], by_parameters['centers']) < 1e-5


@pytest.mark.parametrize('objective', [o for o in OBJECTIVES if o is not center_mean])
def test_means_of_local_means_would_be_wrong(objective, parameters, batch):
    """The test above sees a missing reduction only where local means differ from the global one."""
    value, by_parameters, _ = on_one_device(objective, parameters, batch)
    local = jax.jit(jax.vmap(value_and_gradients(objective), in_axes=(None, 0)))
    for num_devices in (2, 8):
        local_values, local_by_parameters, _ = local(parameters, split(batch, num_devices))
        assert relative_difference(np.mean(local_values, axis=0), value) > 0.01
        local_by_kernel = np.mean(local_by_parameters['kernel'], axis=0)
        assert relative_difference(local_by_kernel, by_parameters['kernel']) > 0.01


@pytest.mark.parametrize(
    ('objective', 'change'),
    [
        (triplet_batch_hard, {'label': np.arange(16)}),
        (triplet_batch_all, {'label': np.arange(16)}),
        (contrastive, {'label': np.arange(16)}),
        (cross_entropy_masked, {'mask': np.zeros(16, bool)}),
    ],
)
def test_nothing_to_average_on_any_device_is_zero(objective, change, parameters, batch):
    value, by_parameters, by_inputs = on_devices(objective, 8, parameters, batch | change)
    assert value == 0
    for gradient in (by_inputs, *by_parameters.values()):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('objective', [contrastive, balanced])
def test_one_example_a_device(objective, parameters, batch):
    batch = jax.tree.map(lambda x: x[8:], batch)
    value, by_parameters, _ = on_one_device(objective, parameters, batch)
    actual_value, actual_by_parameters, _ = on_devices(objective, 8, parameters, batch)
    assert relative_difference(actual_value, value) < 1e-6
    for name in ('kernel', 'bias'):
        assert relative_difference(actual_by_parameters[name], by_parameters[name]) < 1e-5
