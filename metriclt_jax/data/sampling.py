"""The order in which an epoch visits the training images."""

from typing import Literal, get_args

import numpy as np

from metriclt_jax.data.seeding import generator
from metriclt_jax.errors import InputError

Sampler = Literal['instance', 'class_balanced', 'square_root', 'reversed', 'progressive']
SAMPLERS = get_args(Sampler)


def epoch_order(
    labels: np.ndarray,
    sampler: Sampler,
    seed: int,
    epoch: int,
    size: int | None = None,
    epochs: int | None = None,
) -> np.ndarray:
    """Returns which images an epoch visits, in order; a pure function of its arguments.

    'instance' is a permutation of all images. The others draw a class with the probabilities of
    `class_probabilities` and then one of its images uniformly, independently each time.

    Args:
        labels: int `[N]`.
        sampler: 'instance', 'class_balanced', 'square_root', 'reversed' or 'progressive'.
        seed: 0 or more.
        epoch: 0 or more.
        size: how many images to visit, N by default; at most N for 'instance'.
        epochs: length of the training E; only 'progressive' needs it. Its progress is
            epoch / (E - 1), and 0 if E is 1.

    Returns:
        Indices into `labels`, int64 `[size]`.

    Raises:
        InputError: an argument is outside of what is allowed.
    """
    labels = np.asarray(labels)
    _check_sampler(sampler)
    if sampler == 'progressive' and (epochs is None or epochs < 1):
        raise InputError(f"epochs of the sampler 'progressive' is {epochs}; allowed: 1 or more")
    size = len(labels) if size is None else size
    rng = generator(f'{sampler} epoch', seed, epoch)
    if sampler == 'instance':
        if size > len(labels):
            raise InputError(f'an epoch visits {size} images; allowed: at most all {len(labels)}')
        return rng.permutation(len(labels))[:size]

    progress = 0.0 if epochs is None else min(epoch / max(epochs - 1, 1), 1.0)
    _, counts = np.unique(labels, return_counts=True)
    # Without probabilities NumPy draws integers, with equal ones it draws other classes: it is None
    # so that an old run goes on with the order that it began with.
    balanced = sampler == 'class_balanced'
    probabilities = None if balanced else class_probabilities(counts, sampler, progress)
    classes = rng.choice(len(counts), size, p=probabilities)
    starts = np.cumsum(counts) - counts
    return np.argsort(labels, kind='stable')[starts[classes] + rng.integers(counts[classes])]


def class_probabilities(counts: np.ndarray, sampler: Sampler, progress: float = 0.0) -> np.ndarray:
    """Returns with which probability a draw of a sampler is of each class.

    With n images of a class out of N, in C classes that have images:

    - 'instance': n / N.
    - 'class_balanced': 1 / C (RS and cRS of the paper; Kang et al. 2020).
    - 'square_root': proportional to sqrt(n) (Kang et al. 2020).
    - 'reversed': proportional to 1 / n (second branch of BBN, Zhou et al. 2020).
    - 'progressive': (1 - progress) n / N + progress / C (Kang et al. 2020).

    Args:
        counts: images of each class `[C]`; a class without any has probability 0.
        sampler: one of the above.
        progress: 0 at the begin of the training to 1 at its end; only 'progressive' uses it.

    Returns:
        Probabilities, float64 `[C]`.

    >>> class_probabilities([100, 10, 1], 'reversed') * 111
    array([  1.,  10., 100.])
    """
    _check_sampler(sampler)
    counts = np.asarray(counts, np.float64)
    present = counts > 0
    weights = np.zeros_like(counts)
    weights[present] = _CLASS_WEIGHTS[sampler](counts[present], progress)
    return weights / weights.sum()


def _progressive(counts: np.ndarray, progress: float) -> np.ndarray:
    return (1 - progress) * counts / counts.sum() + progress / len(counts)


_CLASS_WEIGHTS = {
    'instance': lambda counts, progress: counts,
    'class_balanced': lambda counts, progress: np.ones_like(counts),
    'square_root': lambda counts, progress: np.sqrt(counts),
    'reversed': lambda counts, progress: 1 / counts,
    'progressive': _progressive,
}


def _check_sampler(sampler: str) -> None:
    if sampler not in _CLASS_WEIGHTS:
        raise InputError(f'the sampler is {sampler!r}; allowed: {", ".join(_CLASS_WEIGHTS)}')
