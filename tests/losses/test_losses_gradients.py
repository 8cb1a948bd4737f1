"""Derivatives: against finite differences in float64, and finite where the formulas have a pole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.losses import (
    center,
    cross_entropy,
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


# Each takes vectors [7, 4], which are logits, features or embeddings.
LOSSES = {
    'cross_entropy integers': lambda x: cross_entropy(x, LABELS),
    'cross_entropy probabilities': lambda x: cross_entropy(x, soft_labels()),
    'cross_entropy weighted': lambda x: weighted_mean(cross_entropy(x, LABELS), LABELS + 0.5),
    'center': lambda x: center(x, LABELS, centers()),
    'center of centers': lambda x: center(centers()[LABELS] ** 2, LABELS, x),
    'supervised_contrastive': lambda x: supervised_contrastive(x, LABELS, temperature=0.5),
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
    finite = {
        name: are_finite(parts_of(np.float32(make(vectors)))) for name, make in EXTREMES.items()
    }
    assert finite == {name: [True, True, True] for name in EXTREMES}


@pytest.mark.parametrize(
    'loss',
    [
        functools.partial(triplet, margin=50.0),
        functools.partial(triplet, margin=50.0, mining='batch_all'),
        supervised_contrastive,
    ],
    ids=['batch_hard', 'batch_all', 'supervised_contrastive'],
)
def test_missing_positives_or_negatives_leave_everything_finite(rng, loss):
    vectors = rng.normal(size=(4, 3))
    parts_of = value_gradient_and_hessian(loss)
    for labels in ([0, 0, 0, 0], [0, 1, 2, 3], [0, 1, 1, 1], [0]):
        parts = parts_of(vectors[: len(labels)], np.array(labels))
        assert are_finite(parts) == [True, True, True], labels
