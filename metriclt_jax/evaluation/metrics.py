"""Metrics of imbalanced classification, on the host: NumPy in, plain Python numbers out.

A confusion matrix `[C, C]` has a row for each true class and a column for each predicted one. All
metrics are fractions. A class without examples is an error: a recall of 0, or leaving the class
out, would look like a result.
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


def macro_f1(confusion: ArrayLike) -> float:
    """Mean over the classes of F1 = 2 TP / (2 TP + FP + FN).

    Raises:
        InputError: a class has no example.
    """
    confusion = _square(confusion)
    _require_examples(confusion.sum(axis=1))
    true, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    return float(np.mean(2 * np.diag(confusion) / (true + predicted)))


def macro_auroc(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Mean over the classes of the area under the one-versus-rest ROC curve.

    Takes scores `[N, C]` and true classes `[N]`. Ties count one half (the Mann-Whitney statistic).

    Raises:
        InputError: a class has no example or no counterexample.
        TrainingDiverged: a score is not finite.
    """
    probabilities, labels = np.asarray(probabilities), np.asarray(labels)
    if not np.isfinite(probabilities).all():
        example = np.flatnonzero(~np.isfinite(probabilities).all(axis=1))[0]
        raise TrainingDiverged(f'probabilities of example {example} are not finite')
    positives = np.bincount(labels, minlength=probabilities.shape[1])
    _require_examples(positives)
    _require_examples(len(labels) - positives, kind='counterexamples')
    return float(np.mean([_auroc(p, labels == c) for c, p in enumerate(probabilities.T)]))


def _auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    n = np.count_nonzero(positive)
    return (rankdata(scores)[positive].sum() - n * (n + 1) / 2) / (n * (len(scores) - n))


def summarize(
    probabilities: ArrayLike,
    labels: ArrayLike,
    confusion: ArrayLike,
    groups: Mapping[str, Sequence[int]],
    class_names: Sequence[str],
) -> dict:
    """All metrics of N examples, ready for JSON; raises `InputError` if a class has none.

    These are `mcr_all`, `mcr_GROUP` for each of `groups`, `accuracy`, `macro_f1`, `macro_auroc`
    (fractions) and `confusion` (nested lists of int).
    """
    confusion = _square(confusion)
    _require_examples(confusion.sum(axis=1), names=class_names)
    recalls = {name: mean_class_recall(confusion, members) for name, members in groups.items()}
    return {
        'mcr_all': mean_class_recall(confusion),
        **{f'mcr_{name}': recall for name, recall in recalls.items()},
        'accuracy': accuracy(confusion),
        'macro_f1': macro_f1(confusion),
        'macro_auroc': macro_auroc(probabilities, labels),
        'confusion': confusion.tolist(),
    }


def _square(confusion: ArrayLike) -> np.ndarray:
    confusion = np.asarray(confusion).astype(np.int64)
    if confusion.ndim != 2 or confusion.shape[0] != confusion.shape[1]:
        raise InputError(
            f'confusion matrix has the shape {list(confusion.shape)}; it must be [C, C]'
        )
    return confusion


def _require_examples(counts, classes=None, *, names=None, kind: str = 'examples'):
    for c in range(len(counts)) if classes is None else classes:
        if counts[c] == 0:
            name = f'class {c}' if names is None else f'class {c} ({names[c]})'
            raise InputError(f'{name} has no {kind} to evaluate, so its metrics are undefined')
