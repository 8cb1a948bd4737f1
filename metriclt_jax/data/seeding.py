"""Independent random streams for splits, subsets and epochs."""

import zlib

import numpy as np

from metriclt_jax.errors import InputError


def generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one purpose, e.g. `generator('epoch', seed, epoch)`.

    Streams of different purposes, seeds or numbers are independent of each other, and the same
    arguments give the same stream on every machine.

    >>> int(generator('epoch', 0, 3).integers(100)) == int(generator('epoch', 0, 3).integers(100))
    True
    """
    if seed < 0:
        raise InputError(f'The seed of the {purpose} must be 0 or more, not {seed}.')
    entropy = [zlib.crc32(purpose.encode()), seed, *numbers]
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
