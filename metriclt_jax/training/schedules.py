"""What changes over time: the learning rate, and the values handed to the step (section 3.1)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax.losses import class_weights


class Schedule(NamedTuple):
    """What an objective is told about the time: traced values, so a change compiles nothing.

    Attributes:
        class_weights: `[C]`, sum C.
    """

    class_weights: jax.Array


def warmup_cosine(
    *,
    peak: float,
    final: float,
    epochs: int,
    warmup_epochs: int,
    steps_per_epoch: int,
    per: str = 'step',
) -> Callable[[jax.Array], jax.Array]:
    """The learning rate as a function of the number of completed updates.

    With t = completed updates / steps per epoch: linear from 0 to `peak` at t = `warmup_epochs`,
    then half a cosine down to `final` at t = `epochs`.

    Args:
        per: 'step', or 'epoch' for a rate that is constant within an epoch; the warm-up then takes
            the rate at the epoch's end, since the one at its begin would be 0 at first.
    """

    def learning_rate(count: jax.Array) -> jax.Array:
        epoch = jnp.asarray(count, jnp.float32) / steps_per_epoch
        reached = epoch
        if per == 'epoch':
            epoch = jnp.floor(epoch)
            reached = epoch + 1
        warmup = peak * reached / max(warmup_epochs, 1)
        progress = jnp.clip((epoch - warmup_epochs) / (epochs - warmup_epochs), 0.0, 1.0)
        cosine = final + (peak - final) * 0.5 * (1 + jnp.cos(math.pi * progress))
        return jnp.where(epoch < warmup_epochs, warmup, cosine)

    return learning_rate


def make_class_weights(kind: str, counts: np.ndarray, beta: float) -> np.ndarray:
    """The weights `[C]` float32 of a kind: 'uniform', 'inverse_frequency', 'effective_number'."""
    weights = {
        'uniform': lambda: jnp.ones(len(counts)),
        'inverse_frequency': lambda: class_weights.inverse_frequency(counts),
        'effective_number': lambda: class_weights.effective_number(counts, beta),
    }
    return np.asarray(weights[kind](), np.float32)
