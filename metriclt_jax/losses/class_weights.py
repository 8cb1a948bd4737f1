"""Class weights `[C]` from the numbers of training images `[C]`, normalised to sum to C.

With this sum a weighted loss has the scale of the plain one. A class without training images gets
weight 0 and changes the others by the common factor only; without any image all weights are 0.
Counts below 0 or NaN raise ValueError, or give NaN where they are JAX arrays.
"""

import math
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from metriclt_jax.losses.reductions import at_least_float32, require


def inverse_frequency(counts: ArrayLike) -> jax.Array:
    """Weights proportional to 1 / n for a class of n training images (RW, cRW).

    >>> print(inverse_frequency([100, 100, 50]))
    [0.75 0.75 1.5 ]
    """
    return _normalized_weights(counts, lambda n: 1 / n)


def effective_number(counts: ArrayLike, beta: float) -> jax.Array:
    """Weights proportional to (1 - beta) / (1 - beta^n) (Cui et al. 2019, equation 2).

    `beta` is a Python number in [0, 1), static under `jit`: 0 does not re-weight, and beta -> 1 is
    the inverse frequency.

    >>> [f'{weight:.4f}' for weight in effective_number([5000, 500, 50], beta=0.9999)]
    ['0.0341', '0.2752', '2.6907']
    """
    require(
        'beta', beta, 'in [0, 1); its limit 1 is inverse_frequency', lambda b: (b >= 0) & (b < 1)
    )
    # In float32, 0.9999 would spoil 1 - beta in the fourth digit, and 1 - beta^n would cancel for
    # small n. Hence the logarithm in Python's precision and expm1; the smallest float stands for
    # beta = 0, whose powers vanish all the same. The factor 1 - beta falls to the normalisation.
    log_beta = math.log(max(beta, sys.float_info.min))
    return _normalized_weights(counts, lambda n: -1 / jnp.expm1(n * log_beta))


def _normalized_weights(counts: ArrayLike, weight: Callable[[jax.Array], jax.Array]) -> jax.Array:
    require('counts', counts, 'at least 0', lambda n: n >= 0)
    counts = at_least_float32(counts)
    if counts.ndim != 1:
        raise ValueError(f'counts must be [C], got shape {counts.shape}.')
    counts = jnp.where(counts >= 0, counts, jnp.nan)
    present = counts != 0
    weights = jnp.where(present, weight(jnp.where(present, counts, 1)), 0)
    total = jnp.sum(weights)
    return weights * (counts.size / jnp.where(total == 0, 1, total))
