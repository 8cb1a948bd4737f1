"""Index arrays to batches, on the host and ahead of the devices."""

import collections
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grain
import jax
import numpy as np

from metriclt_jax.data.dataset import Dataset
from metriclt_jax.data.sampling import Sampler, epoch_order
from metriclt_jax.devices import split
from metriclt_jax.errors import InputError

Batch = dict[str, Any]  # arrays, or another batch

# A batch is gathered from memory or disk; a few threads suffice to overlap the waiting.
_READING = grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)


def steps_per_epoch(dataset: Dataset, batch_size: int) -> int:
    """Returns how many whole batches the training part has; the incomplete last one is dropped."""
    images = len(dataset.parts['train'])
    if not 1 <= batch_size <= images:
        raise InputError(
            f'batch_size is {batch_size}; it must be 1 to {images}, the training images of '
            f'{dataset.name}'
        )
    return images // batch_size


def train_batches(
    dataset: Dataset,
    *,
    sampler: Sampler,
    seed: int,
    batch_size: int,
    first_step: int,
    num_steps: int,
    second_sampler: Sampler | None = None,
    rows: slice = slice(None),
) -> Iterator[Batch]:
    """Yields the training batches `first_step`, ..., `first_step + num_steps - 1`.

    Batch k is a pure function of (seed, k), wherever the iteration starts. It is {'image': uint8
    `[B, R, R, 3]`, 'label': int32 `[B]`, 'aspect': float32 `[B]`}, and only its `rows`, one host's
    share, are read. `second_sampler` draws a second batch, under 'second', for methods with two
    branches; it must differ from `sampler`, since equal samplers draw equal batches.
    """
    if second_sampler == sampler:
        raise InputError(f'second_sampler is {second_sampler!r}; it must differ from sampler')
    per_epoch = steps_per_epoch(dataset, batch_size)
    train = dataset.parts['train']
    labels = dataset.labels[train]

    @functools.lru_cache(maxsize=4)  # threads may work on both sides of the end of an epoch
    def order(sampler: Sampler, epoch: int) -> np.ndarray:
        return train[epoch_order(labels, sampler, seed, epoch)]

    def drawn(sampler: Sampler, step: int) -> Batch:
        epoch, position = divmod(step, per_epoch)
        start = position * batch_size
        return _gather(dataset, order(sampler, epoch)[start : start + batch_size][rows])

    def batch(step: int) -> Batch:
        first = drawn(sampler, step)
        return first | {'second': drawn(second_sampler, step)} if second_sampler else first

    steps = grain.MapDataset.range(first_step, first_step + num_steps)
    return iter(steps.map(batch).to_iter_dataset(_READING))


def eval_batches(
    dataset: Dataset, part: str, batch_size: int, rows: slice = slice(None)
) -> Iterator[Batch]:
    """Yields every image of a part exactly once, in order, in batches as of `train_batches`.

    The last batch is padded with copies of its last image; 'mask', float32 `[B]`, is 0 for these
    and 1 elsewhere. `rows` are one host's share of each batch.
    """
    indices = dataset.parts[part]

    def batch(step: int) -> Batch:
        chosen = indices[step * batch_size : (step + 1) * batch_size]
        missing = batch_size - len(chosen)
        mask = np.pad(np.ones(len(chosen), np.float32), (0, missing))
        chosen = np.pad(chosen, (0, missing), mode='edge')
        return _gather(dataset, chosen[rows]) | {'mask': mask[rows]}

    steps = grain.MapDataset.range(-(-len(indices) // batch_size))
    return iter(steps.map(batch).to_iter_dataset(_READING))


def prefetch_to_devices(
    batches: Iterable[Batch], devices: Sequence[jax.Device], depth: int = 2
) -> Iterator[dict[str, jax.Array]]:
    """Yields batches as `jax.pmap` with `in_axes=0` wants them, put onto the devices ahead of time.

    With n `devices` in this process, leading axes `[B]` become `[n, B / n]`, row i on device i.
    """
    # The sharding that pmap itself asks for; under another axis name it would compile once more.
    sharding = split(devices)
    count = len(sharding.addressable_devices)

    def divide(array: np.ndarray) -> np.ndarray:
        if (size := len(array)) % count:
            raise InputError(f'batch_size is {size}; it must be a multiple of {count}, the devices')
        return array.reshape(count, -1, *array.shape[1:])

    iterator = iter(batches)

    def fetch() -> dict[str, jax.Array] | None:
        batch = next(iterator, None)
        return None if batch is None else jax.device_put(jax.tree.map(divide, batch), sharding)

    pool = ThreadPoolExecutor(1, 'prefetch')
    try:
        waiting = collections.deque(pool.submit(fetch) for _ in range(depth))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(pool.submit(fetch))
            yield batch
    finally:
        pool.shutdown(cancel_futures=True)


def _gather(dataset: Dataset, indices: np.ndarray) -> Batch:
    return {
        'image': dataset.images.read(indices),
        'label': dataset.labels[indices],
        'aspect': dataset.aspects[indices],
    }
