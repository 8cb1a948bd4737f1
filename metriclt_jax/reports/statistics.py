"""Statistics of a report: over seeds, over test images, and of calibration."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
BINS = 15  # of the calibration error, as in Guo et al. 2017
RESAMPLES = 10_000
_ROUNDING = 1e-9  # differences that vary by less are equal


class Interval(NamedTuple):
    """Covers a true value at the level `CONFIDENCE`; NaN where there is no interval."""

    low: float = math.nan
    high: float = math.nan


class Calibration(NamedTuple):
    """Predictions in bins `[B]` of equal width of confidence; means of empty bins are NaN."""

    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray
    error: float  # expected calibration error (Naeini et al. 2015, Guo et al. 2017)


def best_and_second(values: Sequence[float | None]) -> list[str]:
    """'bold' for the highest of values rounded as printed, 'underline' for the next, else ''."""
    known = {value for value in values if value is not None and not math.isnan(value)}
    marks = dict(zip(sorted(known, reverse=True), ('bold', 'underline'), strict=False))
    return [marks.get(value, '') for value in values]


def seeds_interval(first: Sequence[float], second: Sequence[float]) -> Interval:
    """Student's interval of the mean of `first - second`, paired over seeds.

    It needs two seeds and differences that vary. It covers the chance in training only.
    """
    from scipy import stats

    differences = np.asarray(np.subtract(first, second))
    if len(differences) < 2 or np.ptp(differences) < _ROUNDING:
        return Interval()
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(CONFIDENCE)
    return Interval(float(low), float(high))


def images_interval(
    first: ArrayLike, second: ArrayLike, labels: ArrayLike, classes: Sequence[int]
) -> Interval:
    """Bootstrap interval of a difference in mean class recall, paired over test images.

    Images are drawn with replacement within each class; the trained networks are taken as given.
    `first` and `second` `[N]` are shares of two methods' runs that predict an image correctly.
    """
    gain, labels = np.subtract(first, second, dtype=float), np.asarray(labels)
    classes = [c for c in classes if np.any(labels == c)]
    if not classes:
        return Interval()
    rng = np.random.default_rng(0)
    draws = np.zeros(RESAMPLES)
    for c in classes:
        of_class = gain[labels == c]
        # An image matters by its gain only, and there are few different gains.
        values, counts = np.unique(of_class.round(12), return_counts=True)
        drawn = rng.multinomial(len(of_class), counts / len(of_class), size=RESAMPLES)
        draws += drawn @ values / len(of_class)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws / len(classes), [tail, 1 - tail])
    return Interval(float(low), float(high))


def verdict(difference: float, over_seeds: Interval, over_images: Interval, seeds: int) -> str:
    """What may be claimed: a sign only where every interval that exists excludes zero."""
    has_seeds, has_images = (not math.isnan(i.low) for i in (over_seeds, over_images))
    if not has_seeds and not has_images:
        return 'no interval'
    # A comparison with NaN is false.
    if any((i.low if difference > 0 else -i.high) <= 0 for i in (over_seeds, over_images)):
        return 'no difference shown'
    sign = 'higher' if difference > 0 else 'lower'
    if not has_seeds:
        return f'{sign}, for these trained networks'
    if not has_images:
        return f'{sign}, on these images'
    return sign if seeds > 2 else f'{sign}, two seeds only'


def calibrate(probabilities: ArrayLike, labels: ArrayLike, bins: int = BINS) -> Calibration:
    """Confidence (the highest of the probabilities `[N, C]`) against accuracy, in bins."""
    probabilities = np.asarray(probabilities, np.float64)
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == np.asarray(labels)
    index = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    filled = np.where(counts > 0, counts, np.nan)
    sums = [np.bincount(index, values, minlength=bins) for values in (confidence, correct)]
    means, accuracy = (of_bins / filled for of_bins in sums)
    error = float(np.nansum(np.abs(accuracy - means) * counts) / counts.sum())
    return Calibration(counts, means, accuracy, error)
