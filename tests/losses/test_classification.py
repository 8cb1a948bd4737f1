import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metriclt_jax.losses import cross_entropy


@pytest.fixture
def logits(rng):
    return rng.normal(scale=5, size=(16, 7)).astype(np.float32)


def test_integer_labels_agree_with_optax(rng, logits):
    labels = rng.integers(0, 7, 16)
    np.testing.assert_allclose(
        cross_entropy(logits, labels),
        optax.softmax_cross_entropy_with_integer_labels(logits, labels),
        rtol=1e-6,
        atol=2e-6,
    )


def test_probabilities_agree_with_optax(rng, logits):
    probabilities = rng.dirichlet(np.ones(7), 16).astype(np.float32)
    np.testing.assert_allclose(
        cross_entropy(logits, probabilities),
        optax.softmax_cross_entropy(logits, probabilities),
        rtol=1e-6,
        atol=2e-6,
    )


def test_integer_labels_are_one_hot_probabilities(rng, logits):
    labels = rng.integers(0, 7, 16)
    np.testing.assert_allclose(
        cross_entropy(logits, labels), cross_entropy(logits, np.eye(7)[labels]), rtol=1e-6
    )


def test_mixed_labels_mix_the_losses(rng, logits):
    first, second = rng.integers(0, 7, (2, 16))
    mixed = 0.3 * np.eye(7)[first] + 0.7 * np.eye(7)[second]
    np.testing.assert_allclose(
        cross_entropy(logits, mixed),
        0.3 * cross_entropy(logits, first) + 0.7 * cross_entropy(logits, second),
        rtol=1e-5,
    )


def test_gradient_is_softmax_minus_target(rng, logits):
    labels = rng.integers(0, 7, 16)
    gradient = jax.grad(lambda logits: cross_entropy(logits, labels).sum())(logits)
    expected = jax.nn.softmax(logits) - np.eye(7)[labels]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


@pytest.mark.parametrize('labels', [np.array([0]), np.array([[1.0, 0.0, 0.0]])])
@pytest.mark.parametrize('target', [-100.0, -1e4, 1e4])
def test_extreme_logits_give_finite_losses_and_gradients(labels, target):
    logits = jnp.array([[target, 0.0, 0.0]])
    loss, gradient = jax.value_and_grad(lambda x: cross_entropy(x, labels)[0])(logits)
    np.testing.assert_allclose(loss, max(0, np.log(2) - target), rtol=1e-6)
    is_wrong = float(target < 0)
    np.testing.assert_allclose(gradient[0], [-is_wrong, is_wrong / 2, is_wrong / 2], atol=1e-6)


def test_low_precision_logits_are_cast_first(rng, logits):
    labels = rng.integers(0, 7, 16)
    low = jnp.asarray(logits, jnp.bfloat16)
    losses = cross_entropy(low, labels)
    assert losses.dtype == jnp.float32
    np.testing.assert_array_equal(losses, cross_entropy(low.astype(jnp.float32), labels))


@pytest.mark.parametrize(
    ('logits', 'labels', 'message'),
    [
        (np.zeros(3), np.zeros(3, int), 'logits must be'),
        (np.zeros([2, 3]), np.zeros(3, int), 'labels must be'),
        (np.zeros([2, 3]), np.zeros([2, 1], int), 'labels must be'),
        (np.zeros([2, 3]), np.zeros(2, np.float32), 'labels must be .* got float32'),
    ],
)
def test_labels_of_no_known_form_are_refused(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        cross_entropy(logits, labels)
