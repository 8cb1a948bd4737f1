"""Metric losses of stage 1 (section 2.2 of the paper): compact classes, far from each other.

`center` and `triplet` take Euclidean distances between raw features, the contrastive losses cosine
similarities between L2-normalised embeddings of a projection head.

All but `center` compare examples with each other. With `axis_name` (inside `pmap` or `shard_map`)
the anchors are a device's own examples, and their candidates those of all devices. Only the mean
over devices of the returned values, and of their gradients, has a meaning then: it is the value of
the global batch (see `weighted_mean`). Every device must hold equally many examples.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import at_least_float32, weighted_mean

# Vectors whose squared length is not above this count as zero, with zero gradient. It is small
# enough to matter for exact zeros only, and keeps the first two derivatives of the root (which has
# none at 0) in the range of float32.
_ZERO_SQUARED_LENGTH = 1e-24


def center(features: ArrayLike, labels: ArrayLike, centers: ArrayLike) -> jax.Array:
    """Center loss of each example, |feature - center of its class|^2 / 2 (Wen et al. 2016, eq. 2).

    The centres are learned as well. Their gradient is the sum of (center - feature) over the
    examples of the class, divided by whatever the caller's mean divides by.

    Args:
        features: raw features `[B, D]`.
        labels: integers in [0, C) `[B]`.
        centers: `[C, D]`.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: shapes other than those above, or labels that are no integers.

    >>> print(center([[3.0, 4.0]], [0], [[0.0, 0.0]]))
    [12.5]
    """
    features, labels = _vectors_and_labels(features, labels)
    centers = at_least_float32(centers)
    if centers.ndim != 2 or centers.shape[1] != features.shape[1]:
        raise ValueError(
            f'centers must be [C, D] for features [B, D] of shape {features.shape}, '
            f'got shape {centers.shape}.'
        )
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

    Positives share the anchor's class (the anchor itself is none), negatives do not; d is the
    Euclidean distance (Hoffer and Ailon 2015; minings by Hermans et al. 2017, section 2).

    - 'batch_hard': the farthest positive and the nearest negative of each anchor; mean over the
      anchors that have both, zero losses included.
    - 'batch_all': every triplet; mean over those with a loss above 0. Needs memory for
      a few arrays of `[B, B, B]` floats (`[B / devices, B, B]` with `axis_name`), 64 MiB each for
      B = 256.

    Args:
        features: raw features `[B, D]`. On L2-normalised ones no distance exceeds 2, and the
          paper's margin of 50 could never be met.
        labels: integers `[B]`.
        margin: in units of d; 50 in the paper.
        mining: 'batch_hard' or 'batch_all'.
        squared: whether d is the squared distance.
        axis_name: mapped axis over which the batch is split, or None.

    Returns:
        A scalar, 0 where there is nothing to average.

    Raises:
        ValueError: unknown `mining`, shapes other than those above, or labels that are no integers.

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
    p in P(i) of -log(exp(z_i z_p / T) / sum over a != i of exp(z_i z_a / T)). The anchor itself is
    in neither sum, and anchors without a positive are left out of the mean over anchors. There is
    no further factor T / base temperature.

    Args:
        embeddings: `[B, P]`, L2-normalised here.
        labels: integers `[B]`.
        temperature: T; 0.05 in the paper.
        axis_name: mapped axis over which the batch is split, or None.

    Returns:
        A scalar, 0 where no anchor has a positive.

    Raises:
        ValueError: shapes other than those above, or labels that are no integers.

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

    The prototype of each class joins the batch as one more example of it (class-complement), as a
    candidate but not as an anchor. For an anchor i let K(c) be the examples of class c other than
    i, and the prototype of c; no K(c) is empty. With s(k) = exp(z_i z_k / T) the loss of i, of
    class y, is

        mean over p in K(y) of -log(s(p) / sum over all classes c of (mean over k in K(c) of s(k))).

    The means in the denominator (class-averaging) keep frequent classes from outweighing rare ones
    there. The anchor is in neither sum, nor in the size of K(y), as in the authors' code. The
    result is the mean over all anchors: each has a positive, its prototype.

    Args:
        embeddings: `[B, P]`, L2-normalised here.
        labels: integers in [0, C) `[B]`.
        prototypes: one for each class, `[C, P]`, L2-normalised here; learned as well, in the paper
            a projection of the classifier's weight vectors. The same on all devices.
        temperature: T.
        axis_name: mapped axis over which the batch is split, or None.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes other than those above, or labels that are no integers.

    >>> embeddings, prototypes = jnp.ones([5, 2]), jnp.ones([3, 2])
    >>> f'{balanced_contrastive(embeddings, [0, 0, 0, 0, 1], prototypes):.4f}'  # log(3)
    '1.0986'
    """
    embeddings, labels = _vectors_and_labels(embeddings, labels)
    prototypes = at_least_float32(prototypes)
    if prototypes.ndim != 2 or prototypes.shape[1] != embeddings.shape[1]:
        raise ValueError(
            f'prototypes must be [C, P] for embeddings [B, P] of shape {embeddings.shape}, '
            f'got shape {prototypes.shape}.'
        )
    embeddings, prototypes = _l2_normalize(embeddings), _l2_normalize(prototypes)
    candidates = jnp.concatenate([_gather(embeddings, axis_name), prototypes])
    logits = _similarities(embeddings, candidates) / temperature

    classes = jnp.arange(len(prototypes))
    is_own_prototype = labels[:, None] == classes
    positive, negative = _pairs(labels, axis_name)
    positive = jnp.concatenate([positive, is_own_prototype], axis=1)
    negative = jnp.concatenate([negative, ~is_own_prototype], axis=1)
    # The class of each candidate has this many candidates; the anchor is none of its own ones.
    candidate_classes = jnp.concatenate([_gather(labels, axis_name), classes])
    sizes = jnp.sum(candidate_classes[:, None] == candidate_classes, axis=0) - positive
    log_denominators = jax.nn.logsumexp(logits - jnp.log(sizes), axis=-1, where=positive | negative)
    mean_positive_logits = jnp.mean(logits, axis=-1, where=positive)
    # Every anchor counts, and every device has as many: the mean over devices of local means is
    # the mean over the global batch.
    return jnp.mean(log_denominators - mean_positive_logits)


