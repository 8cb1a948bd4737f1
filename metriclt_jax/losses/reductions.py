"""Means over the global batch, which may be spread over devices."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike


def at_least_float32(array: ArrayLike) -> jax.Array:
    """Casts integers, booleans and low-precision floats to float32; float64 stays float64."""
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def weighted_mean(values: ArrayLike, weights: ArrayLike, axis_name: str | None = None) -> jax.Array:
    """Returns sum(weights * values) / sum(weights), and 0 where the weights sum to 0.

    The weights (class weights, or masks of examples or pairs) have the shape of the values. No
    gradient flows through them. With `axis_name`, both sums run over all devices; the mean of the
    devices' gradients (`lax.pmean`) is then that of the global batch, in `pmap` and `shard_map`.

    >>> print(weighted_mean([1.0, 2.0, 6.0], [1.0, 1.0, 0.0]))
    1.5
    """
    values = at_least_float32(values)
    weights = lax.stop_gradient(at_least_float32(weights))
    if values.shape != weights.shape:
        raise ValueError(
            f'values and weights must have one shape, got {values.shape} and {weights.shape}.'
        )
    sums = jnp.sum(weights * values), jnp.sum(weights)
    weighted_sum, total_weight = sums if axis_name is None else lax.psum(sums, axis_name)
    is_empty = total_weight == 0
    return jnp.where(is_empty, 0, weighted_sum / jnp.where(is_empty, 1, total_weight))
