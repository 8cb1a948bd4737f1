"""Classification losses: logits in, one loss for each example out.

They are not averaged here, because the mean is the caller's choice: `weighted_mean` takes class
weights and the masks of padded examples.
"""

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
    logits, labels = at_least_float32(logits), jnp.asarray(labels)
    if logits.ndim != 2:
        raise ValueError(f'logits must be [B, C], got shape {logits.shape}.')
    log_probabilities = jax.nn.log_softmax(logits, axis=-1)
    if labels.shape == logits.shape:
        return -jnp.sum(at_least_float32(labels) * log_probabilities, axis=-1)
    if labels.shape == logits.shape[:1] and jnp.issubdtype(labels.dtype, jnp.integer):
        return -jnp.take_along_axis(log_probabilities, labels[:, None], axis=-1)[:, 0]
    raise ValueError(
        f'labels must be integers [B] or probabilities [B, C] for logits of shape {logits.shape}, '
        f'got {labels.dtype} of shape {labels.shape}.'
    )
