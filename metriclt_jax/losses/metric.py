"""Metric losses of stage 1 (section 2.2 of the paper): compact classes, far from each other.

`center` and `triplet` take Euclidean distances between raw features, the contrastive losses cosine
similarities between L2-normalised embeddings of a projection head.

All but `center` compare examples with each other. With `axis_name` (inside `pmap` or `shard_map`)
the candidates of a device's examples come from all devices, which must hold equally many, and the
value is that of the global batch (see `weighted_mean` for its gradient).
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec, reshard
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import at_least_float32, weighted_mean

# Vectors whose squared length is not above this count as zero, with zero gradient. It is small
# enough to matter for exact zeros only, and keeps the first two derivatives of the root (which has
# none at 0) in the range of float32.
_ZERO_SQUARED_LENGTH = 1e-24


def center(features: ArrayLike, labels: ArrayLike, centers: ArrayLike) -> jax.Array:
    """Center loss of each example, |feature - center of its class|^2 / 2 (Wen et al. 2016, eq. 2).

    Losses `[B]` from features `[B, D]`, integer labels `[B]` and centers `[C, D]`. The loss of a
    label outside [0, C) is NaN.

    >>> print(center([[3.0, 4.0]], [0], [[0.0, 0.0]]))
    [12.5]
    """
    features, labels = _vectors_and_labels(features, labels)
    centers = _class_vectors(centers, features, 'centers')
    labels = jnp.where(labels < 0, len(centers), labels)  # -1 is not the last class
    return jnp.sum(jnp.square(features - jnp.take(centers, labels, axis=0)), axis=-1) / 2


def triplet(
    features: ArrayLike,
    labels: ArrayLike,
    margin: float,
    mining: str = 'batch_hard',
    squared: bool = False,
    axis_name: str | None = None,
) -> jax.Array:
    """Triplet loss: mean of max(0, d(anchor, positive) - d(anchor, negative) + margin).

    Positives are other examples of the anchor's class; d is the Euclidean distance (Hoffer and
    Ailon 2015; minings by Hermans et al. 2017, section 2).

    - 'batch_hard': the farthest positive and the nearest negative of each anchor; mean over the
      anchors that have both, zero losses included.
    - 'batch_all': every triplet; mean over those with a loss above 0. Needs a few arrays of
      `[B, B, B]` floats (`[B / devices, B, B]` with `axis_name`).

    Args:
        features: raw features `[B, D]`; L2-normalised ones are at most 2 apart.
        labels: integers `[B]`.
        margin: in units of d; 50 in the paper.
        mining: 'batch_hard' or 'batch_all'.
        squared: whether d is the squared distance.
        axis_name: mapped axis over which the batch is split, or None.

    Returns:
        A scalar, 0 where there is nothing to average.

    >>> features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
    >>> print(triplet(features, [0, 0, 1, 1], margin=5.0))
    4.25
    """
    if mining not in _MININGS:
        raise ValueError(f'mining must be one of {sorted(_MININGS)}, got {mining!r}.')
    features, labels = _vectors_and_labels(features, labels)
    distances = _squared_distances(features, _gather(features, axis_name))
    if not squared:
        is_zero = distances <= _ZERO_SQUARED_LENGTH
        distances = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, distances)))
    positive, negative = _pairs(labels, axis_name)
    losses, counted = _MININGS[mining](distances, positive, negative, margin)
    return weighted_mean(losses, counted, axis_name)


def supervised_contrastive(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: float = 0.05,
    axis_name: str | None = None,
) -> jax.Array:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2: the sum outside the logarithm).

    For an anchor i with positives P(i), the other examples of its class, the loss is the mean over
    p in P(i) of -log(exp(z_i z_p / T) / sum over a != i of exp(z_i z_a / T)). Anchors without a
    positive are left out of the mean over anchors. There is no factor T / base temperature.

    Takes embeddings `[B, P]`, which it normalises, and integer labels `[B]`; returns a scalar, 0
    where no anchor has a positive.

    >>> f'{supervised_contrastive(jnp.ones([4, 2]), [0, 0, 1, 1]):.4f}'  # log(3)
    '1.0986'
    """
    embeddings, labels = _vectors_and_labels(embeddings, labels)
    embeddings = _l2_normalize(embeddings)
    logits = _similarities(embeddings, _gather(embeddings, axis_name)) / temperature
    positive, negative = _pairs(labels, axis_name)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1, where=positive | negative)
    positives = jnp.sum(positive, axis=-1)
    losses = -jnp.sum(log_probabilities, axis=-1, where=positive) / jnp.maximum(positives, 1)
    return weighted_mean(losses, positives > 0, axis_name)


