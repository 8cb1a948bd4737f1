"""What changes during a stage: learning rate, class weights and branch weights (section 3.1)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from metriclt_jax.losses import class_weights


class LossInputs(NamedTuple):
    """What an objective needs beside outputs and batch; traced, so a change compiles nothing."""

    class_weights: jax.Array  # [C], sum C
    class_counts: jax.Array  # training images of each class [C], float32
    alpha: jax.Array | float = 1.0  # weight of BBN's conventional branch, from 1 to 0

    @property
    def branch_weights(self) -> jax.Array:
        """Weights of the conventional and the re-balancing branch `[2]`, sum 1."""
        return jnp.stack([self.alpha, 1.0 - self.alpha])


def warmup_cosine(
    *,
    peak: float,
    final: float,
    epochs: int,
    warmup_epochs: int,
    steps_per_epoch: int,
    per: str = 'step',
) -> optax.Schedule:
    """The learning rate by completed updates: linear to `peak`, then half a cosine to `final`.

    With `per` 'epoch' it is constant within an epoch; the warm-up then uses the rate at the end of
    the epoch, because the rate at the start of the first one is 0.
    """
    length = steps_per_epoch if per == 'step' else 1
    rate = optax.warmup_cosine_decay_schedule(
        init_value=0.0,
        peak_value=peak,
        warmup_steps=warmup_epochs * length,
        decay_steps=max(epochs, warmup_epochs + 1) * length,  # a computed head has no epochs
        end_value=final,
    )
    if per == 'step':
        return rate

    def per_epoch(count: jax.Array) -> jax.Array:
        epoch = count // steps_per_epoch
        return rate(jnp.where(epoch < warmup_epochs, epoch + 1, epoch))

    return per_epoch


def make_class_weights(kind: str, counts: np.ndarray, beta: float) -> np.ndarray:
    """Class weights `[C]`: 'uniform', 'inverse_frequency' or 'effective_number' (with `beta`)."""
    if kind == 'uniform':
        weights = jnp.ones(len(counts))
    elif kind == 'inverse_frequency':
        weights = class_weights.inverse_frequency(counts)
    else:
        weights = class_weights.effective_number(counts, beta)
    return np.asarray(weights, np.float32)


def cumulative_alpha(epoch: int, epochs: int) -> float:
    """BBN's weight of the conventional branch in `epoch` 1 to `epochs` (Zhou et al. 2020, eq. 5).

    >>> cumulative_alpha(1, 100), cumulative_alpha(51, 100)
    (1.0, 0.75)
    """
    return 1 - ((epoch - 1) / epochs) ** 2
