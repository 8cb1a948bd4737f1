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

    One function serves class weights, masks of padded examples and masks of active pairs.

    With `axis_name` (inside `pmap` or `shard_map`) the sums run over the examples of all devices.
    A device returns (number of devices) * (its own weighted sum) / (sum of all weights), so only
    the mean over devices of this value, and of its gradients, has a meaning: it is the mean over
    the global batch. A plain mean over devices of local weighted means is not, because devices
    differ in the sum of their weights.

    Args:
        values: any shape, usually `[B]`.
        weights: same shape as `values`, numbers or booleans. They are constants: no gradient flows
          through them.
        axis_name: mapped axis over which the batch is split, or None.

    Returns:
        A scalar.

    Raises:
        ValueError: `values` and `weights` differ in shape.

    >>> print(weighted_mean([1.0, 2.0, 6.0], [1.0, 1.0, 0.0]))
    1.5
    """
    values = at_least_float32(values)
    weights = lax.stop_gradient(at_least_float32(weights))
    if values.shape != weights.shape:
        raise ValueError(
            f'values and weights must have one shape, got {values.shape} and {weights.shape}.'
        )
    weighted_sum = jnp.sum(weights * values)
    total_weight = jnp.sum(weights)
    if axis_name is not None:
        weighted_sum = lax.axis_size(axis_name) * weighted_sum
        total_weight = lax.psum(total_weight, axis_name)
    is_empty = total_weight == 0
    return jnp.where(is_empty, 0, weighted_sum / jnp.where(is_empty, 1, total_weight))
