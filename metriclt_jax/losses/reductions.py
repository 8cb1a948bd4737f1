"""What all losses share: their arguments as arrays, and means over the global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec, reshard
from jax.typing import ArrayLike

_LARGEST = np.iinfo(np.int32).max


def at_least_float32(array: ArrayLike) -> jax.Array:
    """Casts integers, booleans and low-precision floats to float32; float64 stays float64."""
    if _is_known(array):
        array = np.asarray(array)
        if array.dtype.kind in 'iu':  # JAX would wrap those beyond int32
            array = array.astype(np.float32)
    array = jnp.asarray(array)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def as_labels(labels: ArrayLike) -> jax.Array:
    """Integers as int32, with -1 for those that int32 lacks or below 0; others as they are."""
    xp = np if _is_known(labels) else jnp
    labels = xp.asarray(labels)
    if jnp.issubdtype(labels.dtype, jnp.integer):
        is_wrong = labels < 0
        if labels.dtype.itemsize >= 4:
            is_wrong |= labels > _LARGEST
        labels = xp.where(is_wrong, -1, labels.astype(np.int32))
    return jnp.asarray(labels)


def as_mask(where: ArrayLike, batch_size: int) -> jax.Array:
    """Booleans `[B]`."""
    mask = jnp.asarray(where)
    if mask.dtype != bool or mask.shape != (batch_size,):
        raise ValueError(
            f'where must be booleans [B] = [{batch_size}], got {mask.dtype} of shape {mask.shape}; '
            'pass weights to weighted_mean.'
        )
    return mask


def require(name: str, value: Any, rule: str, holds: Callable[[np.ndarray], Any]) -> None:
    """Raises ValueError if `value` breaks the rule and is not a JAX array, perhaps a traced one."""
    if _is_known(value) and not np.all(holds(np.asarray(value))):
        raise ValueError(f'{name} must be {rule}, got {value}.')


def split(array: jax.Array, like: jax.Array, *axes: Any) -> jax.Array:
    """`array` with its dimensions split over these axes of the explicit mesh of `like`."""
    spec = PartitionSpec(*axes, *[None] * (array.ndim - len(axes)))
    if jax.typeof(array).sharding.spec == spec:
        return array
    return reshard(array, NamedSharding(jax.typeof(like).sharding.mesh, spec))


def weighted_mean(
    values: ArrayLike, weights: ArrayLike, axis_name: str | tuple[str, ...] | None = None
) -> jax.Array:
    """Returns sum(weights * values) / sum(weights), and 0 where the weights sum to 0.

    The weights (class weights, or masks of examples or pairs) have the shape of the values. A value
    of weight 0 does not count, even if it is NaN. No gradient flows through the weights. With
    `axis_name`, both sums run over all devices; the mean of the devices' gradients (`lax.pmean`) is
    then that of the global batch, in `pmap` and `shard_map`.

    >>> print(weighted_mean([1.0, 2.0, 6.0], [1.0, 1.0, 0.0]))
    1.5
    """
    values = at_least_float32(values)
    weights = lax.stop_gradient(at_least_float32(weights))
    if values.shape != weights.shape:
        raise ValueError(
            f'values and weights must have one shape, got {values.shape} and {weights.shape}.'
        )
    weights = split(weights, values, *jax.typeof(values).sharding.spec)
    sums = jnp.sum(weights * values, where=weights != 0), jnp.sum(weights)
    weighted_sum, total_weight = sums if axis_name is None else lax.psum(sums, axis_name)
    is_empty = total_weight == 0
    return jnp.where(is_empty, 0, weighted_sum / jnp.where(is_empty, 1, total_weight))


def _is_known(value: Any) -> bool:
    return not any(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(value))
