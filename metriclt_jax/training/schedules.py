"""What changes over time: the learning rate, and the values handed to the step (section 3.1)."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax.errors import InputError
from metriclt_jax.losses import class_weights

T = TypeVar('T')


class Schedule(NamedTuple):
    """What an objective is told about the time: traced values, so a change compiles nothing.

    Attributes:
        class_weights: `[C]`, sum C.
        class_counts: `[C]` float32, training images of each class.
        alpha: share of the conventional branch, 1 to 0; only two branches ask for it.
    """

    class_weights: jax.Array
    class_counts: jax.Array
    alpha: jax.Array | float = 1.0


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


def cumulative_alpha(epoch: int, epochs: int) -> float:
    """The share of the conventional branch, 1 - ((e - 1) / E)^2 (Zhou et al. 2020, equation 5).

    Args:
        epoch: e, counted from 1.
        epochs: E, length of the training.

    >>> cumulative_alpha(1, 100), cumulative_alpha(51, 100)
    (1.0, 0.75)
    """
    return 1 - ((epoch - 1) / epochs) ** 2


def deferred(
    before: T, after: T, *, fraction: float, epochs: int, steps_per_epoch: int
) -> Callable[[int], T]:
    """Values that change once: `after` from the given fraction of the training on.

    With uniform weights before and effective-number weights after, this is deferred re-weighting
    (DRW, Cao et al. 2019). Of N = `epochs` x `steps_per_epoch` updates, the first that uses
    `after` has ceil(fraction N) updates before it: exactly 80 epochs, if the fraction is 0.8 and
    there are 100.

    Args:
        before: any value, e.g. weights `[C]` or a `Schedule`.
        after: another of the same kind.
        fraction: 0 (at once) to 1 (never).
        epochs: length of the training.
        steps_per_epoch: updates in an epoch.

    Returns:
        A function of the number of completed updates, on the host. It returns one of the two
        objects itself, so that a change is seen by `is`.

    Raises:
        InputError: the fraction is outside 0 to 1.

    >>> weights = deferred('uniform', 'balanced', fraction=0.8, epochs=5, steps_per_epoch=10)
    >>> weights(39), weights(40)
    ('uniform', 'balanced')
    """
    if not 0 <= fraction <= 1:
        raise InputError(f'the fraction before a deferred change is {fraction}; allowed: 0 to 1')
    # A product of floats could end just above a whole number, and ceil one step late.
    exact = Fraction(fraction).limit_denominator(10**6)
    start = math.ceil(exact * epochs * steps_per_epoch)
    return lambda step: after if step >= start else before
