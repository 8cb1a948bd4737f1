"""Random choices: independent streams, and the order in which an epoch visits training images."""

import hashlib
from typing import Literal, get_args

import numpy as np

from metriclt_jax.errors import InputError

Sampler = Literal['instance', 'class_balanced', 'reversed']
SAMPLERS = get_args(Sampler)


def generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one purpose, e.g. `generator('epoch', seed, epoch)`.

    Streams of different arguments are independent; equal ones are equal on every machine.
    """
    if seed < 0:
        raise InputError(f'the seed of the {purpose} is {seed}; it must be 0 or more')
    # A hash, because SeedSequence treats [seed] and [seed, 0] alike.
    text = '/'.join([purpose, str(seed), *map(str, numbers)])
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest())
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def epoch_order(labels: np.ndarray, sampler: Sampler, seed: int, epoch: int) -> np.ndarray:
    """Returns which images an epoch visits, in order: indices into `labels` `[N]`, int64 `[N]`.

    'instance' is a permutation of all images. The others draw a class and then one of its images
    uniformly, independently each time: 'class_balanced' draws classes uniformly (RS and cRS of the
    paper; Kang et al. 2020), 'reversed' with probabilities proportional to 1 / class size (second
    branch of BBN, Zhou et al. 2020).
    """
    labels = np.asarray(labels)
    if sampler not in SAMPLERS:
        raise InputError(f'the sampler is {sampler!r}; it must be one of {", ".join(SAMPLERS)}')
    rng = generator(f'{sampler} epoch', seed, epoch)
    if sampler == 'instance':
        return rng.permutation(len(labels))
    _, counts = np.unique(labels, return_counts=True)
    # Given equal probabilities, NumPy would draw other classes than without any.
    weights = 1 / counts
    probabilities = weights / weights.sum() if sampler == 'reversed' else None
    classes = rng.choice(len(counts), len(labels), p=probabilities)
    starts = np.cumsum(counts) - counts
    return np.argsort(labels, kind='stable')[starts[classes] + rng.integers(counts[classes])]
