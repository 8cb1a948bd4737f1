"""Readers of original files: one short function for each data set."""

import functools
from collections.abc import Callable, Mapping

from metriclt_jax.data.sources import digits_lt, dogs_lt, flower_lt, folder, medmnist, skin7, xray9
from metriclt_jax.data.sources.common import Source

OWN = 'folder'
"""The data set whose labels are the user's own; those of all others are as published."""

READERS: Mapping[str, Callable[..., Source]] = {
    'skin7': skin7.read_source,
    'xray9': xray9.read_source,
    'pathmnist_lt': functools.partial(medmnist.read_source, 'pathmnist'),
    'flower_lt': flower_lt.read_source,
    'dogs_lt': dogs_lt.read_source,
    'digits_lt': digits_lt.read_source,
    OWN: folder.read_source,
} | {
    name: functools.partial(medmnist.read_source, name)
    for name in medmnist.PUBLISHED
    if name != 'pathmnist'
}
"""The reader of each data set: from the path of the source and options to a `Source`."""
