"""The batch on many devices gives the value and the gradient of the batch on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.losses import (
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


def triplet_batch_hard_squared(outputs, batch, parameters, axis_name):
    return triplet(outputs, batch['label'], 1.5, squared=True, axis_name=axis_name)


def triplet_batch_all(outputs, batch, parameters, axis_name):
    return triplet(outputs, batch['label'], 0.3, mining='batch_all', axis_name=axis_name)


def triplet_batch_all_squared(outputs, batch, parameters, axis_name):
    return triplet(
        outputs, batch['label'], 0.3, mining='batch_all', squared=True, axis_name=axis_name
    )


def contrastive(outputs, batch, parameters, axis_name):
    return supervised_contrastive(outputs, batch['label'], axis_name=axis_name)


OBJECTIVES = [
    center_mean,
    center_masked_mean,
    cross_entropy_class_weighted,
    cross_entropy_masked,
    triplet_batch_hard,
    triplet_batch_hard_squared,
    triplet_batch_all,
    triplet_batch_all_squared,
    contrastive,
]


@pytest.fixture
def parameters(rng):
    shapes = {'kernel': (6, 5), 'bias': (5,), 'centers': (5, 5)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def batch(rng):
    inputs = rng.normal(size=(16, 6)).astype(np.float32)
    return {'input': inputs, 'label': LABELS, 'mask': MASK}


def value_and_gradients(objective, axis_name):
    """Of one device: a loss, its gradient by the parameters, and by the device's own inputs."""

    def loss(parameters, inputs, batch):
        outputs = jnp.tanh(inputs @ parameters['kernel'] + parameters['bias'])
        return objective(outputs, batch, parameters, axis_name)

    def value_and_gradients(parameters, batch):
        value, (by_parameters, by_inputs) = jax.value_and_grad(loss, argnums=(0, 1))(
            parameters, batch['input'], batch
        )
        return value, by_parameters, by_inputs

    return value_and_gradients


def on_devices(objective, num_devices, axis_name, parameters, batch):
    split = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)
    values, by_parameters, by_inputs = jax.pmap(
        value_and_gradients(objective, axis_name),
        axis_name='batch',
        in_axes=(None, 0),
        devices=jax.devices()[:num_devices],
    )(parameters, split)
    mean = jax.tree.map(lambda x: np.mean(x, axis=0), (values, by_parameters))
    # The mean over devices of the losses depends on an input through the device that holds it;
    # the sum over devices has already been taken by the transpose of all_gather.
    return *mean, np.reshape(by_inputs, batch['input'].shape) / num_devices


def relative_difference(actual, expected):
    return np.linalg.norm(actual - expected) / np.linalg.norm(expected)


@pytest.mark.parametrize('num_devices', [2, 8])
@pytest.mark.parametrize('objective', OBJECTIVES)
def test_value_and_gradients_are_those_of_one_device(objective, num_devices, parameters, batch):
    if objective in (center_mean, center_masked_mean):
        used = ['kernel', 'bias', 'centers']
    else:
        used = ['kernel', 'bias']
    value, by_parameters, by_inputs = value_and_gradients(objective, None)(parameters, batch)
    assert value > 0.01
    many_value, many_by_parameters, many_by_inputs = on_devices(
        objective, num_devices, 'batch', parameters, batch
    )
    assert relative_difference(many_value, value) < 1e-6
    assert relative_difference(many_by_inputs, by_inputs) < 1e-5
    for name in used:
        assert relative_difference(many_by_parameters[name], by_parameters[name]) < 1e-5, name


@pytest.mark.parametrize('num_devices', [2, 8])
@pytest.mark.parametrize('objective', [o for o in OBJECTIVES if o is not center_mean])
def test_local_means_would_be_wrong_on_this_batch(objective, num_devices, parameters, batch):
    """The test above can only see a missing reduction where local means differ from it."""
    value, by_parameters, _ = value_and_gradients(objective, None)(parameters, batch)
    local_value, local_by_parameters, _ = on_devices(
        objective, num_devices, None, parameters, batch
    )
    assert relative_difference(local_value, value) > 0.01
    assert relative_difference(local_by_parameters['kernel'], by_parameters['kernel']) > 0.01


@pytest.mark.parametrize(
    'objective', [triplet_batch_hard, triplet_batch_all, contrastive, cross_entropy_masked]
)
def test_nothing_to_average_on_any_device_is_zero(objective, parameters, batch):
    batch = batch | {'label': np.arange(16), 'mask': np.zeros(16, bool)}
    value, by_parameters, by_inputs = on_devices(objective, 8, 'batch', parameters, batch)
    assert value == 0
    for gradient in (by_inputs, *by_parameters.values()):
        np.testing.assert_array_equal(gradient, 0)


def test_one_example_a_device(parameters, batch):
    batch = jax.tree.map(lambda x: x[8:16], batch)
    value, by_parameters, _ = value_and_gradients(contrastive, None)(parameters, batch)
    many_value, many_by_parameters, _ = on_devices(contrastive, 8, 'batch', parameters, batch)
    assert relative_difference(many_value, value) < 1e-6
    assert relative_difference(many_by_parameters['kernel'], by_parameters['kernel']) < 1e-5
