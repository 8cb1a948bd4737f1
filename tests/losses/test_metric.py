import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metriclt_jax.losses import balanced_contrastive, center, supervised_contrastive, triplet

MININGS = ['batch_hard', 'batch_all']

# Coordinates on a coarse grid, so that equal vectors, zero vectors and ties come up; labels with
# every mixture of singletons and larger classes.
vectors_of_8 = hnp.arrays(np.int8, (8, 3), elements=st.integers(-3, 3)).map(np.float32)
prototypes_of_5 = hnp.arrays(np.int8, (5, 3), elements=st.integers(-3, 3)).map(np.float32)
labels_of_8 = hnp.arrays(np.int32, 8, elements=st.integers(0, 4))
few = settings(deadline=None, max_examples=20)

static = ('mining', 'squared')
jit_triplet = jax.jit(triplet, static_argnames=static)
jit_triplet_and_gradient = jax.jit(jax.value_and_grad(triplet), static_argnames=static)
jit_supervised_contrastive = jax.jit(supervised_contrastive)
jit_balanced_contrastive = jax.jit(balanced_contrastive)


def numpy_triplet(features, labels, margin, mining, squared):
    def distance(i, j):
        square = np.sum((features[i].astype(float) - features[j]) ** 2)
        return square if squared else np.sqrt(square)

    everyone = range(len(labels))
    losses = []
    for anchor in everyone:
        positives = [p for p in everyone if p != anchor and labels[p] == labels[anchor]]
        negatives = [n for n in everyone if labels[n] != labels[anchor]]
        if not positives or not negatives:
            continue
        if mining == 'batch_hard':
            farthest = max(distance(anchor, p) for p in positives)
            nearest = min(distance(anchor, n) for n in negatives)
            losses.append(max(0, farthest - nearest + margin))
        else:
            for p in positives:
                for n in negatives:
                    loss = distance(anchor, p) - distance(anchor, n) + margin
                    if loss > 0:
                        losses.append(loss)
    return np.mean(losses) if losses else 0.0


def numpy_supervised_contrastive(embeddings, labels, temperature):
    z = [e / (np.linalg.norm(e) or 1) for e in embeddings.astype(float)]
    everyone = range(len(labels))
    losses = []
    for i in everyone:
        positives = [p for p in everyone if p != i and labels[p] == labels[i]]
        if not positives:
            continue
        total = sum(np.exp(z[i] @ z[a] / temperature) for a in everyone if a != i)
        log_probabilities = [np.log(np.exp(z[i] @ z[p] / temperature) / total) for p in positives]
        losses.append(-np.mean(log_probabilities))
    return np.mean(losses) if losses else 0.0


def numpy_balanced_contrastive(embeddings, labels, prototypes, temperature):
    z, c = ([v / (np.linalg.norm(v) or 1) for v in rows] for rows in (embeddings, prototypes))
    losses = []
    for i, own_class in enumerate(labels):
        scores = []  # of the candidates of each class
        for label, prototype in enumerate(c):
            members = [z[k] for k in range(len(z)) if labels[k] == label and k != i]
            scores.append([np.exp(z[i] @ m / temperature) for m in [*members, prototype]])
        denominator = sum(np.mean(of_class) for of_class in scores)
        losses.append(-np.mean(np.log(np.array(scores[own_class]) / denominator)))
    return np.mean(losses)


# Center loss


def test_center_takes_the_center_of_the_label_and_is_nan_where_it_is_not_a_class():
    features, labels = np.array([[1.0], [1.0], [5.0], [0.0], [0.0]]), np.array([0, 2, 1, -1, 3])
    losses = jax.jit(center)(features, labels, np.array([[1.0], [2.0], [4.0]]))
    np.testing.assert_array_equal(losses, [0, 4.5, 4.5, np.nan, np.nan])


