import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from every_loss import CLASSIFICATION, COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metriclt_jax.losses import (
    adjust_logits,
    arcface,
    cosface,
    cross_entropy,
    focal,
    ldam,
    ldam_margins,
    logit_adjusted,
)

SCORES = np.zeros([2, 3])

# Scores on a coarse grid, so that ties and, for cosines, both ends come up.
logits_of_6 = hnp.arrays(np.int8, (6, 3), elements=st.integers(-9, 9)).map(np.float32)
cosines_of_6 = hnp.arrays(np.int8, (6, 3), elements=st.integers(-8, 8)).map(
    lambda eighths: np.float32(eighths / 8)
)
labels_of_6 = hnp.arrays(np.int32, 6, elements=st.integers(0, 2))
counts_of_3 = hnp.arrays(np.int32, 3, elements=st.integers(1, 10**6))
few = settings(deadline=None, max_examples=20)

jit_focal = jax.jit(focal, static_argnames='gamma')
jit_logit_adjusted = jax.jit(logit_adjusted)
jit_ldam = jax.jit(ldam)
jit_cosface = jax.jit(cosface)
jit_arcface = jax.jit(arcface, static_argnames='margin')


each_loss = pytest.mark.parametrize('loss', CLASSIFICATION.values(), ids=CLASSIFICATION)


def numpy_cross_entropy(logits, label):
    """Of one example, in float64."""
    logits = np.asarray(logits, float)
    highest = logits.max()
    return highest + np.log(np.sum(np.exp(logits - highest))) - logits[label]


def numpy_margin_loss(cosines, labels, target, scale):
    """`target` makes the cosine of the label from its index and its cosine."""
    losses = []
    for row, label in zip(cosines.astype(float), labels, strict=True):
        logits = scale * row
        logits[label] = scale * target(label, row[label])
        losses.append(numpy_cross_entropy(logits, label))
    return losses


# Cross-entropy, and what all losses share


def test_agrees_with_optax(rng):
    logits = rng.normal(scale=5, size=(16, 7)).astype(np.float32)
    labels, probabilities = rng.integers(0, 7, 16), rng.dirichlet(np.ones(7), 16)
    for given_labels, expected in (
        (labels, optax.softmax_cross_entropy_with_integer_labels(logits, labels)),
        (probabilities, optax.softmax_cross_entropy(logits, np.float32(probabilities))),
    ):
        np.testing.assert_allclose(
            cross_entropy(logits, given_labels), expected, rtol=1e-6, atol=2e-6
        )


@pytest.mark.parametrize('target', [-1e4, -100.0, 1e4])
def test_values_at_extreme_logits_are_exact(target):
    for loss in (cross_entropy, focal):
        value, gradient = jax.value_and_grad(lambda x, f=loss: f(x, [0])[0])(
            jnp.array([[target, 0.0, 0.0]])
        )
        np.testing.assert_allclose(value, max(0, np.log(2) - target), rtol=1e-6)
        np.testing.assert_allclose(gradient[0], (target < 0) * np.array([-1, 0.5, 0.5]), atol=1e-6)


@each_loss
def test_probabilities_mix_the_losses_of_integers(rng, loss):
    loss = jax.jit(loss)
    scores, (first, second) = np.tanh(rng.normal(size=(16, 3))), rng.integers(0, 3, (2, 16))
    np.testing.assert_allclose(
        loss(scores, np.eye(3)[first]), loss(scores, first), rtol=1e-5, atol=1e-5
    )
    mixed = 0.3 * np.eye(3)[first] + 0.7 * np.eye(3)[second]
    # The margin losses round logits of up to 30 in float32.
    expected = 0.3 * loss(scores, first) + 0.7 * loss(scores, second)
    np.testing.assert_allclose(loss(scores, mixed), expected, rtol=1e-5, atol=1e-5)


@each_loss
def test_the_loss_of_a_label_that_is_not_a_class_is_nan(loss):
    losses = jax.jit(loss)(np.zeros([3, 3]), np.array([-1, 3, 2]))
    np.testing.assert_array_equal(np.isnan(losses), [True, True, False])


@pytest.mark.parametrize('loss', [cross_entropy, focal])
def test_a_masked_class_does_not_matter_where_its_probability_is_zero(loss):
    logits = jnp.array([[0.5, -jnp.inf, 1.0]])
    total = jax.value_and_grad(lambda logits, labels: loss(logits, labels).sum())
    actual, expected = total(logits, jnp.eye(3)[:1]), total(logits, jnp.array([0]))
    np.testing.assert_allclose(actual[0], expected[0], rtol=1e-6)
    if loss is cross_entropy:
        np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)


@each_loss
def test_low_precision_scores_are_cast_first(rng, loss):
    loss = jax.jit(loss)
    scores = jnp.asarray(np.tanh(rng.normal(size=(8, 3))), jnp.bfloat16)
    for labels in (rng.integers(0, 3, 8), jnp.asarray(rng.dirichlet(np.ones(3), 8), jnp.bfloat16)):
        losses = loss(scores, labels)
        assert losses.dtype == jnp.float32
        np.testing.assert_array_equal(losses, loss(scores.astype(jnp.float32), labels))


@each_loss
def test_scores_and_labels_of_no_known_form_are_refused(loss):
    for scores, labels in (
        (np.zeros(3), np.zeros(3, int)),
        (SCORES, np.zeros(3, int)),
        (SCORES, np.zeros([2, 1], int)),
        (SCORES, np.zeros(2, np.float32)),
    ):
        with pytest.raises(ValueError, match='must be'):
            loss(scores, labels)


