"""Metrics of imbalanced classification, on the host: NumPy in, plain Python numbers out.

A confusion matrix `[C, C]` has a row for each true class and a column for each predicted one. All
metrics are fractions. A class without examples is an error unless `classes` leaves it out: a recall
of 0, or a mean that leaves it out unasked, would look like a result.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from metriclt_jax.class_groups import class_groups, class_thirds
from metriclt_jax.errors import InputError, TrainingDiverged

__all__ = [
    'accuracy',
    'class_groups',
    'class_thirds',
    'macro_auroc',
    'macro_f1',
    'mean_class_recall',
    'summarize',
]


def mean_class_recall(confusion: ArrayLike, classes: Sequence[int] | None = None) -> float:
    """Mean class recall (MCR); over all classes it is also called balanced accuracy.

    Args:
        confusion: counts `[C, C]`, rows are true classes.
        classes: indices of the classes to average over; None takes all.

    Raises:
        InputError: `classes` is empty or has an unknown class or one without examples.

    >>> mean_class_recall([[8, 2], [5, 5]])
    0.65
    >>> mean_class_recall([[8, 2], [5, 5]], classes=[1])
    0.5
    """
    confusion = _square(confusion)
    classes = list(range(len(confusion)) if classes is None else classes)
    if not classes or not all(0 <= c < len(confusion) for c in classes):
        raise InputError(
            f'classes to average the recall over are {classes}; they must be among '
            f'0 to {len(confusion) - 1}'
        )
    _require_examples(confusion.sum(axis=1), classes)
    return float(np.mean(np.diag(confusion)[classes] / confusion.sum(axis=1)[classes]))


def accuracy(confusion: ArrayLike) -> float:
    """Fraction of correct predictions.

    >>> accuracy([[8, 2], [5, 5]])
    0.65
    """
    confusion = _square(confusion)
    if confusion.sum() == 0:
        raise InputError('confusion matrix counts no example, so there is no accuracy')
    return float(np.trace(confusion) / confusion.sum())


def macro_f1(confusion: ArrayLike, classes: Sequence[int] | None = None) -> float:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN).

    `classes` are those to average over, None takes all; predictions of any class count.

    Raises:
        InputError: one of them has no example.
    """
    confusion = _square(confusion)
    classes = list(range(len(confusion)) if classes is None else classes)
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    _require_examples(true, classes)
    return float(np.mean((2 * np.diag(confusion) / np.maximum(true + predicted, 1))[classes]))


def macro_auroc(
    probabilities: ArrayLike, labels: ArrayLike, classes: Sequence[int] | None = None
) -> float:
    """Mean over the classes of the area under the one-versus-rest ROC curve.

    Takes scores `[N, C]` and true classes `[N]`; `classes` are those to average over, None takes
    all. Ties count one half (the Mann-Whitney statistic).

    Raises:
        InputError: one of them has no example or no counterexample.
        TrainingDiverged: a score is not finite.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    classes = list(range(probabilities.shape[1]) if classes is None else classes)
    _require_finite(probabilities)
    positives = np.bincount(labels, minlength=probabilities.shape[1])
    _require_examples(positives, classes)
    _require_examples(len(labels) - positives, classes, kind='counterexamples')
    return float(np.mean([_auroc(probabilities[:, c], labels == c) for c in classes]))


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    n = np.count_nonzero(positive)
    return (rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def summarize(
    probabilities: ArrayLike | None,
    labels: ArrayLike | None,
    confusion: ArrayLike,
    groups: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
) -> dict:
    """All metrics of N examples, ready for JSON.

    These are `mcr_all`, `mcr_GROUP` for each of `groups`, `accuracy`, `macro_f1`, `macro_auroc`
    (fractions) and `confusion` (nested lists of int). Where some classes have no example, the means
    are over the others, `classes_without_images` names them, and what is left without any class is
    None, as is `macro_auroc` without `probabilities`.
    """
    scored = probabilities is not None
    if scored:
        _require_finite(probabilities)
    confusion = _square(confusion)
    counts = confusion.sum(axis=1)
    present = np.flatnonzero(counts).tolist()

    def recall(members: Sequence[int]) -> float | None:
        members = [c for c in members if counts[c]]
        return mean_class_recall(confusion, members) if members else None

    summary = {
        'mcr_all': recall(present),
        **{f'mcr_{name}': recall(members) for name, members in groups.items()},
        'accuracy': accuracy(confusion),
        'macro_f1': macro_f1(confusion, present),
        'macro_auroc': (
            macro_auroc(probabilities, labels, present) if scored and len(present) > 1 else None
        ),
    }
    if len(present) < len(counts):
        missing = np.flatnonzero(counts == 0)
        summary['classes_without_images'] = [class_names[c] for c in missing]
    return summary | {'confusion': confusion.tolist()}


def _square(confusion: ArrayLike) -> np.ndarray:
    confusion = np.asarray(confusion).astype(np.int64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(
            f'confusion matrix has the shape {list(confusion.shape)}; it must be [C, C]'
        )
    return confusion


def _require_finite(probabilities: ArrayLike) -> None:
    bad = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))
    if len(bad):
        raise TrainingDiverged(f'probabilities of example {bad[0]} are not finite')


def _require_examples(counts: np.ndarray, classes: Sequence[int], kind: str = 'examples') -> None:
    for c in classes:
        if counts[c] == 0:
            raise InputError(f'class {c} has no {kind} to evaluate, so its metrics are undefined')
