"""How parameters are drawn: torch's distributions, from a JAX key or a NumPy generator.

Every initializer is a function `(rng, shape, dtype=float32) -> array [*shape]`, Flax's signature.
`rng` may also be a `numpy.random.Generator`, which gives a NumPy array of the same distribution.
"""

import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

Initializer = Callable[..., jax.Array | np.ndarray]


def constant(value: float) -> Initializer:
    """Every entry is `value`."""

    def initializer(rng, shape: Sequence[int], dtype=jnp.float32):
        numpy = np if isinstance(rng, np.random.Generator) else jnp
        return numpy.full(shape, value, dtype)

    return initializer


def uniform(bound: float) -> Initializer:
    """Uniform on [-bound, bound]; torch's Linear has bound 1/sqrt(fan_in), kernel and bias."""

    def initializer(rng, shape: Sequence[int], dtype=jnp.float32):
        if isinstance(rng, np.random.Generator):
            return rng.uniform(-bound, bound, shape).astype(dtype)
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return initializer


def kaiming_normal(mode: str) -> Initializer:
    """Normal with variance 2 / fan (He et al. 2015) for kernels `[kh, kw, cin / groups, cout]`.

    `mode` is 'fan_in' (kh kw cin / groups) or 'fan_out' (kh kw cout, as torch counts it).
    """
    axis = {'fan_in': -2, 'fan_out': -1}[mode]

    def initializer(rng, shape: Sequence[int], dtype=jnp.float32):
        fan = math.prod(shape[:-2]) * shape[axis]
        deviation = math.sqrt(2 / fan)
        if isinstance(rng, np.random.Generator):
            return (deviation * rng.standard_normal(shape, np.float32)).astype(dtype)
        return deviation * jax.random.normal(rng, shape, dtype)

    return initializer