def test_center_gradients_pull_features_and_centers_together(rng):
    features, centers = rng.normal(size=(5, 3)), rng.normal(size=(3, 3))
    labels = np.array([0, 2, 2, 0, 2])
    by_features, by_centers = jax.grad(lambda f, c: center(f, labels, c).sum(), argnums=(0, 1))(
        features, centers
    )
    np.testing.assert_allclose(by_features, features - centers[labels], rtol=1e-5)
    expected = [np.sum(centers[c] - features[labels == c], axis=0) for c in range(3)]
    np.testing.assert_allclose(by_centers, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(by_centers[1], 0)  # no example of class 1


# Triplet loss


@pytest.mark.parametrize('mining', MININGS)
@pytest.mark.parametrize('squared', [False, True])
def test_triplet_of_equal_features_is_exactly_the_margin(rng, mining, squared):
    # As long and as wide as the pooled features of a ResNet50, where |x|^2 + |y|^2 - 2xy is not 0.
    feature = rng.random(2048).astype(np.float32)
    features = np.tile(50 * feature / np.linalg.norm(feature), [6, 1])
    loss, gradient = jit_triplet_and_gradient(
        features, np.array([0, 0, 1, 1, 2, 2]), 50.0, mining=mining, squared=squared
    )
    assert loss == 50
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('distance', [0.01, 1.0, 50.0])
def test_triplet_is_accurate_for_raw_features_far_from_the_origin(rng, distance):
    base = rng.random(2048)
    features = rng.normal(size=(8, 2048))
    features *= distance / np.sqrt(2) / np.linalg.norm(features, axis=1, keepdims=True)
    features = np.float32(50 * base / np.linalg.norm(base) + features)
    labels = np.repeat([0, 1], 4)
    loss = jit_triplet(features, labels, 50.0)
    expected = numpy_triplet(features, labels, 50.0, 'batch_hard', squared=False)
    np.testing.assert_allclose(loss, expected, atol=1e-6 * (50 + distance))


@pytest.mark.parametrize('mining', MININGS)
@pytest.mark.parametrize('squared', [False, True])
@pytest.mark.parametrize('margin', [0.7183, 50.0])
@few
@given(features=vectors_of_8, labels=labels_of_8)
def test_triplet_agrees_with_loops(mining, squared, margin, features, labels):
    np.testing.assert_allclose(
        jit_triplet(features, labels, margin, mining=mining, squared=squared),
        numpy_triplet(features, labels, margin, mining, squared),
        rtol=1e-5,
        atol=1e-6,
    )


def test_triplet_keeps_no_differences_of_all_pairs():
    batch, dim = 64, 512
    compiled = (
        jax.jit(jax.grad(triplet))
        .lower(jnp.zeros([batch, dim]), jnp.zeros(batch, jnp.int32), 50.0)
        .compile()
    )
    bytes_of_all_differences = batch * batch * dim * 4
    assert compiled.memory_analysis().temp_size_in_bytes < bytes_of_all_differences / 4


# Contrastive losses


@pytest.mark.parametrize('temperature', [0.05, 1.0])
@few
@given(embeddings=vectors_of_8, labels=labels_of_8, prototypes=prototypes_of_5)
def test_contrastive_losses_agree_with_loops(temperature, embeddings, labels, prototypes):
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=2e-6 / temperature)
    close(
        jit_supervised_contrastive(embeddings, labels, temperature),
        numpy_supervised_contrastive(embeddings, labels, temperature),
    )
    close(
        jit_balanced_contrastive(embeddings, labels, prototypes, temperature),
        numpy_balanced_contrastive(embeddings, labels, prototypes, temperature),
    )


def test_the_contrastive_losses_have_the_temperatures_of_their_papers(rng):
    supervised = rng.normal(size=(8, 3)), np.array([0, 0, 0, 1, 1, 2, 2, 3])
    balanced = *supervised, rng.normal(size=(5, 3))
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    close(supervised_contrastive(*supervised), numpy_supervised_contrastive(*supervised, 0.05))
    close(balanced_contrastive(*balanced), numpy_balanced_contrastive(*balanced, 0.1))


# All of them


LOSSES = {
    'center': lambda vectors, labels: center(vectors, labels, jnp.ones([4, 3])).mean(),
    'triplet batch_hard': functools.partial(triplet, margin=50.0),
    'triplet batch_all': functools.partial(triplet, margin=50.0, mining='batch_all'),
    'supervised_contrastive': supervised_contrastive,
    'balanced_contrastive': functools.partial(
        balanced_contrastive, prototypes=np.eye(4, 3, dtype=np.float32)
    ),
}


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_low_precision_is_cast_first_and_overflow_does_not_look_healthy(rng, loss):
    loss, labels = jax.jit(loss), np.repeat([0, 1, 2, 3], 2)
    vectors = jnp.asarray(rng.normal(size=(8, 3)), jnp.bfloat16)
    value, same = loss(vectors, labels), vectors.astype(jnp.float32)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(same, labels))
    assert not np.isfinite(loss(1e20 * same, labels))


@pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)
def test_wrong_shapes_and_types_are_refused(loss):
    for vectors, labels in (
        (np.zeros([4, 3]), np.zeros(5, int)),
        (np.zeros([4, 3]), np.zeros([4, 1], int)),
        (np.zeros([2, 2, 3]), np.zeros(2, int)),
        (np.zeros([4, 3]), np.zeros(4, np.float32)),
    ):
        with pytest.raises(ValueError, match='labels'):
            loss(vectors, labels)


def test_class_vectors_of_wrong_shape_and_unknown_mining_are_refused():
    vectors, labels = np.zeros([4, 3]), np.zeros(4, int)
    for loss in (center, balanced_contrastive):
        for shape in ((3,), (5, 2), (2, 5, 3)):
            with pytest.raises(ValueError, match='must be'):
                loss(vectors, labels, np.zeros(shape))
    with pytest.raises(ValueError, match='semi_hard'):
        triplet(vectors, labels, 5.0, mining='semi_hard')
