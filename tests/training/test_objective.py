"""What an objective minimises, on given outputs."""

import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax import losses
from metriclt_jax.config import paper_config
from metriclt_jax.models import Outputs
from metriclt_jax.training.objective import CLASSIFICATION_LOSSES, BilateralObjective, Objective
from metriclt_jax.training.schedule import LossInputs

LOGITS = jnp.asarray([[4.0, 0.0, 1.0], [0.5, -1.0, 2.0]])
WEIGHTS = jnp.asarray([0.2, 1.8, 1.0])
INPUTS = LossInputs(WEIGHTS, jnp.asarray([90.0, 10.0, 18.0]), jnp.asarray(0.75))


def classification(name):
    return CLASSIFICATION_LOSSES[name](paper_config().classification)


def value(name='cross_entropy', normalize_weights=True, **batch):
    objective = Objective(classification(name), normalize_weights=normalize_weights)
    batch = {'label': jnp.asarray([0, 1]), **batch}
    result, logs = objective(Outputs(None, LOGITS), batch, INPUTS, {})
    assert set(logs) == set(objective.logs)
    return float(result), logs


def per_class(loss):
    return np.stack([loss(LOGITS, jnp.full(2, c)) for c in range(3)], axis=1)


def test_each_class_of_a_mixed_image_has_its_own_weight():
    target = np.array([[0.5, 0.5, 0.0], [0.0, 0.3, 0.7]])
    for name in ('cross_entropy', 'focal'):
        weights = target * np.asarray(WEIGHTS)
        weighed = (weights * per_class(getattr(losses, name))).sum()
        expected = weighed / weights.sum()
        np.testing.assert_allclose(value(name, target=jnp.asarray(target))[0], expected, rtol=1e-5)


def test_one_hot_targets_are_labels():
    target = jax.nn.one_hot(jnp.asarray([0, 1]), 3)
    for normalize in (True, False):
        np.testing.assert_allclose(
            value(normalize_weights=normalize, target=target)[0],
            value(normalize_weights=normalize)[0],
            rtol=1e-6,
        )


def test_class_balanced_losses_divide_by_the_number_of_examples():
    each = np.asarray(losses.cross_entropy(LOGITS, jnp.asarray([0, 1])))
    np.testing.assert_allclose(value()[0], (0.2 * each[0] + 1.8 * each[1]) / 2.0, rtol=1e-6)
    expected = np.mean([0.2, 1.8] * each)
    np.testing.assert_allclose(value(normalize_weights=False)[0], expected, rtol=1e-6)


def test_accuracy_of_mixed_images_is_that_of_the_larger_share():
    target = jnp.asarray([[0.4, 0.6, 0.0], [0.3, 0.0, 0.7]])
    assert value(target=target)[1]['accuracy'] == 0.5  # the labels alone would give 1 and 0
    assert value()[1]['accuracy'] == 0.5
    assert value(target=target[:, ::-1])[1]['accuracy'] == 0.0


def test_two_branches_share_the_loss_by_alpha():
    batch = {'label': jnp.asarray([0, 1]), 'second': {'label': jnp.asarray([2, 2])}}
    objective = BilateralObjective(classification('cross_entropy'))
    value, logs = objective(Outputs(None, LOGITS), batch, INPUTS, {})
    logits = np.asarray(LOGITS, np.float64)
    losses_of = np.log(np.exp(logits).sum(axis=1, keepdims=True)) - logits
    expected = 0.75 * losses_of[[0, 1], [0, 1]].mean() + 0.25 * losses_of[:, 2].mean()
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    np.testing.assert_allclose(INPUTS.branch_weights, [0.75, 0.25])
    # Predicted are 0 and 2: half of the conventional labels, and half of the others.
    np.testing.assert_allclose(logs['accuracy'], 0.5)
