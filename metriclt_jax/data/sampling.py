"""Random choices: independent streams, and the order in which an epoch visits training images."""

import hashlib
from typing import Literal, get_args

import numpy as np

Sampler = Literal['instance', 'class_balanced', 'reversed']
SAMPLERS = get_args(Sampler)


def generator(purpose: str, seed: int, *numbers: int) -> np.random.Generator:
    """Returns the generator of one purpose, e.g. `generator('epoch', seed, epoch)`.

    Streams of different arguments are independent; a stream is the same on every machine.
    """
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
    rng = generator(f'{sampler} epoch', seed, epoch)
    if sampler == 'instance':
        return rng.permutation(len(labels))
    _, counts = np.unique(labels, return_counts=True)
    weights = 1 / counts
    # Given equal probabilities, NumPy would draw other classes than without any.
    probabilities = {'class_balanced': None, 'reversed': weights / weights.sum()}[sampler]
    classes = rng.choice(len(counts), len(labels), p=probabilities)
    starts = np.cumsum(counts) - counts
    return np.argsort(labels, kind='stable')[starts[classes] + rng.integers(counts[classes])]
