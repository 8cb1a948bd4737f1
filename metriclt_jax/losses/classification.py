"""Classification losses: logits or cosines in, one loss for each example out.

The losses are not averaged; `weighted_mean` does that, with class weights or masks of padding.
Arguments have the same meaning everywhere. Other shapes raise ValueError, as do parameters out of
range unless they are JAX arrays:

- `logits` `[B, C]`; `cosines` `[B, C]` between features and class vectors, before any scale. The
  margin losses lower the cosine of the label in training; at evaluation the logits are
  scale * cosines.
- `labels`: integers in [0, C) `[B]`, or probabilities `[B, C]` (mixed or smoothed labels), with
  which the loss is its expectation sum_c p_c loss(c). Beyond cross-entropy this takes arrays of
  `[B, C, C]` floats. The loss is NaN for an integer outside [0, C) and for a row below 0 or with a
  sum that differs from 1 by more than 0.01.
- `class_counts` `[C]`: training images of each class, or anything proportional to them. A class
  without any counts as large as the smallest class that has some.
- `where` `[B]`: booleans, or None. Where False, loss and gradient are 0, whatever the scores and
  labels.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import as_labels, as_mask, at_least_float32, require, split


def cross_entropy(
    logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> jax.Array:
    """Softmax cross-entropy of each example, -sum_c p_c log softmax(logits)_c, `[B]`.

    >>> print(cross_entropy([[0.0, 100.0]], [0]))
    [100.]
    >>> print(cross_entropy([[0.0, 100.0]], [[0.75, 0.25]]))
    [75.]
    """
    logits, labels = _scores_and_labels(logits, labels, 'logits', where)
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    if labels.ndim == 2:
        losses = -_expectation(log_probabilities, labels)
    else:
        losses = -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    return _masked(losses, where)


def focal(
    logits: ArrayLike, labels: ArrayLike, gamma: float = 2.0, *, where: ArrayLike | None = None
) -> jax.Array:
    """Focal loss, -(1 - q)^gamma log q, q the softmax of the label (Lin et al. 2017, equation 4).

    The softmax form, `[B]`, without the factor alpha: class weights go to `weighted_mean`. gamma, a
    Python number of at least 0, is static under `jit`: 0 is cross-entropy, and more counts easy
    examples less. C must be at least 2.

    >>> f'{focal([[0.0, 0.0, 0.0]], [1])[0]:.4f}'  # (2 / 3)^2 log(3)
    '0.4883'
    """
    require('gamma', gamma, 'at least 0', lambda g: g >= 0)
    logits, labels = _scores_and_labels(logits, labels, 'logits', where)
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

    return _masked(_mean_over_labels(loss, labels), where)


def logit_adjusted(
    logits: ArrayLike,
    labels: ArrayLike,
    class_counts: ArrayLike,
    tau: float = 1.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Cross-entropy of logits + tau log prior (Menon et al. 2021, equation 10), `[B]`.

    The priors are the class frequencies of the training images. At evaluation the logits are used
    as they are. tau = 1 is the balanced softmax of Ren et al. 2020; tau = 0 is cross-entropy.

    >>> f'{logit_adjusted([[0.0, 0.0]], [1], class_counts=[75, 25])[0]:.4f}'  # log(4)
    '1.3863'
    """
    return cross_entropy(adjust_logits(logits, class_counts, -tau), labels, where=where)


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
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Label-distribution-aware margin loss (Cao et al. 2019): larger margins for rarer classes.

    Cross-entropy of scale * (cosines - margin of the label, at the label only), `[B]`, with the
    margins of `ldam_margins`. For LDAM-DRW pass class weights to `weighted_mean`.

    >>> losses = ldam(jnp.zeros([2, 3]), [0, 2], class_counts=[5000, 500, 50])
    >>> [f'{loss:.4f}' for loss in losses]
    ['5.4409', '15.6931']
    """
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines', where)
    counts = _positive_counts(class_counts, num_classes=cosines.shape[1])
    targets = cosines - ldam_margins(counts, max_margin)
    return _masked(_margin_cross_entropy(cosines, targets, labels, scale), where)


def ldam_margins(class_counts: ArrayLike, max_margin: float = 0.5) -> jax.Array:
    """Margins `[C]` proportional to n^(-1/4) for classes of n images (Cao et al. 2019).

    The rarest class has `max_margin`.

    >>> [f'{margin:.3f}' for margin in ldam_margins([5000, 500, 50])]
    ['0.158', '0.281', '0.500']
    """
    require('max_margin', max_margin, 'at least 0', lambda m: m >= 0)
    counts = _positive_counts(class_counts)
    return max_margin * (jnp.min(counts) / counts) ** 0.25


def cosface(
    cosines: ArrayLike,
    labels: ArrayLike,
    margin: float = 0.35,
    scale: float = 30.0,
    *,
    where: ArrayLike | None = None,
) -> jax.Array:
    """Large margin cosine loss (Wang et al. 2018, equation 4): one margin for all classes.

    Cross-entropy of scale * (cosines - margin, at the label only), `[B]`.

    >>> f'{cosface([[0.0, 0.0]], [1])[0]:.4f}'  # log(1 + exp(30 * 0.35))
    '10.5000'
    """
    require('margin', margin, 'at least 0', lambda m: m >= 0)
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines', where)
    return _masked(_margin_cross_entropy(cosines, cosines - margin, labels, scale), where)


def arcface(
    cosines: ArrayLike,
    labels: ArrayLike,
    margin: float = 0.5,
    scale: float = 30.0,
    *,
    where: ArrayLike | None = None,
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
    require('margin', margin, 'in [0, pi)', lambda m: (m >= 0) & (m < math.pi))
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines', where)
    squared_sines = (1 - cosines) * (1 + cosines)
    is_zero = squared_sines <= 0
    sines = jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, squared_sines)))
    cos_margin, sin_margin = math.cos(margin), math.sin(margin)
    targets = jnp.where(
        cosines >= -cos_margin,
        cos_margin * cosines - sin_margin * sines,
        cosines - (1 - cos_margin),
    )
    return _masked(_margin_cross_entropy(cosines, targets, labels, scale), where)


def _margin_cross_entropy(cosines, targets, labels, scale: float) -> jax.Array:
    """Cross-entropy of scale * cosines, with those of `targets` `[B, C]` at the label."""
    require('scale', scale, 'above 0', lambda s: s > 0)

    def loss(labels):
        is_label = labels[:, None] == jnp.arange(cosines.shape[1])
        return cross_entropy(scale * jnp.where(is_label, targets, cosines), labels)

    return _mean_over_labels(loss, labels)


def _mean_over_labels(loss: Callable[[jax.Array], jax.Array], labels: jax.Array) -> jax.Array:
    """Losses `[B]` at integer labels, or their expectations over probabilities `[B, C]`."""
    if labels.ndim == 1:
        return loss(labels)
    # Where a class has probability 0 another one stands for it: its loss, which could be infinite,
    # would make NaN of the gradient, although it does not count.
    likeliest = jnp.argmax(labels, axis=-1)[:, None]
    classes = jnp.where(labels != 0, jnp.arange(labels.shape[1]), likeliest)
    return _expectation(jax.vmap(loss, in_axes=1, out_axes=1)(classes), labels)


def _expectation(values: jax.Array, probabilities: jax.Array) -> jax.Array:
    """sum_c p_c values_c `[B]`; what has probability 0 does not count, even if it is infinite."""
    return jnp.sum(probabilities * values, axis=-1, where=probabilities != 0)


def _scores_and_labels(scores, labels, name: str, where) -> tuple[jax.Array, jax.Array]:
    """Floats `[B, C]`, and integers `[B]` or floats `[B, C]`; the errors call the scores `name`."""
    scores, labels = at_least_float32(scores), as_labels(labels)
    if scores.ndim != 2:
        raise ValueError(f'{name} must be [B, C], got shape {scores.shape}.')
    batch_size, num_classes = scores.shape
    is_integer = jnp.issubdtype(labels.dtype, jnp.integer)
    if labels.shape != scores.shape and not (labels.shape == (batch_size,) and is_integer):
        raise ValueError(
            f'labels must be integers [B] or probabilities [B, C] for {name} of shape '
            f'{scores.shape}, got {labels.dtype} of shape {labels.shape}.'
        )
    axis = jax.typeof(scores).sharding.spec[0]  # of an explicit mesh; the classes stay together
    scores, labels = split(scores, scores, axis), split(labels, scores, axis)
    if labels.ndim == 1:
        labels = jnp.where(labels < 0, num_classes, labels)  # -1 is not the last class
    else:
        labels = at_least_float32(labels)
        is_one = jnp.abs(jnp.sum(labels, axis=-1, keepdims=True) - 1) <= 0.01
        is_right = is_one & jnp.all(labels >= 0, axis=-1, keepdims=True)
        labels = jnp.where(is_right, labels, jnp.nan)
    if where is not None:
        mask = split(as_mask(where, batch_size), scores, axis)
        scores = jnp.where(mask[:, None], scores, 0)
        labels = jnp.where(mask if labels.ndim == 1 else mask[:, None], labels, 0)
    return scores, labels


def _masked(losses: jax.Array, where: ArrayLike | None) -> jax.Array:
    if where is None:
        return losses
    axis = jax.typeof(losses).sharding.spec[0]
    return jnp.where(split(jnp.asarray(where), losses, axis), losses, 0)


def _positive_counts(class_counts: ArrayLike, num_classes: int | None = None) -> jax.Array:
    """Counts `[C]`, with the smallest count above 0 in place of 0 (1 where all are 0)."""
    require('class_counts', class_counts, 'at least 0', lambda n: n >= 0)
    counts = at_least_float32(class_counts)
    if counts.ndim != 1 or num_classes not in (None, counts.size):
        expected = '[C]' if num_classes is None else f'[C] = [{num_classes}]'
        raise ValueError(f'class_counts must be {expected}, got shape {counts.shape}.')
    counts = jnp.where(counts >= 0, counts, jnp.nan)
    present = counts != 0
    smallest = jnp.min(counts, where=present, initial=jnp.inf)
    return jnp.where(present, counts, jnp.where(present.any(), smallest, 1))
