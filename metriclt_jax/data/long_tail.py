"""Exponentially long-tailed subsets (Cao et al. 2019, as the paper's PathMNIST-LT)."""

from typing import Literal

import numpy as np

from metriclt_jax.data.seeding import generator
from metriclt_jax.errors import InputError


def exponential_counts(
    n_max: int,
    num_classes: int,
    ratio: float,
    rounding: Literal['nearest', 'down'] = 'nearest',
) -> np.ndarray:
    """Returns the class sizes n_max * ratio^(-i / (C - 1)), i = 0 ... C - 1, as int `[C]`.

    Args:
        n_max: images of the first, largest class.
        num_classes: C.
        ratio: size of the first class over that of the last, 1 or more.
        rounding: to the 'nearest' integer (half up) or 'down'.

    >>> exponential_counts(9366, 9, 100).tolist()
    [9366, 5267, 2962, 1666, 937, 527, 296, 167, 94]
    """
    if not ratio >= 1:
        raise InputError(f'data.imbalance_ratio is {ratio}; allowed: 0 (keep all), or 1 or more')
    exponents = np.arange(num_classes) / max(num_classes - 1, 1)
    sizes = n_max * float(ratio) ** -exponents
    # The power is off by a few units in the last place: 10.000000000000002, or 9.999999999999998.
    offset = {'nearest': 0.5, 'down': 0.0}[rounding] + 1e-9
    return np.floor(sizes + offset).astype(np.int64)


def subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Chooses `counts[c]` images of each class c at random.

    One permutation per class, cut after `counts[c]`: with the same seed, smaller counts choose a
    subset of what larger counts choose.

    Args:
        labels: int `[N]`.
        counts: int `[C]`, none larger than the class.
        seed: 0 or more.

    Returns:
        Indices into `labels`, ascending, int64 `[sum(counts)]`.
    """
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        if count > len(members):
            raise InputError(f'class {label} has {len(members)} images, too few for {count}')
        chosen.append(generator('subset', seed, label).permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
