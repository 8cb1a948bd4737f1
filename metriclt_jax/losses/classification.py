"""Classification losses: logits or cosines in, one loss for each example out.

The losses are not averaged; `weighted_mean` does that, with class weights or masks of padding.
Arguments have the same meaning everywhere, and other shapes raise ValueError:

- `logits` `[B, C]`; `cosines` `[B, C]` between features and class vectors, before any scale. The
  margin losses lower the cosine of the label in training; at evaluation the logits are
  scale * cosines.
- `labels`: integers in [0, C) `[B]`, or probabilities `[B, C]` (mixed or smoothed labels), with
  which the loss is its expectation sum_c p_c loss(c). Beyond cross-entropy this takes arrays of
  `[B, C, C]` floats. The loss of an integer outside [0, C) is NaN.
- `class_counts` `[C]`: training images of each class, or anything proportional to them. A class
  without any counts as large as the smallest class that has some.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import at_least_float32


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Softmax cross-entropy of each example, -sum_c p_c log softmax(logits)_c, `[B]`.

    >>> print(cross_entropy([[0.0, 100.0]], [0]))
    [100.]
    >>> print(cross_entropy([[0.0, 100.0]], [[0.75, 0.25]]))
    [75.]
    """
    logits, labels = _scores_and_labels(logits, labels, 'logits')
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    if labels.ndim == 2:
        return -_expectation(log_probabilities, labels)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


def focal(logits: ArrayLike, labels: ArrayLike, gamma: float = 2.0) -> jax.Array:
    """Focal loss, -(1 - q)^gamma log q, q the softmax of the label (Lin et al. 2017, equation 4).

    The softmax form, `[B]`, without the factor alpha: class weights go to `weighted_mean`. gamma, a
    Python number of at least 0, is static under `jit`: 0 is cross-entropy, and more counts easy
    examples less. C must be at least 2.

    >>> f'{focal([[0.0, 0.0, 0.0]], [1])[0]:.4f}'  # (2 / 3)^2 log(3)
    '0.4883'
    """
    if not gamma >= 0:
        raise ValueError(f'gamma must be at least 0, got {gamma}.')
    logits, labels = _scores_and_labels(logits, labels, 'logits')
    num_classes = logits.shape[1]
    if num_classes < 2:
        raise ValueError(f'logits must be [B, C] with C > 1, got shape {logits.shape}.')
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)

    def loss(labels):
        # log(1 - q) from the other classes, not from q: it neither cancels nor reaches -inf where
        # q rounds to 1, so powers (and their derivatives for gamma < 1) have no pole there.
        is_other = labels[:, None] != jnp.arange(num_classes)
        log_rest = jax.nn.logsumexp(log_probabilities, axis=-1, where=is_other)
        return jnp.exp(gamma * log_rest) * cross_entropy(logits, labels)

    return _mean_over_labels(loss, labels)


def logit_adjusted(
    logits: ArrayLike, labels: ArrayLike, class_counts: ArrayLike, tau: float = 1.0
) -> jax.Array:
    """Cross-entropy of logits + tau log prior (Menon et al. 2021, equation 10), `[B]`.

    The priors are the class frequencies of the training images. At evaluation the logits are used
    as they are. tau = 1 is the balanced softmax of Ren et al. 2020; tau = 0 is cross-entropy.

    >>> f'{logit_adjusted([[0.0, 0.0]], [1], class_counts=[75, 25])[0]:.4f}'  # log(4)
    '1.3863'
    """
    return cross_entropy(adjust_logits(logits, class_counts, -tau), labels)


def adjust_logits(logits: ArrayLike, class_counts: ArrayLike, tau: float = 1.0) -> jax.Array:
    """Post hoc adjustment, logits - tau log prior (Menon et al. 2021, equation 9), `[B, C]`.

    For the evaluation of models trained with plain cross-entropy.

    >>> [f'{logit:.4f}' for logit in adjust_logits([[0.0, 0.0]], class_counts=[75, 25])[0]]
    ['0.2877', '1.3863']
    """
    logits = at_least_float32(logits)
    if logits.ndim != 2:
        raise ValueError(f'logits must be [B, C], got shape {logits.shape}.')
    counts = _positive_counts(class_counts, num_classes=logits.shape[1])
    return logits - tau * jnp.log(counts / jnp.sum(counts))


def ldam(
    cosines: ArrayLike,
    labels: ArrayLike,
    class_counts: ArrayLike,
    max_margin: float = 0.5,
    scale: float = 30.0,
) -> jax.Array:
    """Label-distribution-aware margin loss (Cao et al. 2019): larger margins for rarer classes.

    Cross-entropy of scale * (cosines - margin of the label, at the label only), `[B]`, with the
    margins of `ldam_margins`. For LDAM-DRW pass class weights to `weighted_mean`.

    >>> losses = ldam(jnp.zeros([2, 3]), [0, 2], class_counts=[5000, 500, 50])
    >>> [f'{loss:.4f}' for loss in losses]
    ['5.4409', '15.6931']
    """
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines')
    counts = _positive_counts(class_counts, num_classes=cosines.shape[1])
    return _margin_cross_entropy(cosines, cosines - ldam_margins(counts, max_margin), labels, scale)


