"""Pooling, NHWC."""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax

from metriclt_jax.models.convolution import window_taps


def average_pool(x: jax.Array, window: int) -> jax.Array:
    """Mean over windows side by side, torch's AvgPool2d: `[B, H, W, C]` to `[B, H', W', C]`.

    `H' = H // window`; rows and columns that fill no window are left out.
    """
    batch, height, width, channels = x.shape
    height, width = height // window, width // window
    x = x[:, : height * window, : width * window]
    return x.reshape(batch, height, window, width, window, channels).mean(axis=(2, 4))


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over windows, torch's MaxPool2d: `[B, H, W, C]` to `[B, H', W', C]`.

    The first of equal values takes the gradient, as in torch's pooling and in XLA's. XLA scatters
    it from selected positions, which is ten times slower on CPU than the shifted sums here.
    """
    return _max_along(_max_along(x, 2, window, stride, padding), 1, window, stride, padding)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x, axis, window, stride, padding):
    return reduce(jnp.maximum, window_taps(x, axis, window, stride, padding, -jnp.inf))


def _forward(x, axis, window, stride, padding):
    maximum = _max_along(x, axis, window, stride, padding)
    return maximum, (x, maximum)


def _backward(axis, window, stride, padding, saved, gradient):
    x, maximum = saved
    zero = jnp.zeros((), gradient.dtype)
    taken = jnp.zeros(maximum.shape, bool)
    total = jnp.zeros_like(x)
    for tap, seen in enumerate(window_taps(x, axis, window, stride, padding, -jnp.inf)):
        first = (seen == maximum) & ~taken
        taken |= first
        # Back to where the tap saw it: position p of the output is p * stride + low of the input.
        low = tap - padding
        high = x.shape[axis] - low - (maximum.shape[axis] - 1) * stride - 1
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (low, high, stride - 1)
        total += lax.pad(jnp.where(first, gradient, zero), zero, widths)
    return (total,)


_max_along.defvjp(_forward, _backward)
