"""Metric losses of stage 1 (section 2.2 of the paper): compact classes, far from each other.

`center` and `triplet` take Euclidean distances between raw features, the contrastive losses cosine
similarities between L2-normalised embeddings of a projection head.

All but `center` compare examples with each other. Their arguments have the same meaning:

- `axis_name` (inside `pmap` or `shard_map`): the candidates of a device's examples come from all
  devices, which must hold equally many, and the value is that of the global batch (see
  `weighted_mean` for its gradient).
- `reduction`: 'mean' gives a scalar; 'none' gives the losses of the anchors `[B]`, 0 for those that
  the mean leaves out.

In all of them `where` `[B]`, booleans or None, says which examples exist: one where it is False is
neither anchor nor candidate, and its loss and gradient are 0, whatever its vector and label. The
loss is NaN where the label of an example is not a class (below 0; from C on, where C is known) or
its vector is not finite.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import (
    as_labels,
    as_mask,
    at_least_float32,
    require,
    split,
    weighted_mean,
)

# Vectors whose squared length is not above this count as zero, with zero gradient. It is small
# enough to matter for exact zeros only, and keeps the first two derivatives of the root (which has
# none at 0) in the range of float32.
_ZERO_SQUARED_LENGTH = 1e-24
# What stands for the label of an example that is not a class, or that `where` leaves out.
_WRONG, _MASKED = -1, -2


def center(
    features: ArrayLike, labels: ArrayLike, centers: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Center loss of each example, |feature - center of its class|^2 / 2 (Wen et al. 2016, eq. 2).

    Losses `[B]` from features `[B, D]`, integer labels `[B]` and centers `[C, D]`.

    >>> print(center([[3.0, 4.0]], [0], [[0.0, 0.0]]))
    [12.5]
    """
    centers = _class_vectors(centers, 'centers')
    features, labels = _vectors_and_labels(features, labels, where, centers)
    rows = jnp.where(labels < 0, len(centers), labels)  # -1 is not the last class
    losses = jnp.sum(jnp.square(features - jnp.take(centers, rows, axis=0)), axis=-1) / 2
    return losses if where is None else jnp.where(labels == _MASKED, 0, losses)


def triplet(
    features: ArrayLike,
    labels: ArrayLike,
    margin: float,
    mining: str = 'batch_hard',
    squared: bool = False,
    axis_name: str | tuple[str, ...] | None = None,
    *,
    where: ArrayLike | None = None,
    reduction: str = 'mean',
) -> jax.Array:
    """Triplet loss: mean of max(0, d(anchor, positive) - d(anchor, negative) + margin).

    Positives are other examples of the anchor's class; d is the Euclidean distance (Hoffer and
    Ailon 2015; minings by Hermans et al. 2017, section 2).

    - 'batch_hard': the farthest positive and the nearest negative of each anchor; mean over the
      anchors that have both, zero losses included.
    - 'batch_all': every triplet; mean over those with a loss above 0. Needs a few arrays of
      `[B, B, B]` floats (`[B / devices, B, B]` with `axis_name`).

    Takes raw features `[B, D]` (L2-normalised ones are at most 2 apart) and integer labels `[B]`.
    `margin` is in units of d, 50 in the paper; with `squared`, d is the squared distance. Returns a
    scalar, 0 where there is nothing to average, or `[B]` with `reduction='none'`: an anchor's loss
    is then, with 'batch_all', the mean over its triplets with a loss above 0.

    >>> features = jnp.array([[0.0], [1.0], [3.0], [7.0]])
    >>> print(triplet(features, [0, 0, 1, 1], margin=5.0))
    4.25
    """
    if mining not in _MININGS:
        raise ValueError(f'mining must be one of {sorted(_MININGS)}, got {mining!r}.')
    require('margin', margin, 'at least 0', lambda m: m >= 0)
    features, labels = _vectors_and_labels(features, labels, where)
    distances = _squared_distances(features, _gather(features, axis_name))
    if not squared:
        is_zero = distances <= _ZERO_SQUARED_LENGTH
        distances = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, distances)))
    positive, negative = _pairs(labels, axis_name)
    losses, counted = _MININGS[mining](distances, positive, negative, margin)
    return _reduced(losses, counted, reduction, axis_name)


def supervised_contrastive(
    embeddings: ArrayLike,
    labels: ArrayLike,
    temperature: float = 0.05,
    axis_name: str | tuple[str, ...] | None = None,
    *,
    where: ArrayLike | None = None,
    reduction: str = 'mean',
) -> jax.Array:
    """Supervised contrastive loss (Khosla et al. 2020, equation 2: the sum outside the logarithm).

    For an anchor i with positives P(i), the other examples of its class, the loss is the mean over
    p in P(i) of -log(exp(z_i z_p / T) / sum over a != i of exp(z_i z_a / T)). Anchors without a
    positive are left out of the mean over anchors. There is no factor T / base temperature.

    Takes embeddings `[B, P]`, which it normalises, and integer labels `[B]`; returns a scalar, 0
    where no anchor has a positive, or `[B]` with `reduction='none'`.

    >>> f'{supervised_contrastive(jnp.ones([4, 2]), [0, 0, 1, 1]):.4f}'  # log(3)
    '1.0986'
    """
    require('temperature', temperature, 'above 0', lambda t: t > 0)
    embeddings, labels = _vectors_and_labels(embeddings, labels, where)
    embeddings = _l2_normalize(embeddings)
    logits = _similarities(embeddings, _gather(embeddings, axis_name)) / temperature
    positive, negative = _pairs(labels, axis_name)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1, where=positive | negative)
    positives = jnp.sum(positive, axis=-1)
    losses = -jnp.sum(log_probabilities, axis=-1, where=positive) / jnp.maximum(positives, 1)
    return _reduced(losses, positives > 0, reduction, axis_name)


