"""Exact evaluation: every image of a part once, whatever the batch size and the devices."""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax.augment.geometry import AugmentConfig, center
from metriclt_jax.data import Dataset
from metriclt_jax.data.pipeline import eval_batches, prefetch_to_devices
from metriclt_jax.devices import AXIS, local_rows


class Evaluation(NamedTuple):
    """The outputs for all N images of a part, in the part's order.

    Attributes:
        labels: `[N]` int32.
        probabilities: `[N, C]` float32.
        confusion: `[C, C]` int64, rows are true classes; counted on the devices.
        features: `[N, D]` float32, or None where they were not asked for.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    features: np.ndarray | None


def make_eval_step(
    model: nn.Module, geometry: AugmentConfig, devices: Sequence[jax.Device] | None = None
) -> Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array, jax.Array]]:
    """`step(variables, batch) -> (confusion [C, C], probabilities, features)`, pmap-ed.

    `confusion` is summed over devices and leaves out padding (`batch['mask']` 0); the other two
    `[B, ...]` have the rows of all devices, padding included, and so have all processes. Stages
    whose models are equal get the same step, which is then compiled once.
    """
    return _eval_step(model, geometry, None if devices is None else tuple(devices))


@cache
def _eval_step(model, geometry, devices):

    def step(variables, batch):
        outputs = model.apply(variables, center(batch['image'], geometry), train=False)
        num_classes = outputs.logits.shape[-1]
        predicted = jax.nn.one_hot(jnp.argmax(outputs.logits, axis=-1), num_classes)
        true = jax.nn.one_hot(batch['label'], num_classes) * batch['mask'][:, None]
        # Counts of one batch are far below 2**24, so float32 holds them exactly.
        confusion = jnp.matmul(true.T, predicted, precision='highest')
        confusion = jax.lax.psum(confusion, AXIS)
        probabilities = jax.nn.softmax(outputs.logits)
        rows = jax.lax.all_gather((probabilities, outputs.features), AXIS, tiled=True)
        return confusion, *rows

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), out_axes=None, devices=devices)


def evaluate(
    step: Callable[[Any, dict[str, jax.Array]], tuple[jax.Array, jax.Array, jax.Array]],
    variables: Any,
    dataset: Dataset,
    part: str,
    batch_size: int,
    devices: Sequence[jax.Device],
    *,
    features: bool = False,
) -> Evaluation:
    """Runs `step` (from `make_eval_step`) over a part of the data set.

    Args:
        batch_size: over all devices; rounded up to a multiple of them. Each process reads the
            rows of its own.
        features: whether to bring the features to the host too.
    """
    batch_size = -(-batch_size // len(devices)) * len(devices)
    batches = eval_batches(dataset, part, batch_size, local_rows(batch_size, devices))
    results = []
    for batch in prefetch_to_devices(batches, devices):
        confusion, probabilities, feature = step(variables, batch)
        results.append((confusion, probabilities, feature if features else None))
        if len(results) > 1:  # the devices compute on, and keep one batch
            results[-2] = jax.device_get(results[-2])
    count = len(dataset.parts[part])

    def gather(arrays):
        return np.concatenate([np.asarray(array) for array in arrays])[:count]

    confusions, probabilities, feature_arrays = zip(*results, strict=True)
    return Evaluation(
        labels=dataset.labels[dataset.parts[part]],
        probabilities=gather(probabilities),
        confusion=np.sum([np.asarray(c).round().astype(np.int64) for c in confusions], axis=0),
        features=gather(feature_arrays) if features else None,
    )
