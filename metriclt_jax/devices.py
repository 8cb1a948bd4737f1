"""The devices that share a batch: one axis, where values live on it, and random keys.

With several processes, each holds its own part of what is placed here, and `jax.pmap` makes the
parts one: arrays that are split have the rows of this process' devices only.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from metriclt_jax.errors import InputError

# The name of the axis. Placements must use pmap's own name, or it compiles a second time.
AXIS = 'batch'


def choose_devices(number: int = 0) -> tuple[jax.Device, ...]:
    """The devices that share a run's batches, those of one process side by side.

    Args:
        number: how many; 0 for all, which is the only choice with several processes.

    Raises:
        InputError: there are not as many, or processes differ in how many they have.
    """
    devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    if jax.process_count() == 1:
        if not 0 <= number <= len(devices):
            raise InputError(
                f'config field num_devices is {number}; allowed: 0 (all) to {len(devices)}'
            )
        return tuple(devices[: number or None])
    if number not in (0, len(devices)):
        raise InputError(
            f'config field num_devices is {number}; allowed with {jax.process_count()} processes: '
            f'0 (all) or {len(devices)}'
        )
    counts = np.bincount([device.process_index for device in devices]).tolist()
    if len(set(counts)) > 1:
        raise InputError(f'the processes have {counts} devices; allowed: equally many in each')
    return tuple(devices)


def local_rows(batch_size: int, devices: Sequence[jax.Device]) -> slice:
    """The rows of a global batch that lie on this process' devices; `devices` divide the batch."""
    per_device = batch_size // len(devices)
    own = [i for i, device in enumerate(devices) if device.process_index == jax.process_index()]
    return slice(own[0] * per_device, (own[-1] + 1) * per_device)


def replicated(devices: Sequence[jax.Device]) -> jax.sharding.Sharding:
    """The same value on every device: what pmap takes with `in_axes=None`."""
    return jax.sharding.NamedSharding(_mesh(devices).local_mesh, jax.sharding.PartitionSpec())


def split(devices: Sequence[jax.Device]) -> jax.sharding.Sharding:
    """Row i of the leading axis on device i: what pmap takes with `in_axes=0`."""
    return jax.sharding.NamedSharding(_mesh(devices).local_mesh, jax.sharding.PartitionSpec(AXIS))


def place(tree: Any, devices: Sequence[jax.Device]) -> Any:
    """A copy of `tree` on every device; a copy, since a step donates what it is given."""
    return jax.device_put(jax.tree.map(jnp.array, tree), replicated(devices))


def to_global(tree: Any) -> Any:
    """What `place` gave, as arrays that span all processes; the same memory."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.host_local_array_to_global_array(
        tree, _mesh(choose_devices()), jax.sharding.PartitionSpec()
    )


def to_local(tree: Any) -> Any:
    """The inverse of `to_global`."""
    if jax.process_count() == 1:
        return tree
    return multihost_utils.global_array_to_host_local_array(
        tree, _mesh(choose_devices()), jax.sharding.PartitionSpec()
    )


def example_keys(key: jax.Array, batch_size: int, axis_name: str | None = None) -> jax.Array:
    """A key `[batch_size]` for each example, from its index in the global batch.

    So the draw of an example does not depend on how many devices share the work. `batch_size` is
    that of one device; `axis_name` is the devices' axis, if there is one.
    """
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * batch_size
    return jax.vmap(jax.random.fold_in, (None, 0))(key, first + jnp.arange(batch_size))


def _mesh(devices: Sequence[jax.Device]) -> jax.sharding.Mesh:
    return jax.sharding.Mesh(np.array(devices), (AXIS,))
