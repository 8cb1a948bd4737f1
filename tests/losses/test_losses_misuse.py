"""Labels, masks and parameters as users bring them: the right value, NaN or a ValueError."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from every_loss import CLASSIFICATION, COUNTS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metriclt_jax.losses import (
    adjust_logits,
    arcface,
    balanced_contrastive,
    center,
    class_weights,
    cosface,
    cross_entropy,
    focal,
    ldam,
    ldam_margins,
    logit_adjusted,
    supervised_contrastive,
    triplet,
    weighted_mean,
)

CENTERS = np.eye(3, 4, dtype=np.float32)
METRIC = {
    'triplet batch_hard': functools.partial(triplet, margin=1.5),
    'triplet batch_all': functools.partial(triplet, margin=1.5, mining='batch_all'),
    'supervised_contrastive': functools.partial(supervised_contrastive, temperature=0.5),
    'balanced_contrastive': functools.partial(
        balanced_contrastive, prototypes=CENTERS, temperature=0.5
    ),
}
of_each = functools.partial(pytest.mark.parametrize, 'loss')
each_classification = of_each(CLASSIFICATION.values(), ids=CLASSIFICATION)
each_metric = of_each(METRIC.values(), ids=METRIC)
few = settings(deadline=None, max_examples=20)

SCORES = np.tanh(np.random.default_rng(0).normal(size=(6, 3))).astype(np.float32)
VECTORS = np.random.default_rng(1).normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 0])


# Labels


@pytest.mark.parametrize(
    'wrong', [-1, -100, 3, 8, 255, -(2**31), 2**31 - 1, 2**31, 2**32, -(2**32), 2**62]
)
def test_a_number_that_is_not_a_class_never_passes_for_one(wrong):
    labels = np.array([wrong, 1])
    for loss in CLASSIFICATION.values():
        np.testing.assert_array_equal(np.isnan(loss(SCORES[:2], labels)), [True, False])
    np.testing.assert_array_equal(np.isnan(center(VECTORS[:2], labels, CENTERS)), [True, False])
    assert np.isnan(balanced_contrastive(VECTORS[:2], labels, CENTERS))
    if not 0 <= wrong < 2**31:  # the others compare labels and know no C
        for loss in METRIC.values():
            for labels in ([wrong, 1, 1, 2, 2, 0], [wrong] * 6, [wrong, 0, 1, 2, 3, 4]):
                assert np.isnan(loss(VECTORS, np.array(labels))), labels


@pytest.mark.parametrize('dtype', [np.int8, np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_labels_of_any_integer_type(dtype):
    scores = np.zeros([2, 200], np.float32)
    scores[:, 100] = 5
    labels = np.array([100, 3]).astype(dtype)
    for values in (labels, jnp.asarray(labels)):
        np.testing.assert_array_equal(
            cross_entropy(scores, values), cross_entropy(scores, [100, 3])
        )
        assert triplet(VECTORS, values.repeat(3), 1.5) == triplet(VECTORS, [100] * 3 + [3] * 3, 1.5)
    last = np.array([-1, 3]).astype(dtype)  # -1, or the largest of its type: neither is a class
    np.testing.assert_array_equal(np.isnan(cross_entropy(scores, last)), [True, False])


@each_classification
def test_one_hot_labels_are_integers_and_other_rows_are_nan(loss):
    one_hot = np.eye(3, dtype=int)[LABELS]
    for labels in (one_hot, one_hot.astype(bool), one_hot.astype(np.float16)):
        np.testing.assert_allclose(loss(SCORES, labels), loss(SCORES, LABELS), rtol=1e-5, atol=1e-5)
    rows = np.array([[0, 0, 0], [1, 1, 0], [1.5, -0.5, 0], [50, 30, 20], [np.nan, 1, 0], [0, 1, 0]])
    losses = jax.jit(loss)(SCORES, rows)
    np.testing.assert_array_equal(np.isnan(losses), [True] * 5 + [False])
    smooth = jnp.asarray(0.9 * one_hot + 0.1 / 3, jnp.bfloat16)  # its rows sum to 1 nearly
    assert np.all(np.isfinite(loss(SCORES, smooth)))


@pytest.mark.parametrize('loss', [cross_entropy, focal])
@few
@given(
    logits=hnp.arrays(np.int8, (4, 3), elements=st.integers(-9, 9)).map(np.float32),
    excluded=hnp.arrays(bool, (4, 3)),
    labels=hnp.arrays(np.int32, 4, elements=st.integers(0, 2)),
)
def test_classes_of_logit_minus_infinity(loss, logits, excluded, labels):
    excluded[np.arange(4), labels] = False
    excluded[np.arange(4), (labels + 1) % 3] = False  # focal needs another class
    logits = np.where(excluded, -np.inf, logits).astype(np.float32)

    def total(logits, labels):
        losses = loss(logits, labels)
        return losses.sum(), losses

    integers, one_hot = (
        jax.value_and_grad(total, has_aux=True)(logits, form)
        for form in (labels, np.eye(3)[labels])
    )
    np.testing.assert_allclose(integers[0][1], one_hot[0][1], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(integers[1], one_hot[1], rtol=1e-5, atol=1e-6)
    assert np.all(np.isfinite(integers[1]))


@each_classification
@pytest.mark.parametrize('spoilt', [np.nan, np.inf])
def test_scores_that_are_not_finite_are_seen(loss, spoilt):
    scores = SCORES.copy()
    scores[2, 1] = spoilt
    losses = np.asarray(loss(scores, LABELS))
    assert not np.isfinite(losses[2])
    assert np.all(np.isfinite(np.delete(losses, 2)))


@each_metric
@pytest.mark.parametrize('spoilt', [np.nan, np.inf, -np.inf])
def test_one_coordinate_that_is_not_finite_is_seen(loss, spoilt):
    vectors = VECTORS.copy()
    vectors[2, 1] = spoilt  # the only one of its class: a candidate, not an anchor
    assert np.isnan(loss(vectors, LABELS))


# Masks


@each_classification
@pytest.mark.parametrize('soft', [False, True])
def test_where_of_classification(loss, soft):
    where = np.array([True, False, True, True, False, True])
    labels = np.eye(3)[LABELS] if soft else LABELS
    scores, wrong = np.where(where[:, None], SCORES, np.nan), labels.copy()
    wrong[~where] = -1

    def total(scores, labels, where):
        losses = loss(scores, labels, where=where)
        return weighted_mean(losses, where), losses

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (mean, losses), gradient = run(scores, wrong, where)
    np.testing.assert_array_equal(losses[~where], 0)
    np.testing.assert_array_equal(gradient[~where], 0)
    np.testing.assert_allclose(losses[where], loss(SCORES, labels)[where], rtol=1e-6)
    np.testing.assert_allclose(mean, loss(SCORES[where], labels[where]).mean(), rtol=1e-6)
    assert np.all(gradient[where] != 0)
    (mean, losses), gradient = run(scores, wrong, np.zeros(6, bool))
    np.testing.assert_array_equal([mean, *losses, *np.ravel(gradient)], 0)


vectors_of_7 = hnp.arrays(np.int8, (7, 4), elements=st.integers(-3, 3)).map(np.float32)


@each_metric
@settings(deadline=None, max_examples=5)  # each number of masked examples compiles anew
@given(
    vectors=vectors_of_7,
    labels=hnp.arrays(np.int32, 7, elements=st.integers(0, 2)),
    where=hnp.arrays(bool, 7),
)
def test_masked_examples_are_neither_anchors_nor_candidates(loss, vectors, labels, where):
    spoilt = np.where(where[:, None], vectors, np.float32(np.nan))
    value, gradient = jax.value_and_grad(loss)(spoilt, np.where(where, labels, -1), where=where)
    each = loss(spoilt, labels, where=where, reduction='none')
    np.testing.assert_array_equal(gradient[~where], 0)
    np.testing.assert_array_equal(each[~where], 0)
    if not where.any():
        assert value == 0
        return
    expected, slope = jax.value_and_grad(loss)(vectors[where], labels[where])
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient[where], slope, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        each[where], loss(vectors[where], labels[where], reduction='none'), rtol=1e-5, atol=1e-6
    )


def test_where_of_center_and_what_where_may_be():
    where = np.array([True, False, True, True, False, True])
    spoilt = np.where(where[:, None], VECTORS, np.inf)
    losses, pull = jax.vjp(lambda f, c: center(f, LABELS, c, where=where), spoilt, CENTERS)
    np.testing.assert_array_equal(losses, np.where(where, center(VECTORS, LABELS, CENTERS), 0))
    by_features, by_centers = pull(np.ones(6, np.float32))
    np.testing.assert_array_equal(by_features[~where], 0)
    np.testing.assert_array_equal(by_centers[1], 0)  # both of its examples are masked
    for mask in (where[:, None], where.astype(int), where.astype(float), where[:3], True):
        for loss in (cross_entropy, supervised_contrastive):
            with pytest.raises(ValueError, match='where must be booleans'):
                loss(SCORES, LABELS, where=mask)


def test_weights_of_zero_leave_out_even_nan():
    """Padding with label -1, as loaders write it, and a mask for `weighted_mean`."""
    labels = np.array([0, 1, -1, -1, 2, 0])

    def mean(scores):
        return weighted_mean(cross_entropy(scores, labels), labels >= 0)

    value, gradient = jax.value_and_grad(mean)(SCORES)
    kept = labels >= 0
    np.testing.assert_allclose(value, cross_entropy(SCORES[kept], labels[kept]).mean(), rtol=1e-6)
    np.testing.assert_array_equal(gradient[~kept], 0)
    assert np.all(np.isfinite(gradient))
    assert np.isnan(weighted_mean([1.0, np.nan], [1.0, 1.0]))


# Per-example output


def test_reduction_none_gives_the_losses_of_the_anchors():
    for loss in METRIC.values():
        with pytest.raises(ValueError, match='reduction'):
            loss(VECTORS, LABELS, reduction='sum')
    counted = np.array([1, 1, 0, 1, 1, 1], bool)  # the third is alone in its class
    for name in ('triplet batch_hard', 'supervised_contrastive'):
        each = METRIC[name](VECTORS, LABELS, reduction='none')
        assert each.shape == (6,)
        assert each[2] == 0
        np.testing.assert_allclose(each[counted].mean(), METRIC[name](VECTORS, LABELS), rtol=1e-6)
    each = METRIC['balanced_contrastive'](VECTORS, LABELS, reduction='none')
    np.testing.assert_allclose(
        each.mean(), METRIC['balanced_contrastive'](VECTORS, LABELS), rtol=1e-6
    )
    line = np.array([[0.0], [1.0], [3.0]])
    each = triplet(line, [0, 0, 1], 2.5, mining='batch_all', reduction='none')
    np.testing.assert_allclose(each, [0.5, 1.5, 0])  # 1 - 3 + 2.5, 1 - 2 + 2.5, no positive
    each = triplet([[0.0], [1.0], [3.0], [0.5]], [0, 0, 1, 1], 2.5, 'batch_all', reduction='none')
    np.testing.assert_allclose(each[0], (0.5 + 3) / 2)  # its triplets above 0


@each_metric
def test_extreme_lengths(loss):
    """Of vectors whose squares vanish in float32, and of two that can be told apart."""
    for scale in (0, 1e-30, 1e-10, 1e10):
        value, gradient = jax.value_and_grad(loss)(np.float32(scale) * VECTORS, LABELS)
        assert np.isfinite(value), scale
        assert np.all(np.isfinite(gradient)), scale
    assert not np.isfinite(loss(np.float32(1e25) * VECTORS, LABELS))
    half = loss(VECTORS.astype(np.float16), LABELS)
    np.testing.assert_array_equal(half, loss(np.float32(VECTORS.astype(np.float16)), LABELS))


# Parameters


REFUSED = {
    'temperature': [
        lambda t=t, f=f: f(VECTORS, LABELS, temperature=t)
        for t in (0, 0.0, -0.1, float('nan'))
        for f in (
            supervised_contrastive,
            functools.partial(balanced_contrastive, prototypes=CENTERS),
        )
    ],
    'margin': [
        lambda m=m, f=f: f(SCORES, LABELS, margin=m)
        for m in (-0.1, np.float32(-1), float('nan'))
        for f in (triplet, cosface, arcface)
    ],
    'max_margin': [lambda: ldam(SCORES, LABELS, COUNTS, max_margin=-0.5)],
    'scale': [
        lambda s=s, f=f: f(SCORES, LABELS, scale=s)
        for s in (0, -30)
        for f in (cosface, arcface, CLASSIFICATION['ldam'])
    ],
    'gamma': [lambda: focal(SCORES, LABELS, gamma=-1)],
    'beta': [lambda b=b: class_weights.effective_number(COUNTS, b) for b in (1.0, 1, -0.1)],
    'counts': [
        lambda n=n, f=f: f(n)
        for n in ([5, -1, 3], np.array([5, np.nan, 3]))
        for f in (
            class_weights.inverse_frequency,
            lambda n: class_weights.effective_number(n, 0.9),
            ldam_margins,
            lambda n: logit_adjusted(SCORES, LABELS, n),
            lambda n: adjust_logits(SCORES, n),
            lambda n: ldam(SCORES, LABELS, n),
        )
    ],
}


@pytest.mark.parametrize('name', REFUSED)
def test_parameters_out_of_range_are_refused_also_under_jit(name):
    for call in REFUSED[name]:
        for run in (call, jax.jit(call)):
            with pytest.raises(ValueError, match=f'{name} must be'):
                run()


def test_counts_that_are_arrays_of_jax_give_nan_where_they_are_no_counts():
    wrong = jnp.array([5.0, -1.0, 3.0])
    assert np.all(np.isnan(class_weights.inverse_frequency(wrong)))
    for loss in (logit_adjusted, ldam):
        assert np.any(np.isnan(jax.jit(loss)(SCORES, LABELS, wrong)))


@pytest.mark.parametrize('many', [10**6, 5 * 10**9, 10**15])
def test_large_counts_of_any_type(many):
    counts = [many, many // 2, many // 4]
    for given_counts in (counts, np.array(counts), np.array(counts, float), np.float32(counts)):
        for weigh in (
            class_weights.inverse_frequency,
            functools.partial(class_weights.effective_number, beta=0.9),
        ):
            expected = np.array([3, 6, 12]) / 7
            if weigh is not class_weights.inverse_frequency:
                expected = np.ones(3)  # saturated
            np.testing.assert_allclose(weigh(given_counts), expected, rtol=1e-5)
        np.testing.assert_allclose(
            ldam_margins(given_counts), 0.5 * np.array([4.0, 2, 1]) ** -0.25, rtol=1e-5
        )