def balanced_contrastive(
    embeddings: ArrayLike,
    labels: ArrayLike,
    prototypes: ArrayLike,
    temperature: float = 0.1,
    axis_name: str | tuple[str, ...] | None = None,
    *,
    where: ArrayLike | None = None,
    reduction: str = 'mean',
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
    require('temperature', temperature, 'above 0', lambda t: t > 0)
    prototypes = _class_vectors(prototypes, 'prototypes')
    embeddings, labels = _vectors_and_labels(embeddings, labels, where, prototypes)
    embeddings, prototypes = _l2_normalize(embeddings), _l2_normalize(prototypes)
    candidates = jnp.concatenate([_gather(embeddings, axis_name), prototypes])
    logits = _similarities(embeddings, candidates) / temperature

    classes = jnp.arange(len(prototypes))
    # Any prototype will do for an anchor that does not count: nothing of it may be NaN.
    is_own_prototype = jnp.where(labels == _MASKED, 0, labels)[:, None] == classes
    positive, negative = _pairs(labels, axis_name)
    positive = jnp.concatenate([positive, is_own_prototype], axis=1)
    negative = jnp.concatenate([negative, ~is_own_prototype], axis=1)
    # How many candidates share the class of a candidate, without the anchor itself.
    candidate_classes = jnp.concatenate([_gather(labels, axis_name), classes])
    sizes = jnp.sum(candidate_classes[:, None] == candidate_classes, axis=0) - positive
    log_denominators = jax.nn.logsumexp(logits - jnp.log(sizes), axis=-1, where=positive | negative)
    losses = log_denominators - jnp.mean(logits, axis=-1, where=positive)
    return _reduced(losses, labels != _MASKED, reduction, axis_name)


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


def _reduced(losses, counted, reduction: str, axis_name) -> jax.Array:
    """The mean of the losses `[A, ...]` that count, over all devices or for each anchor."""
    if reduction == 'mean':
        return weighted_mean(losses, counted, axis_name)
    if reduction != 'none':
        raise ValueError(f"reduction must be 'mean' or 'none', got {reduction!r}.")
    of_anchor = tuple(range(1, losses.ndim))
    totals = jnp.sum(losses, of_anchor, where=counted)
    return totals / jnp.maximum(jnp.sum(counted, of_anchor), 1)


def _vectors_and_labels(vectors, labels, where, class_vectors=None) -> tuple[jax.Array, jax.Array]:
    """Floats `[B, D]`, NaN where something is wrong, and int32 `[B]`; masked vectors are zero."""
    vectors, labels = at_least_float32(vectors), as_labels(labels)
    if vectors.ndim != 2 or labels.shape != vectors.shape[:1]:
        raise ValueError(
            'features or embeddings must be [B, D] and labels [B], '
            f'got shapes {vectors.shape} and {labels.shape}.'
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f'labels must be integers, got {labels.dtype}.')
    # If they are split over an explicit mesh: all pairs need all.
    vectors, labels = split(vectors, vectors), split(labels, labels)
    if class_vectors is not None:
        if class_vectors.shape[1] != vectors.shape[1]:
            raise ValueError(
                'centers or prototypes must be [C, D] beside vectors of shape '
                f'{vectors.shape}, got {class_vectors.shape}.'
            )
        labels = jnp.where(labels < len(class_vectors), labels, _WRONG)
    is_right = jnp.isfinite(vectors) & (labels != _WRONG)[:, None]
    vectors = jnp.where(is_right, vectors, jnp.nan)
    if where is not None:
        mask = as_mask(where, len(vectors))
        mask = split(mask, mask)
        vectors = jnp.where(mask[:, None], vectors, 0)
        labels = jnp.where(mask, labels, _MASKED)
    return vectors, labels


def _class_vectors(vectors: ArrayLike, name: str) -> jax.Array:
    vectors = at_least_float32(vectors)
    if vectors.ndim != 2:
        raise ValueError(f'{name} must be [C, D], got shape {vectors.shape}.')
    return split(vectors, vectors)


def _gather(array: jax.Array, axis_name) -> jax.Array:
    """Rows of all devices, in the order of the devices."""
    return array if axis_name is None else lax.all_gather(array, axis_name, tiled=True)


def _pairs(labels: jax.Array, axis_name) -> tuple[jax.Array, jax.Array]:
    """Which pairs (own example, candidate) are positive and which negative: two masks `[A, B]`.

    A pair of an example with itself is neither. An anchor with a wrong label has every candidate on
    both sides, so that its NaN counts.
    """
    candidate_labels = _gather(labels, axis_name)
    first = 0 if axis_name is None else lax.axis_index(axis_name) * labels.size
    is_self = first + jnp.arange(labels.size)[:, None] == jnp.arange(candidate_labels.size)
    is_same_class = labels[:, None] == candidate_labels
    exist = (labels != _MASKED)[:, None] & (candidate_labels != _MASKED)
    is_wrong = (labels == _WRONG)[:, None]
    return exist & (is_same_class & ~is_self | is_wrong), exist & (~is_same_class | is_wrong)


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