def _batch_hard(distances, positive, negative, margin):
    """Losses `[A]`, and which of the anchors count."""
    farthest_positive = jnp.max(distances, axis=1, where=positive, initial=0)
    nearest_negative = jnp.min(distances, axis=1, where=negative, initial=jnp.inf)
    has_both = positive.any(axis=1) & negative.any(axis=1)
    return jax.nn.relu(farthest_positive - nearest_negative + margin), has_both


def _batch_all(distances, positive, negative, margin):
    """Losses `[A, B, B]`, and which of the triplets (anchor, positive, negative) count."""
    losses = jax.nn.relu(distances[:, :, None] - distances[:, None, :] + margin)
    return losses, positive[:, :, None] & negative[:, None, :] & (losses > 0)


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
    return vectors, labels


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
    """Inner products `[A, B]` between the rows `[A, P]` and `[B, P]`."""
    return jnp.matmul(anchors, candidates.T, precision='highest')


def _squared_distances(anchors: jax.Array, candidates: jax.Array) -> jax.Array:
    """Squared Euclidean distances `[A, B]` between the rows `[A, D]` and `[B, D]`."""
    # Differences, not |x|^2 + |y|^2 - 2xy: with features of norm 50 and D = 2048 that form is off
    # by up to 0.05 in float32 for small distances and for distance 0, where differences give 0.
    # One anchor at a time, and differences again in the backward pass: otherwise [A, B, D] floats
    # may be kept (XLA's CPU backend does: 512 MiB for A = B = 256), and on CPU this is faster too.
    return lax.map(
        jax.checkpoint(
            lambda anchor: jnp.sum(jnp.square(anchor - candidates), axis=-1), prevent_cse=False
        ),
        anchors,
    )


def _l2_normalize(vectors: jax.Array) -> jax.Array:
    """Rows scaled to length 1; zero rows stay zero."""
    squared_lengths = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
    return vectors / jnp.sqrt(jnp.where(squared_lengths > _ZERO_SQUARED_LENGTH, squared_lengths, 1))
