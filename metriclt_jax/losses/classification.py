"""Classification losses: logits or cosines in, one loss for each example out.

They are not averaged here, because the mean is the caller's choice: `weighted_mean` takes class
weights and the masks of padded examples.

`labels` are integers `[B]` or probabilities `[B, C]` (mixed or smoothed labels), in every loss with
the same meaning: with probabilities the loss is its mean over a label drawn from them,
sum_c p_c loss(c). So a mixed example has the mixture of the two losses, and probabilities that are
one-hot equal integers. Beyond cross-entropy, which is linear in the labels anyhow, this takes
arrays of `[B, C, C]` floats.

`ldam`, `arcface` and `cosface` take cosines between features and class vectors, before any scale.
They worsen the cosine of the label by a margin in training only: at evaluation the logits are
scale * cosines.

`class_counts` are numbers of training images of each class, or anything proportional to them. A
class without any counts as large as the smallest class that has some, and so leaves the others
unchanged.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import at_least_float32


def cross_entropy(logits: ArrayLike, labels: ArrayLike) -> jax.Array:
    """Softmax cross-entropy of each example, -sum_c p_c log softmax(logits)_c.

    Args:
        logits: `[B, C]`.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]` (mixed or smoothed labels).

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: `logits` are not `[B, C]`, or `labels` fit neither form.

    >>> print(cross_entropy([[0.0, 100.0]], [0]))
    [100.]
    >>> print(cross_entropy([[0.0, 100.0]], [[0.75, 0.25]]))
    [75.]
    """
    logits, labels = _scores_and_labels(logits, labels, 'logits')
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    if labels.ndim == 2:
        return -jnp.sum(labels * log_probabilities, axis=-1)
    return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]


def focal(logits: ArrayLike, labels: ArrayLike, gamma: float = 2.0) -> jax.Array:
    """Focal loss, -(1 - q)^gamma log q, q the softmax of the label (Lin et al. 2017, equation 4).

    This is the softmax form, without their factor alpha: class weights are the caller's, outside of
    q (`weighted_mean`). gamma = 0 is cross-entropy; a larger gamma counts easy examples less.

    Args:
        logits: `[B, C]`, C at least 2.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]`.
        gamma: a Python number from 0, static under `jit`.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: `gamma` is below 0, `logits` are not `[B, C]` with C > 1, or `labels` fit
            neither form.

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
        # q rounds to 1, so that no power has a pole there, for gamma below 1 and its derivatives
        # included.
        is_other = labels[:, None] != jnp.arange(num_classes)
        log_rest = jax.nn.logsumexp(log_probabilities, axis=-1, where=is_other)
        return jnp.exp(gamma * log_rest) * cross_entropy(logits, labels)

    return _mean_over_labels(loss, labels)


def logit_adjusted(
    logits: ArrayLike, labels: ArrayLike, class_counts: ArrayLike, tau: float = 1.0
) -> jax.Array:
    """Cross-entropy of logits + tau log prior (Menon et al. 2021, equation 10).

    The priors are the shares of the classes in the training images. The logits learn what is left
    beside them, and are used without any adjustment at evaluation. tau = 1 is the balanced softmax
    of Ren et al. 2020, which multiplies the exponentials by the counts; tau = 0 is cross-entropy.

    Args:
        logits: `[B, C]`.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]`.
        class_counts: training images of each class, `[C]`.
        tau: strength of the adjustment.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: shapes other than those above.

    >>> f'{logit_adjusted([[0.0, 0.0]], [1], class_counts=[75, 25])[0]:.4f}'  # log(4)
    '1.3863'
    """
    return cross_entropy(adjust_logits(logits, class_counts, -tau), labels)