def balanced_contrastive(
    embeddings: ArrayLike,
    labels: ArrayLike,
    prototypes: ArrayLike,
    temperature: float = 0.1,
    axis_name: str | None = None,
) -> jax.Array:
    """Balanced contrastive loss (Zhu et al. 2022): every class weighs the same for every anchor.

    The prototype of each class joins the batch as one more candidate, but not as an anchor
    (class-complement). For an anchor i let K(c) be the examples of class c other than i, and the
    prototype of c. With s(k) = exp(z_i z_k / T) the loss of i, of class y, is

        mean over p in K(y) of -log(s(p) / sum over all classes c of (mean over k in K(c) of s(k))).

    The means in the denominator (class-averaging) keep frequent classes from outweighing rare ones.
    As in the authors' code, the anchor does not count in the size of K(y). The result is the mean
    over all anchors.

    Takes embeddings `[B, P]`, integer labels in [0, C) `[B]` and prototypes `[C, P]`, the same on
    all devices (learned; in the paper a projection of the classifier's weights). Normalises both.

    >>> embeddings, prototypes = jnp.ones([5, 2]), jnp.ones([3, 2])
    >>> f'{balanced_contrastive(embeddings, [0, 0, 0, 0, 1], prototypes):.4f}'  # log(3)
    '1.0986'
    """
    embeddings, labels = _vectors_and_labels(embeddings, labels)
    prototypes = _class_vectors(prototypes, embeddings, 'prototypes')
    embeddings, prototypes = _l2_normalize(embeddings), _l2_normalize(prototypes)
    candidates = jnp.concatenate([_gather(embeddings, axis_name), prototypes])
    logits = _similarities(embeddings, candidates) / temperature

    classes = jnp.arange(len(prototypes))
    is_own_prototype = labels[:, None] == classes
    positive, negative = _pairs(labels, axis_name)
    positive = jnp.concatenate([positive, is_own_prototype], axis=1)
    negative = jnp.concatenate([negative, ~is_own_prototype], axis=1)
    # How many candidates share the class of a candidate, without the anchor itself.
    candidate_classes = jnp.concatenate([_gather(labels, axis_name), classes])
    sizes = jnp.sum(candidate_classes[:, None] == candidate_classes, axis=0) - positive
    log_denominators = jax.nn.logsumexp(logits - jnp.log(sizes), axis=-1, where=positive | negative)
    losses = log_denominators - jnp.mean(logits, axis=-1, where=positive)
    return weighted_mean(losses, jnp.ones_like(losses), axis_name)


def _batch_hard(distances, positive, negative, margin):
    """Losses `[A]`, and which of the anchors count."""
    farthest_positive = jnp.max(distances, axis=1, where=positive, initial=0)
    nearest_negative = jnp.min(distances, axis=1, where=negative, initial=jnp.inf)
    has_both = positive.any(axis=1) & negative.any(axis=1)
    return jax.nn.relu(farthest_positive - nearest_negative + margin), has_both


def _batch_all(distances, positive, negative, margin):
    """Losses `[A, B, B]`, and which of the triplets (anchor, positive, negative) count."""
    losses = jax.nn.relu(distances[:, :, None] - distances[:, None, :] + margin)
    # Not `losses > 0`, which would leave out NaN.
    return losses, positive[:, :, None] & negative[:, None, :] & ~(losses <= 0)


_MININGS = {'batch_hard': _batch_hard, 'batch_all': _batch_all}


def _vectors_and_labels(vectors: ArrayLike, labels: ArrayLike) -> tuple[jax.Array, jax.Array]:
    vectors, labels = at_least_float32(vectors), jnp.asarray(labels)
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ValueError(
            'features or embeddings must be [B, D] and labels [B], '
            f'got shapes {vectors.shape} and {labels.shape}.'
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f'labels must be integers, got {labels.dtype}.')
    if any(jax.typeof(vectors).sharding.spec):  # split over an explicit mesh: all pairs need all
        vectors, labels = reshard((vectors, labels), PartitionSpec())
    return vectors, labels


def _class_vectors(vectors: ArrayLike, like: jax.Array, name: str) -> jax.Array:
    vectors = at_least_float32(vectors)
    if vectors.ndim != 2 or vectors.shape[1] != like.shape[1]:
        raise ValueError(
            f'{name} must be [C, D] beside vectors of shape {like.shape}, got {vectors.shape}.'
        )
    return vectors


def _gather(array: jax.Array, axis_name: str | None) -> jax.Array:
    """Rows of all devices, in the order of the devices."""
    return array if axis_name is None else lax.all_gather(array, axis_name, tiled=True)


def _pairs(labels: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Which pairs (own example, candidate) are positive and which negative: two masks `[A, B]`.

    A pair of an example with itself is neither.
    """
    candidate_labels = _gather(labels, axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * labels.size
    is_self = first + jnp.arange(labels.size)[:, None] == jnp.arange(candidate_labels.size)
    is_same_class = labels[:, None] == candidate_labels
    return is_same_class & ~is_self, ~is_same_class


def _similarities(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Inner products `[A, B]` of the rows."""
    return jnp.matmul(anchors, candidates.T, precision='highest')


def _squared_distances(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Squared Euclidean distances `[A, B]` between the rows `[A, D]` and `[B, D]`."""

    # Differences, not |x|^2 + |y|^2 - 2xy, which cancels for close features of large norm. One
    # anchor at a time, and differences again in the backward pass, so that [A, B, D] floats are
    # never kept.
    def to_candidates(anchor):
        return jnp.sum(jnp.square(anchor - candidates), axis=-1)

    return lax.map(jax.checkpoint(to_candidates, prevent_cse=False), anchors)


def _l2_normalize(vectors: jax.Array) -> jax.Array:
    """Rows scaled to length 1; zero rows stay zero, and overflow gives NaN."""
    squared = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    squared = jnp.where(jnp.isinf(squared), jnp.nan, squared)  # or diverged vectors count as zero
    return vectors / jnp.sqrt(jnp.where(squared <= _ZERO_SQUARED_LENGTH, 1, squared))
