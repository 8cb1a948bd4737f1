"""Clocks, and what is made of their readings."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax


def time_steps(step: Callable[[Any], Any], carry: Any, count: int) -> tuple[Any, float]:
    """Seconds of one of `count` steps in a row, `carry = step(carry)`, and the last carry.

    Nothing waits for the device between the steps, as in training.
    """
    jax.block_until_ready(carry)
    started = time.perf_counter()
    for _ in range(count):
        carry = step(carry)
    jax.block_until_ready(carry)
    return carry, (time.perf_counter() - started) / count


def summarize(samples: Sequence[float]) -> dict[str, Any]:
    """The samples (seconds of a step) with their minimum and median."""
    return {'min': min(samples), 'median': statistics.median(samples), 'samples': list(samples)}


def compare(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, Any]:
    """Our seconds over theirs; sample i of both was taken one right after the other.

    What slows the machine for a while slows both of a pair, so the median of the ratios is steadier
    than the ratio of the medians.

    >>> compare([2.0, 3.0, 8.0], [1.0, 2.0, 2.0])
    {'median_ratio': 2.0, 'ratio_of_minima': 2.0, 'ratios': [2.0, 1.5, 4.0]}
    """
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        'median_ratio': statistics.median(ratios),
        'ratio_of_minima': min(ours) / min(theirs),
        'ratios': ratios,
    }
