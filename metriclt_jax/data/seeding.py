"""Independent random streams for splits, subsets and epochs."""

import hashlib

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
        raise InputError(f'the seed of the {purpose} is {seed}; allowed: 0 or more')
    # A hash, as SeedSequence itself takes [seed] and [seed, 0] for the same.
    text = '/'.join([purpose, str(seed), *map(str, numbers)])
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
