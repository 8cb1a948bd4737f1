"""The devices that share a batch: one axis, where values live on it, and random keys."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# The name of the axis. Placements must use pmap's own name, or it compiles a second time.
AXIS = 'batch'


def replicated(devices: Sequence[jax.Device]) -> jax.sharding.Sharding:
    """The same value on every device: what pmap takes with `in_axes=None`."""
    return jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec())


def split(devices: Sequence[jax.Device]) -> jax.sharding.Sharding:
    """Row i of the leading axis on device i: what pmap takes with `in_axes=0`."""
    return jax.sharding.NamedSharding(_mesh(devices), jax.sharding.PartitionSpec(AXIS))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of `tree` on every device; a copy, since a step donates what it is given."""
    return jax.device_put(jax.tree.map(jnp.array, tree), replicated(devices))


def example_keys(key: jax.Array, batch_size: int, axis_name: str | None = None) -> jax.Array:
    """A key `[batch_size]` for each example, from its index in the global batch.

    So the draw of an example does not depend on how many devices share the work. `batch_size` is
    that of one device; `axis_name` is the devices' axis, if there is one.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch_size
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(batch_size))


def _mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(devices), (AXIS,))
