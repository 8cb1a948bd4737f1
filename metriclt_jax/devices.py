"""The devices that share a batch: their axis, the placement of arrays on it, and random keys.

In a multi-host run, arrays placed here are local to a process, as `jax.pmap` takes them: an array
that is split has the rows of this process's devices only.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from metriclt_jax.errors import InputError

# The name of the axis. Placements must use pmap's own name, or it compiles a second time.
AXIS = 'batch'


def choose_devices(number: int = 0) -> tuple[jax.Device, ...]:
    """The `number` devices (0: all) that share a run's batches, those of a process side by side."""
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    processes = jax.process_count()
    if number not in (range(len(devices) + 1) if processes == 1 else (0, len(devices))):
        raise InputError(
            f'config field num_devices is {number}; with {processes} processes and {len(devices)} '
            'devices, use 0 for all'
        )
    counts = np.bincount([device.process_index for device in devices]).tolist()
    if len(set(counts)) > 1:
        raise InputError(f'the hosts have {counts} devices; each must have the same number')
    return tuple(devices[: number or None])


def local_rows(batch_size: int, devices: Sequence[jax.Device]) -> slice:
    """The rows of a global batch that lie on this process's devices."""
    per_device = batch_size // len(devices)
    own = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
    return slice(own[0] * per_device, (own[-1] + 1) * per_device)


def split(devices: Sequence[jax.Device]) -> Sharding:
    """Row i of the leading axis on device i: what pmap takes with `in_axes=0`."""
    return NamedSharding(_mesh(devices).local_mesh, PartitionSpec(AXIS))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of `tree` on every device, for `in_axes=None`; a copy, as steps donate their state."""
    replicated = NamedSharding(_mesh(devices).local_mesh, PartitionSpec())
    return jax.device_put(jax.tree.map(jnp.array, tree), replicated)


def replicated_globally(devices: Sequence[jax.Device]) -> Sharding:
    """The same value on every device of all processes: what Orbax saves and restores."""
    return NamedSharding(_mesh(devices), PartitionSpec())


def to_global(tree: Any) -> Any:
    """What `place` returned, as arrays that span all processes; the memory is shared."""
    if jax.process_count() == 1:
        return tree
    mesh = _mesh(choose_devices())
    return multihost_utils.host_local_array_to_global_array(tree, mesh, PartitionSpec())


def to_local(tree: Any) -> Any:
    """The inverse of `to_global`."""
    if jax.process_count() == 1:
        return tree
    mesh = _mesh(choose_devices())
    return multihost_utils.global_array_to_host_local_array(tree, mesh, PartitionSpec())


def example_keys(key: jax.Array, batch_size: int, axis_name: str | None = None) -> jax.Array:
    """A key for each of a device's examples `[batch_size]`, from its index in the global batch.

    Draws therefore do not depend on how many devices share the batch.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch_size
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(batch_size))


def _mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(devices), (AXIS,))