def adjust_logits(logits: ArrayLike, class_counts: ArrayLike, tau: float = 1.0) -> jax.Array:
    """Post hoc adjustment at evaluation, logits - tau log prior (Menon et al. 2021, equation 9).

    For logits of plain cross-entropy; those of `logit_adjusted` need none.

    Args:
        logits: `[B, C]`.
        class_counts: training images of each class, `[C]`.
        tau: strength of the adjustment.

    Returns:
        Adjusted logits `[B, C]`.

    Raises:
        ValueError: shapes other than those above.

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

    Cross-entropy of scale * (cosines - margin of the label, at the label only), with the margins of
    `ldam_margins`. Re-weighting (LDAM-DRW) is the caller's.

    Args:
        cosines: between features and class vectors, before the scale, `[B, C]`.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]`.
        class_counts: training images of each class, `[C]`.
        max_margin: margin of the rarest class.
        scale: factor of the cosines after the margin.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: shapes other than those above.

    >>> losses = ldam(jnp.zeros([2, 3]), [0, 2], class_counts=[5000, 500, 50])
    >>> [f'{loss:.4f}' for loss in losses]
    ['5.4409', '15.6931']
    """
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines')
    counts = _positive_counts(class_counts, num_classes=cosines.shape[1])
    return _margin_cross_entropy(cosines, cosines - ldam_margins(counts, max_margin), labels, scale)


def ldam_margins(class_counts: ArrayLike, max_margin: float = 0.5) -> jax.Array:
    """Margins proportional to n^(-1/4) for classes with n training images (Cao et al. 2019).

    Args:
        class_counts: training images of each class, `[C]`.
        max_margin: the largest margin, that of the rarest class.

    Returns:
        Margins `[C]`.

    Raises:
        ValueError: `class_counts` are not `[C]`.

    >>> [f'{margin:.3f}' for margin in ldam_margins([5000, 500, 50])]
    ['0.158', '0.281', '0.500']
    """
    counts = _positive_counts(class_counts)
    return max_margin * (jnp.min(counts) / counts) ** 0.25


def cosface(
    cosines: ArrayLike, labels: ArrayLike, margin: float = 0.35, scale: float = 30.0
) -> jax.Array:
    """Large margin cosine loss (Wang et al. 2018, equation 4): one margin for all classes.

    Cross-entropy of scale * (cosines - margin, at the label only).

    Args:
        cosines: between features and class vectors, before the scale, `[B, C]`.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]`.
        margin: subtracted from the cosine of the label.
        scale: factor of the cosines after the margin.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: shapes other than those above.

    >>> f'{cosface([[0.0, 0.0]], [1])[0]:.4f}'  # log(1 + exp(30 * 0.35))
    '10.5000'
    """
    cosines, labels = _scores_and_labels(cosines, labels, 'cosines')
    return _margin_cross_entropy(cosines, cosines - margin, labels, scale)


def arcface(
    cosines: ArrayLike, labels: ArrayLike, margin: float = 0.5, scale: float = 30.0
) -> jax.Array:
    """Additive angular margin loss (Deng et al. 2019, equation 3): a margin on the angle.

    Cross-entropy of scale * cosines, where the cosine of the label, cos(t), becomes
    cos(t + margin). Beyond t = pi - margin that would rise again and pull the wrong way; there it
    goes on as cos(t) - (1 - cos(margin)), which joins it without a jump.

    The derivative by the cosine grows without bound towards +-1, while the one by the angle does
    not. At +-1 and beyond (rounding) it counts as cos(margin), so that all stays finite.

    Args:
        cosines: between features and class vectors, before the scale, `[B, C]`.
        labels: integers in [0, C) `[B]`, or probabilities `[B, C]`.
        margin: in radians, a Python number in [0, pi), static under `jit`.
        scale: factor of the cosines after the margin.

    Returns:
        Losses `[B]`.

    Raises:
        ValueError: `margin` is outside [0, pi), or shapes other than those above.

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
    """Losses `[B]` at integer labels, or their means over probabilities `[B, C]`."""
    if labels.ndim == 1:
        return loss(labels)
    batch_size, num_classes = labels.shape
    losses = jax.vmap(lambda label: loss(jnp.full(batch_size, label)), out_axes=1)(
        jnp.arange(num_classes)
    )
    return jnp.sum(labels * losses, axis=-1)


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
        return scores, labels
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