REFUSED = {
    'gamma': [(focal, SCORES, [0, 1], gamma) for gamma in (-0.1, float('nan'))],
    'margin': [(arcface, SCORES, [0, 1], margin) for margin in (-0.1, np.pi, float('nan'))],
    'C > 1': [(focal, SCORES[:, :1], [0, 0])],
    'logits': [(adjust_logits, SCORES[0], COUNTS)],
    # [50.0] would broadcast to a plausible, wrong number.
    'class_counts': [
        (loss, SCORES, [0, 1], counts)
        for loss in (logit_adjusted, ldam)
        for counts in ([50.0], [[5000, 500, 50]], 50, [1, 2, 3, 4])
    ],
}


@pytest.mark.parametrize('argument', REFUSED)
def test_values_that_an_argument_cannot_have_are_refused(argument):
    for function, *arguments in REFUSED[argument]:
        with pytest.raises(ValueError, match=argument):
            function(*arguments)


@pytest.mark.parametrize('loss', [logit_adjusted, ldam])
def test_a_class_without_images_counts_as_the_smallest_that_has_some(rng, loss):
    scores, labels = np.tanh(rng.normal(size=(8, 3))), rng.integers(0, 3, 8)
    np.testing.assert_allclose(
        loss(scores, labels, [0, 40, 10]), loss(scores, labels, [10, 40, 10]), rtol=1e-6
    )
    np.testing.assert_allclose(
        loss(scores, labels, [0, 0, 0]), loss(scores, labels, [1, 1, 1]), rtol=1e-6
    )


# Focal loss


@pytest.mark.parametrize('gamma', [0, 0.5, 2, 5.0])
@few
@given(logits=logits_of_6, labels=labels_of_6)
def test_focal_agrees_with_loops(gamma, logits, labels):
    expected = []
    for row, label in zip(logits, labels, strict=True):
        loss = numpy_cross_entropy(row, label)
        expected.append((-np.expm1(-loss)) ** gamma * loss)
    np.testing.assert_allclose(
        jit_focal(logits, labels, gamma=gamma), expected, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize('gamma', [0.3, 1, 2])
def test_focal_is_precise_where_the_softmax_rounds_to_one(gamma):
    # q = 1 - exp(-20) is 1 in float32; its loss is exp(-20)^(1 + gamma), its gradient as small.
    loss, gradient = jax.value_and_grad(lambda x: focal(x, [0], gamma)[0])(jnp.array([[20.0, 0]]))
    assert 0 <= loss < 1e-7
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


# Logit adjustment


@few
@given(logits=logits_of_6, labels=labels_of_6, counts=counts_of_3)
def test_logit_adjusted_with_tau_1_is_the_balanced_softmax(logits, labels, counts):
    expected = []
    for row, label in zip(logits.astype(float), labels, strict=True):
        exponentials = counts * np.exp(row)
        expected.append(-np.log(exponentials[label] / np.sum(exponentials)))
    for losses in (
        jit_logit_adjusted(logits, labels, counts),
        jit_logit_adjusted(logits, labels, counts, tau=1.0),
    ):
        np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize('tau', [0.5, 1.0, 1.5])
def test_adjust_logits_divides_the_exponentials_by_powers_of_the_priors(rng, tau):
    logits = rng.normal(size=(8, 3))
    np.testing.assert_allclose(
        np.exp(adjust_logits(logits, COUNTS, tau)),
        np.exp(logits) / (COUNTS / COUNTS.sum()) ** tau,
        rtol=1e-5,
    )


# Margins on cosines


@few
@given(st.lists(st.integers(1, 10**7), min_size=1, max_size=20))
def test_ldam_margins_agree_with_the_formula_in_float64(counts):
    margins = np.array(counts, float) ** -0.25
    np.testing.assert_allclose(ldam_margins(counts), 0.5 * margins / margins.max(), rtol=1e-5)


@few
@given(cosines=cosines_of_6, labels=labels_of_6, counts=counts_of_3)
def test_ldam_and_cosface_agree_with_loops(cosines, labels, counts):
    margins = counts.astype(float) ** -0.25
    margins *= 0.3 / margins.max()
    for actual, margin, scale in (
        (jit_ldam(cosines, labels, counts, max_margin=0.3, scale=8), margins, 8),
        (jit_cosface(cosines, labels), [0.35] * 3, 30),
    ):
        expected = numpy_margin_loss(cosines, labels, lambda c, x, m=margin: x - m[c], scale)
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize('margin', [0.0, 0.5, 1.2, 2.0])
@few
@given(cosines=cosines_of_6, labels=labels_of_6)
def test_arcface_agrees_with_loops(margin, cosines, labels):
    def target(_, cosine):
        angle = np.arccos(cosine)
        return np.cos(angle + margin) if angle + margin <= np.pi else cosine - 1 + np.cos(margin)

    expected = numpy_margin_loss(cosines, labels, target, scale=8)
    actual = jit_arcface(cosines, labels, margin=margin, scale=8)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=5e-6)


@pytest.mark.parametrize('margin', [0.1, 0.5, 2.0])
def test_arcface_falls_with_the_cosine_of_the_label_without_a_jump(margin):
    cosines = np.zeros([20001, 2], np.float32)
    cosines[:, 0] = np.linspace(-1, 1, 20001)
    losses = np.asarray(arcface(cosines, np.zeros(20001, np.int32), margin, scale=1))
    assert np.all(np.diff(losses) < 1e-6)  # flat where the two pieces join
    inner = np.abs(cosines[1:, 0]) < 0.99  # the slope has no bound at the ends
    assert np.max(np.abs(np.diff(losses))[inner]) < 0.002
