"""Exact evaluation: every image of a part once, whatever the batch size and the devices."""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from metriclt_jax.augment.geometry import AugmentConfig, center
from metriclt_jax.data import Dataset
from metriclt_jax.data.pipeline import eval_batches, prefetch_to_devices
from metriclt_jax.devices import AXIS, local_rows
from metriclt_jax.evaluation.metrics import summarize


class Evaluation(NamedTuple):
    """The outputs for the N images of a part, in the part's order.

    Attributes:
        ids: names of the images `[N]`.
        labels: `[N]` int32.
        probabilities: `[N, C]` float32.
        confusion: `[C, C]` int64, rows are true classes; counted on the devices.
        features: `[N, D]` float32, or None.
        groups: lesions or patients `[N]`, or None.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    confusion: np.ndarray
    features: np.ndarray | None
    groups: np.ndarray | None = None

    def summary(
        self, class_groups: Mapping[str, Sequence[int]], class_names: Sequence[str]
    ) -> dict[str, Any]:
        """The metrics as `results.json` has them; see `metrics.summarize`."""
        return summarize(self.probabilities, self.labels, self.confusion, class_groups, class_names)

    def to_npz(self) -> bytes:
        """The content of `predictions.npz`, the same bytes for the same values.

        It has `ids` str `[N]`, `labels` int32 `[N]`, `probabilities` float32 `[N, C]` and, if the
        evaluation has them, `features` float16 `[N, D]` and `groups` str `[N]`.
        """
        arrays = {
            'ids': self.ids.astype(str),
            'labels': self.labels,
            'probabilities': self.probabilities,
        }
        if self.features is not None:
            largest = np.finfo(np.float16).max
            arrays['features'] = self.features.clip(-largest, largest).astype(np.float16)
        if self.groups is not None:
            arrays['groups'] = self.groups.astype(str)
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        return content.getvalue()


def evaluate(
    model: nn.Module,
    variables: Any,
    augment: AugmentConfig,
    dataset: Dataset,
    part: str,
    *,
    batch_size: int,
    devices: Sequence[jax.Device],
    features: bool = False,
) -> Evaluation:
    """Runs a model over a part of a data set, not empty, without augmentation.

    `variables` are on all of `devices`, which share a batch of `batch_size` images, rounded up to
    a multiple of them. With `features` these are returned too.
    """
    step = make_eval_step(model, augment, tuple(devices))
    batch_size = -(-batch_size // len(devices)) * len(devices)
    batches = eval_batches(dataset, part, batch_size, local_rows(batch_size, devices))
    results = []
    for batch in prefetch_to_devices(batches, devices):
        confusion, probabilities, feature_rows = step(variables, batch)
        results.append((confusion, probabilities, *((feature_rows,) if features else ())))
        if len(results) > 1:  # the devices keep one batch of outputs
            results[-2] = jax.device_get(results[-2])
    confusions, probabilities, *rows = zip(*jax.device_get(results), strict=True)
    indices = dataset.parts[part]
    return Evaluation(
        ids=dataset.ids[indices],
        labels=dataset.labels[indices],
        probabilities=np.concatenate(probabilities)[: len(indices)],
        confusion=np.sum([c.round().astype(np.int64) for c in confusions], axis=0),
        features=_gather(rows[0])[: len(indices)] if features else None,
        groups=None if dataset.groups is None else dataset.groups[indices],
    )


@cache  # equal models, as those of two stages may be, share a compiled program
def make_eval_step(
    model: nn.Module, augment: AugmentConfig, devices: tuple[jax.Device, ...]
) -> Callable[..., tuple[jax.Array, ...]]:
    """The outputs of a batch: `step(variables, batch)`, pmap-ed, gives confusion `[C, C]`,
    probabilities `[B, C]` and, on their devices, features `[B / devices, D]`.
    """

    def step(variables, batch):
        outputs = model.apply(variables, center(batch['image'], augment), train=False)
        num_classes = outputs.logits.shape[-1]
        predicted = jax.nn.one_hot(jnp.argmax(outputs.logits, axis=-1), num_classes)
        true = jax.nn.one_hot(batch['label'], num_classes) * batch['mask'][:, None]
        # Counts of one batch are far below 2**24, so float32 is exact.
        confusion = jnp.matmul(true.T, predicted, precision='highest')
        probabilities = jax.nn.softmax(outputs.logits)
        return (
            jax.lax.psum(confusion, AXIS),
            jax.lax.all_gather(probabilities, AXIS, tiled=True),
            outputs.features,  # stays on its device: few evaluations need it
        )

    return jax.pmap(
        step, axis_name=AXIS, in_axes=(None, 0), out_axes=(None, None, 0), devices=devices
    )


def _gather(batches: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of batches `[local devices, B / devices, D]`, of all processes, as `[N, D]`."""
    if jax.process_count() > 1:
        batches = [multihost_utils.process_allgather(batch) for batch in batches]
    return np.concatenate([batch.reshape(-1, batch.shape[-1]) for batch in batches])
