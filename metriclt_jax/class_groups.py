"""The groups of classes that have a mean recall of their own: major, medium and minor."""

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import ArrayLike

from metriclt_jax.errors import InputError


def class_groups(train_counts: ArrayLike, major: int = 3, minor: int = 3) -> dict[str, list[int]]:
    """The most and the least frequent classes of the training part, from head to tail.

    `train_counts` are the training images of each class `[C]`, `major` and `minor` the sizes of the
    groups. The smaller class index counts as the more frequent in ties.

    >>> class_groups([824, 86, 5029, 107, 835], major=2, minor=2)
    {'major': [2, 4], 'minor': [3, 1]}
    """
    order = _head_to_tail(train_counts)
    if major < 1 or minor < 1 or major + minor > len(order):
        raise InputError(
            f'data.major is {major} and data.minor is {minor}, but there are {len(order)} classes; '
            'each must be at least 1, and together they must not exceed the number of classes'
        )
    return {'major': order[:major], 'minor': order[-minor:]}


def class_thirds(train_counts: ArrayLike) -> dict[str, list[int]]:
    """The classes in thirds by training count; the first ones are larger if 3 does not divide C.

    >>> class_thirds([5, 50, 10, 40, 20, 30])
    {'major': [1, 3], 'medium': [5, 4], 'minor': [2, 0]}
    """
    order = _head_to_tail(train_counts)
    if len(order) < 3:
        raise InputError(f'data.groups=thirds needs at least 3 classes, but there are {len(order)}')
    major, medium, minor = (third.tolist() for third in np.array_split(order, 3))
    return {'major': major, 'medium': medium, 'minor': minor}


def configured_groups(config: ConfigDict, train_counts: ArrayLike) -> dict[str, list[int]]:
    """The groups by the fields `groups` ('counts' or 'thirds'), `major` and `minor` of `config`."""
    if config.groups == 'thirds':
        return class_thirds(train_counts)
    return class_groups(train_counts, config.major, config.minor)


def _head_to_tail(train_counts: ArrayLike) -> list[int]:
    return np.argsort(-np.asarray(train_counts, np.int64), kind='stable').tolist()
