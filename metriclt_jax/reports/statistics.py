"""Statistics of a report: over seeds, over test images, and of calibration. NumPy in, NumPy out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from metriclt_jax.errors import InputError

CONFIDENCE = 0.95
BINS = 15  # of the calibration error, as in Guo et al. 2017
RESAMPLES = 10_000
_ROUNDING = 1e-9  # differences of recalls that differ by less are the same


@dataclass(frozen=True)
class Interval:
    """A mean difference and the interval that covers the true one at the level `CONFIDENCE`."""

    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """Predictions in bins of equal width of their confidence, from 0 to 1.

    Attributes:
        counts: predictions `[B]`.
        confidence: mean confidence in each bin `[B]`; NaN in an empty one.
        accuracy: share of correct predictions in each bin `[B]`; NaN in an empty one.
    """

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: mean |accuracy - confidence| of the bins by count.

        Naeini et al. 2015, Guo et al. 2017.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(gaps * self.counts) / self.counts.sum())


def best_and_second(values: Sequence[float | None]) -> list[str]:
    """Marks of a column: 'bold' for the highest value, 'underline' for the second highest.

    Equal values get the same mark; the second is the next lower value. Values are compared as
    given: round them to what is printed first. None and NaN get no mark.

    >>> best_and_second([84.1, 86.5, None, 86.5, 85.0])
    ['', 'bold', '', 'bold', 'underline']
    """
    known = {value for value in values if value is not None and not math.isnan(value)}
    marks = dict(zip(sorted(known, reverse=True), ('bold', 'underline'), strict=False))
    return [marks.get(value, '') for value in values]


def seeds_interval(first: Sequence[float], second: Sequence[float]) -> Interval | None:
    """Student's interval of the mean of `first - second`, paired over seeds.

    It covers what changes with the seed (initial parameters, order and augmentation of the images)
    and not the choice of the test images.

    Returns:
        None where fewer than two seeds, or differences without any variation, allow no interval.

    >>> interval = seeds_interval([3.0, 5.0], [2.0, 2.0])  # differences 1 and 3
    >>> round(interval.low, 4), round(interval.high, 4)
    (-10.7062, 14.7062)
    """
    from scipy.special import stdtrit

    differences = np.subtract(first, second)
    if len(differences) < 2 or np.ptp(differences) < _ROUNDING:
        return None
    error = np.std(differences, ddof=1) / math.sqrt(len(differences))
    half = float(stdtrit(len(differences) - 1, (1 + CONFIDENCE) / 2) * error)
    mean = float(np.mean(differences))
    return Interval(mean, mean - half, mean + half)


def images_interval(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[int],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of a difference in mean class recall, paired over test images.

    Images are drawn with replacement within each class, so that each class keeps its size, and
    both methods are judged on the same draws; percentiles of `resamples` draws. The trained
    networks are taken as given, so the interval does not say what another seed would do.

    Args:
        first: share of a method's runs that predict each image correctly `[N]`.
        second: the same of another method, for the same images `[N]`.
        labels: true classes `[N]`.
        classes: those that the recall is averaged over.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        InputError: one of the classes has no image.
    """
    gain, labels = np.subtract(first, second, dtype=float), np.asarray(labels)
    rng = np.random.default_rng(seed)
    means, draws = [], np.zeros(resamples)
    for c in classes:
        of_class = gain[labels == c]
        if not len(of_class):
            raise InputError(f'class {c} has no image to draw from')
        # An image matters by its gain only, and there are few different gains.
        values, counts = np.unique(of_class.round(12), return_counts=True)
        drawn = rng.multinomial(len(of_class), counts / len(of_class), size=resamples)
        means.append(of_class.mean())
        draws += drawn @ values / len(of_class)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws / len(means), [tail, 1 - tail])
    return Interval(float(np.mean(means)), float(low), float(high))


def verdict(
    difference: float, over_seeds: Interval | None, over_images: Interval | None, seeds: int
) -> str:
    """What may be claimed: a sign only where every interval that exists excludes zero."""
    intervals = [interval for interval in (over_seeds, over_images) if interval is not None]
    if not intervals:
        return 'no interval'
    if min(i.low if difference > 0 else -i.high for i in intervals) <= 0:
        return 'no difference shown'
    sign = 'higher' if difference > 0 else 'lower'
    if over_seeds is None:
        return f'{sign}, for these trained networks'
    if over_images is None:
        return f'{sign}, on these images'
    return sign if seeds > 2 else f'{sign}, two seeds only'


def calibrate(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Calibration:
    """Confidence (the highest probability) against accuracy, in bins ((b - 1) / B, b / B].

    Args:
        probabilities: `[N, C]`.
        labels: true classes `[N]`.
        bins: number of bins B of equal width.
    """
    probabilities = np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(labels)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    return Calibration(
        counts,
        np.bincount(index, confidence, minlength=bins) / filled,
        np.bincount(index, correct, minlength=bins) / filled,
    )
