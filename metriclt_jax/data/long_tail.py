"""Exponentially long-tailed subsets (Cao et al. 2019, as the paper's PathMNIST-LT)."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from metriclt_jax.data.sampling import generator
from metriclt_jax.errors import InputError

Rounding = Literal['nearest', 'down']  # half up, or to the integer below


def exponential_counts(
    n_max: int, num_classes: int, ratio: float, rounding: Rounding = 'nearest'
) -> np.ndarray:
    """Returns the class sizes n_max * ratio^(-i / (C - 1)), i = 0 ... C - 1, as int `[C]`.

    >>> exponential_counts(9366, 9, 100).tolist()
    [9366, 5267, 2962, 1666, 937, 527, 296, 167, 94]
    """
    if not ratio >= 1:
        raise InputError(f'data.imbalance_ratio is {ratio}; it must be 0 (keep all), or 1 or more')
    exponents = np.arange(num_classes) / max(num_classes - 1, 1)
    sizes = n_max * float(ratio) ** -exponents
    # The power is off by a few units in the last place: 10.000000000000002, or 9.999999999999998.
    offset = {'nearest': 0.5, 'down': 0.0}[rounding] + 1e-9
    return np.floor(sizes + offset).astype(np.int64)


def head_to_tail(order: str, available: np.ndarray, class_names: Sequence[str]) -> np.ndarray:
    """Returns the classes in the order in which the curve thins them out, int64 `[C]`.

    `order` is 'index', 'size' (ties by index), or all names from head to tail, separated by commas
    (names may contain commas, too); `available` are the images of each class, int `[C]`.
    """
    if order == 'index':
        return np.arange(len(class_names))
    if order == 'size':
        return np.argsort(-available, kind='stable')
    names, rest = [], f'{order},'
    while there := [name for name in class_names if rest.startswith(f'{name},')]:
        names.append(max(there, key=len))
        rest = rest[len(names[-1]) + 1 :]
    if rest or sorted(names) != sorted(class_names):
        raise InputError(
            f'data.long_tail_order is {order!r}; use index, size, or each class once, separated by '
            f'commas: {",".join(class_names)}'
        )
    return np.array([list(class_names).index(name) for name in names])


def long_tailed_counts(
    available: np.ndarray,
    order: np.ndarray,
    ratio: float,
    largest: Literal['smallest', 'first'] = 'smallest',
    rounding: Rounding = 'nearest',
) -> np.ndarray:
    """Returns how many of the `available` `[C]` images a subset keeps, int64 `[C]`.

    The curve goes through the classes in `order` `[C]`. It starts at the size of the 'smallest'
    class, so that all classes are large enough for it, or at that of the 'first' one. A class with
    fewer images than it asks for keeps them all, so the actual ratio may differ from `ratio`.

    >>> long_tailed_counts(np.array([50, 60, 80]), np.array([2, 1, 0]), 4.0, 'first').tolist()
    [20, 40, 80]
    """
    n_max = int({'smallest': available.min(), 'first': available[order[0]]}[largest])
    curve = exponential_counts(n_max, len(order), ratio, rounding)
    if curve.min() < 1:
        limit = {'nearest': 2 * n_max, 'down': n_max}[rounding]
        raise InputError(
            f'data.imbalance_ratio is {ratio}; it must be at most {limit}, as the largest '
            f'class keeps {n_max} images and the smallest needs one'
        )
    counts = np.empty_like(curve)
    counts[order] = np.minimum(curve, available[order])
    return counts


def subset(labels: np.ndarray, counts: np.ndarray, seed: int) -> np.ndarray:
    """Chooses `counts[c]` images of each class c at random; returns ascending indices.

    With the same seed, smaller counts choose a subset of what larger counts choose.
    """
    chosen = []
    for label, count in enumerate(counts):
        members = np.flatnonzero(labels == label)
        chosen.append(generator('subset', seed, label).permutation(members)[:count])
    return np.sort(np.concatenate(chosen))
