"""What changes during a stage beside the learning rate: class weights and branch weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
