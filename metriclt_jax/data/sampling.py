"""The order in which an epoch visits the training images."""

from typing import Literal

import numpy as np

from metriclt_jax.data.seeding import generator
from metriclt_jax.errors import InputError

Sampler = Literal['instance', 'class_balanced']


def epoch_order(
    labels: np.ndarray, sampler: Sampler, seed: int, epoch: int, size: int | None = None
) -> np.ndarray:
    """Returns which images an epoch visits, in order; a pure function of its arguments.

    'instance' is a permutation of all images. 'class_balanced' draws a class uniformly among those
    that have images and then one of its images, independently each time (the paper's RS and cRS;
    Kang et al. 2020).

    Args:
        labels: int `[N]`.
        sampler: 'instance' or 'class_balanced'.
        seed: 0 or more.
        epoch: 0 or more.
        size: how many images to visit, N by default; at most N for 'instance'.

    Returns:
        Indices into `labels`, int64 `[size]`.
    """
    labels = np.asarray(labels)
    if sampler not in _ORDERS:
        raise InputError(f'the sampler is {sampler!r}; allowed: {", ".join(_ORDERS)}')
    size = len(labels) if size is None else size
    return _ORDERS[sampler](labels, generator(f'{sampler} epoch', seed, epoch), size)


def _instance(labels: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    if size > len(labels):
        raise InputError(f'an epoch visits {size} images; allowed: at most all {len(labels)}')
    return rng.permutation(len(labels))[:size]


def _class_balanced(labels: np.ndarray, rng: np.random.Generator, size: int) -> np.ndarray:
    _, counts = np.unique(labels, return_counts=True)
    starts = np.cumsum(counts) - counts
    classes = rng.integers(len(counts), size=size)
    return np.argsort(labels, kind='stable')[starts[classes] + rng.integers(counts[classes])]


_ORDERS = {'instance': _instance, 'class_balanced': _class_balanced}
