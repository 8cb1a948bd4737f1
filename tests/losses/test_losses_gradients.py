"""Derivatives: against finite differences in float64, and finite where the formulas have a pole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.losses import (
    arcface,
    balanced_contrastive,
    center,
    cosface,
    cross_entropy,
    focal,
    ldam,
    logit_adjusted,
    supervised_contrastive,
    triplet,
    weighted_mean,
)

# int32: JAX keeps the int64 form of a constant that it met in 64-bit mode, and warns after it.
LABELS = np.array([0, 0, 0, 1, 1, 2, 3], np.int32)


def soft_labels():
    return np.random.default_rng(1).dirichlet(np.ones(4), 7)


def centers():
    return np.random.default_rng(2).normal(size=(4, 4))


COUNTS = np.array([500, 50, 0, 5], np.int32)

# Each takes vectors [7, 4], which are logits, features or embeddings; tanh makes cosines of them,
# which reach +-1 in float32.
LOSSES = {
    'cross_entropy integers': lambda x: cross_entropy(x, LABELS),
    'cross_entropy probabilities': lambda x: cross_entropy(x, soft_labels()),
    'cross_entropy weighted': lambda x: weighted_mean(cross_entropy(x, LABELS), LABELS + 0.5),
    'center': lambda x: center(x, LABELS, centers()),
    'center of centers': lambda x: center(centers()[LABELS] ** 2, LABELS, x),
    'supervised_contrastive': lambda x: supervised_contrastive(x, LABELS, temperature=0.5),
    'balanced_contrastive': lambda x: balanced_contrastive(x, LABELS, centers(), temperature=0.5),
    'balanced_contrastive of prototypes': lambda x: balanced_contrastive(
        centers()[LABELS] + soft_labels(), LABELS, x, temperature=0.5
    ),
    'focal 0.5': lambda x: focal(x, LABELS, gamma=0.5),
    'focal 2': lambda x: focal(x, LABELS),
    'focal probabilities': lambda x: focal(x, soft_labels(), gamma=1.5),
    'logit_adjusted': lambda x: logit_adjusted(x, LABELS, COUNTS),
    'ldam': lambda x: ldam(jnp.tanh(x), LABELS, COUNTS, scale=2.0),
    'ldam probabilities': lambda x: ldam(jnp.tanh(x), soft_labels(), COUNTS, scale=2.0),
    'cosface': lambda x: cosface(jnp.tanh(x), LABELS, scale=2.0),
    'arcface': lambda x: arcface(jnp.tanh(x), LABELS, scale=2.0),
    'arcface probabilities': lambda x: arcface(jnp.tanh(x), soft_labels(), scale=2.0),
} | {
    f'triplet {mining}{" squared" * squared}': functools.partial(
        triplet, labels=LABELS, margin=1.5, mining=mining, squared=squared
    )
    for mining in ('batch_hard', 'batch_all')
    for squared in (False, True)
}


def central_differences(function, x, step=1e-5):
    directions = np.eye(x.size).reshape(x.size, *x.shape)
    differences = jax.jit(
        jax.vmap(lambda d: (function(x + step * d) - function(x - step * d)) / (2 * step))
    )(directions)
    return np.moveaxis(differences.reshape(*x.shape, *differences.shape[1:]), (0, 1), (-2, -1))


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_first_and_second_derivatives_agree_with_finite_differences(rng, loss):
    with jax.enable_x64(True):
        vectors = rng.normal(size=(7, 4))

        def total(x):
            return jnp.sum(loss(x))

        gradient_of = jax.grad(total)
        gradient, hessian = jax.jit(lambda x: (gradient_of(x), jax.hessian(total)(x)))(vectors)
        assert gradient.dtype == jnp.float64
        assert np.linalg.norm(gradient) > 0.01
        np.testing.assert_allclose(gradient, central_differences(total, vectors), atol=1e-8)
        np.testing.assert_allclose(hessian, central_differences(gradient_of, vectors), atol=1e-7)


# Where a formula has a pole, cancels or overflows, made from random vectors.
EXTREMES = {
    'all zero': lambda x: 0 * x,
    'all equal': lambda x: 0 * x + 1,
    'equal within classes': lambda x: x[LABELS],
    'equal across classes': lambda x: x[[0, 1, 2, 0, 1, 0, 1]],
    'neighbouring floats': lambda x: 50 + np.spacing(np.float32(50)) * np.sign(x),
    'large': lambda x: 1e4 * x,
    'large and saturated': lambda x: 1e4 * np.sign(x),
} | {
    f'as small as {scale}': lambda x, s=scale: s * x for scale in (1e-8, 1e-13, 1e-16, 1e-19, 1e-30)
}


def value_gradient_and_hessian(loss):
    def total(*arguments):
        return jnp.sum(loss(*arguments))

    parts = (total, jax.grad(total), jax.hessian(total))
    return jax.jit(lambda *arguments: [part(*arguments) for part in parts])


def are_finite(arrays):
    return [bool(np.all(np.isfinite(array))) for array in arrays]


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_value_gradient_and_hessian_are_finite(rng, loss):
    vectors = rng.normal(size=(7, 4))
    parts_of = value_gradient_and_hessian(loss)
    for name, make in EXTREMES.items():
        assert are_finite(parts_of(np.float32(make(vectors)))) == [True, True, True], name


@pytest.mark.parametrize('loss', [ldam, cosface, arcface], ids=['ldam', 'cosface', 'arcface'])
@pytest.mark.parametrize('labels', [LABELS, soft_labels()], ids=['integers', 'probabilities'])
def test_cosines_at_and_beyond_one_leave_everything_finite(loss, labels):
    if loss is ldam:
        loss = functools.partial(ldam, class_counts=COUNTS)
    parts_of = value_gradient_and_hessian(lambda cosines: loss(cosines, labels))
    one = np.float32(1)
    below, above = np.nextafter(one, [np.float32(0), np.float32(2)])
    for cosine in (one, below, above, np.float32(1.001)):
        for sign in (1, -1):
            for rest in (0, -sign * cosine, sign * cosine):
                cosines = np.full([7, 4], rest, np.float32)
                cosines[np.arange(7), LABELS] = sign * cosine
                assert are_finite(parts_of(cosines)) == [True, True, True], (sign * cosine, rest)


@pytest.mark.parametrize('gamma', [0, 0.3, 1, 1.5, 2])
@pytest.mark.parametrize('labels', [[0, 0, 0], np.eye(3)[[0, 0, 0]]], ids=['integers', 'one-hot'])
def test_focal_of_sure_and_of_hopeless_examples_is_finite(gamma, labels):
    parts_of = value_gradient_and_hessian(lambda logits: focal(logits, labels, gamma))
    for target in (-1e4, -100, -20, 17, 20, 100, 1e4):  # from 17 on the softmax rounds to 1
        parts = parts_of(np.float32([[target, 0, 0], [target, -5, 5], [target, target, 1]]))
        assert are_finite(parts) == [True, True, True], target


@pytest.mark.parametrize('mining', ['batch_hard', 'batch_all', None])
def test_missing_positives_or_negatives_leave_everything_finite(rng, mining):
    vectors = rng.normal(size=(4, 3))
    of_mining = functools.partial(triplet, margin=50.0, mining=mining)
    parts_of = value_gradient_and_hessian(of_mining if mining else supervised_contrastive)
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 1, 1], [0]):
        parts = parts_of(vectors[: len(labels)], np.array(labels))
        assert are_finite(parts) == [True, True, True], labels
