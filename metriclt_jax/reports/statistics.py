"""Statistics of a report: over trainings, over test images, and of calibration."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from metriclt_jax.data.splits import group_numbers

CONFIDENCE = 0.95
BINS = 15  # of the calibration error, as in Guo et al. 2017
RESAMPLES = 10_000
_ROUNDING = 1e-9  # differences that vary by less are equal


class Interval(NamedTuple):
    """Covers a true value at the level `CONFIDENCE`; NaN where there is no interval."""

    low: float = math.nan
    high: float = math.nan


class Difference(NamedTuple):
    """A difference with its interval, and the p-value of the hypothesis that it is zero."""

    value: float
    interval: Interval
    p: float


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


def trainings_interval(differences: Sequence[float], test_share: float = 0.0) -> Interval:
    """Student's interval of the mean of paired differences over trainings: seeds or folds.

    It needs two that differ. Folds have training images in common, so that their J differences
    vary too little: the variance of the mean is taken times 1 / J + n_test / n_train (Nadeau and
    Bengio, 2003), where `test_share` is the share of all images that a fold tests.
    """
    from scipy import stats

    count = len(differences)
    if count < 2 or np.ptp(differences) < _ROUNDING:
        return Interval()
    error = np.std(differences, ddof=1) * math.sqrt(1 / count + test_share / (1 - test_share))
    half = stats.t.ppf((1 + CONFIDENCE) / 2, count - 1) * error
    mean = float(np.mean(differences))
    return Interval(float(mean - half), float(mean + half))


def bootstrap(
    first: ArrayLike,
    second: ArrayLike,
    labels: ArrayLike,
    classes: Sequence[int],
    groups: ArrayLike | None = None,
) -> Difference:
    """Difference in mean class recall with a bootstrap interval, paired over the same images.

    Whole groups (lesions, patients) are drawn with replacement, since images of one are not
    independent: of the n of each set of classes n - 1, times n / (n - 1), without which a rare
    class would vary too little (Rao and Wu, 1988). The trained networks are given.

    `first` and `second` `[N]` are the shares of the runs of two methods that are right about an
    image of class `labels` `[N]`; zeros as `second` give the interval of one recall, a mean over
    `classes`. Without `groups` `[N]`, as of group '', images are independent.
    """
    gain, labels = np.subtract(first, second, dtype=float), np.asarray(labels)
    chosen = np.flatnonzero(np.isin(labels, classes))
    if not len(chosen):
        return Difference(math.nan, Interval(), math.nan)
    _, labels = np.unique(labels[chosen], return_inverse=True)
    of_chosen = np.full(len(chosen), '') if groups is None else np.asarray(groups)[chosen]
    _, group_of = np.unique(group_numbers(of_chosen), return_inverse=True)
    # What a group adds to the images [G, C] of the classes and to the gains among them.
    sums = np.zeros((2, group_of.max() + 1, labels.max() + 1))
    np.add.at(sums, (0, group_of, labels), 1)
    np.add.at(sums, (1, group_of, labels), gain[chosen])
    difference = float(np.mean(sums[1].sum(axis=0) / sums[0].sum(axis=0)))

    strata = np.unique(sums[0] == 0, axis=0, return_inverse=True)[1].ravel()
    rng = np.random.default_rng(0)
    drawn = np.zeros((2, RESAMPLES, sums.shape[2]))
    for stratum in range(strata.max() + 1):
        # Groups with equal sums are interchangeable, and there are few different ones.
        members = np.concatenate(sums[:, strata == stratum].round(12), axis=1)
        values, counts = np.unique(members, axis=0, return_counts=True)
        number = counts.sum()
        times = counts[None]
        if number > 1:
            times = rng.multinomial(number - 1, counts / number, size=RESAMPLES)
        share = number / times.sum(axis=1, keepdims=True)
        drawn += (share * times @ values).reshape(len(times), 2, -1).swapaxes(0, 1)
    draws = np.mean(drawn[1] / drawn[0], axis=1)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    opposite = min(np.sum(draws <= _ROUNDING), np.sum(draws >= -_ROUNDING))
    p = min(1.0, 2 * (1 + opposite) / (1 + RESAMPLES))
    return Difference(difference, Interval(float(low), float(high)), p)


def holm(p_values: ArrayLike) -> np.ndarray:
    """P-values `[K]` corrected for K comparisons (Holm, 1979)."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind='stable')
    steps = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1.0)
    return corrected


def verdict(difference: float, over_trainings: Interval, p_images: float, trainings: int) -> str:
    """What may be claimed: a sign only where all that exists speaks for it.

    That is an interval over trainings, and the corrected p-value over images, NaN for none.
    """
    has_trainings, has_images = not math.isnan(over_trainings.low), not math.isnan(p_images)
    if not has_trainings and not has_images:
        return 'no interval'
    low = over_trainings.low if difference > 0 else -over_trainings.high
    if low <= 0 or p_images >= 1 - CONFIDENCE:  # a comparison with NaN is false
        return 'no difference shown'
    sign = 'higher' if difference > 0 else 'lower'
    if not has_trainings:
        return f'{sign}, for these trained networks'
    if not has_images:
        return f'{sign}, on these images'
    return sign if trainings > 2 else f'{sign}, two trainings only'


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