def ldam_margins(class_counts: ArrayLike, max_margin: float = 0.5) -> jax.Array:
    """Margins `[C]` proportional to n^(-1/4) for classes of n images (Cao et al. 2019).

    The rarest class has `max_margin`.

    >>> [f'{margin:.3f}' for margin in ldam_margins([5000, 500, 50])]
    ['0.158', '0.281', '0.500']
    """
    counts = _positive_counts(class_counts)
    return max_margin * (jnp.min(counts) / counts) ** 0.25


def cosface(
    cosines: ArrayLike, labels: ArrayLike, margin: float = 0.35, scale: float = 30.0
) -> jax.Array:
    """Large margin cosine loss (Wang et al. 2018, equation 4): one margin for all classes.

    Cross-entropy of scale * (cosines - margin, at the label only), `[B]`.

    >>> f'{cosface([[0.0, 0.0]], [1])[0]:.4f}'  # log(1 + exp(30 * 0.35))
    '10.5000'
    """
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines')
    return _margin_cross_entropy(cosines, cosines - margin, labels, scale)


def arcface(
    cosines: ArrayLike, labels: ArrayLike, margin: float = 0.5, scale: float = 30.0
) -> jax.Array:
    """Additive angular margin loss (Deng et al. 2019, equation 3): a margin on the angle.

    Cross-entropy of scale * cosines, `[B]`, where the cosine of the label, cos(t), becomes
    cos(t + margin). Beyond t = pi - margin that would rise again, so it continues as
    cos(t) - (1 - cos(margin)), which joins it without a jump.

    The derivative with respect to the cosine is unbounded towards +-1. At +-1 and beyond (rounding)
    it counts as cos(margin), which keeps everything finite. The margin, in radians, is a Python
    number in [0, pi), static under `jit`.

    >>> f'{arcface([[0.0, 0.0]], [1])[0]:.4f}'  # log(1 + exp(30 * sin(0.5)))
    '14.3828'
    """
    if not 0 <= margin < math.pi:
        raise ValueError(f'margin must be in [0, pi), got {margin}.')
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines')
    squared_sines = (1 - cosines) * (1 + cosines)
    is_zero = squared_sines <= 0
    sines = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared_sines)))
    cos_margin, sin_margin = math.cos(margin), math.sin(margin)
    targets = jnp.where(
        cosines >= -cos_margin,
        cos_margin * cosines - sin_margin * sines,
        cosines - (1 - cos_margin),
    )
    return _margin_cross_entropy(cosines, targets, labels, scale)


def _margin_cross_entropy(
    cosines: jax.Array, targets: jax.Array, labels: jax.Array, scale: float
) -> jax.Array:
    """Cross-entropy of scale * cosines, with those of `targets` `[B, C]` at the label."""

    def loss(labels):
        is_label = labels[:, None] == jnp.arange(cosines.shape[1])
        return cross_entropy(scale * jnp.where(is_label, targets, cosines), labels)

    return _mean_over_labels(loss, labels)


def _mean_over_labels(loss: Callable[[jax.Array], jax.Array], labels: jax.Array) -> jax.Array:
    """Losses `[B]` at integer labels, or their expectations over probabilities `[B, C]`."""
    if labels.ndim == 1:
        return loss(labels)
    batch_size, num_classes = labels.shape
    at_class = jax.vmap(lambda label: loss(jnp.full(batch_size, label)), out_axes=1)
    return _expectation(at_class(jnp.arange(num_classes)), labels)


def _expectation(values: jax.Array, probabilities: jax.Array) -> jax.Array:
    """sum_c p_c values_c `[B]`; what has probability 0 does not count, even if it is infinite."""
    return jnp.sum(probabilities * values, axis=-1, where=probabilities != 0)


def _scores_and_labels(
    scores: ArrayLike, labels: ArrayLike, name: str
) -> tuple[jax.Array, jax.Array]:
    """Floats `[B, C]`, and integers `[B]` or floats `[B, C]`; the errors call the scores `name`."""
    scores, labels = at_least_float32(scores), jnp.asarray(labels)
    if scores.ndim != 2:
        raise ValueError(f'{name} must be [B, C], got shape {scores.shape}.')
    if labels.shape == scores.shape:
        return scores, at_least_float32(labels)
    if labels.shape == scores.shape[:1] and jnp.issubdtype(labels.dtype, jnp.integer):
        return scores, jnp.where(labels < 0, scores.shape[1], labels)  # -1 is not the last class
    raise ValueError(
        f'labels must be integers [B] or probabilities [B, C] for {name} of shape {scores.shape}, '
        f'got {labels.dtype} of shape {labels.shape}.'
    )


def _positive_counts(class_counts: ArrayLike, num_classes: int | None = None) -> jax.Array:
    """Counts `[C]`, with the smallest count above 0 in place of 0 (1 where all are 0)."""
    counts = at_least_float32(class_counts)
    if counts.ndim != 1 or num_classes not in (None, counts.size):
        expected = '[C]' if num_classes is None else f'[C] = [{num_classes}]'
        raise ValueError(f'class_counts must be {expected}, got shape {counts.shape}.')
    present = counts > 0
    smallest = jnp.min(counts, where=present, initial=jnp.inf)
    return jnp.where(present, counts, jnp.where(present.any(), smallest, 1))
