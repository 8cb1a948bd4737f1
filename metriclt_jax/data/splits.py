"""Training, validation and test part of a data set, as index arrays.

'paper' splits the images of each class at random, as published. 'grouped' keeps all images of one
group (lesion, patient) in one part; trust its numbers, since image-level splits put near-duplicates
of training images into the test part. 'official' uses the data set's own parts. Each returns, for
all PARTS, the indices of its images, ascending, int64 `[n]`.
"""

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from metriclt_jax.data.sampling import generator
from metriclt_jax.errors import InputError

Array, Names = np.ndarray, Sequence[str]
PARTS = ('train', 'validation', 'test')


def choose(group_ids: np.ndarray, named: np.ndarray) -> str:
    """Returns the mode for images `[N]` with these groups and parts of the source ('' if unknown).

    A single part says nothing: a table that lists training images only is to be divided.

    >>> choose(np.array(['p', 'q']), np.array(['train', 'train']))
    'grouped'
    """
    if len(set(named.tolist()) - {''}) > 1:
        return 'official'
    return 'grouped' if np.any(group_ids != '') else 'paper'


def part_counts(count: int, fractions: Sequence[float]) -> tuple[int, int, int]:
    """Returns how many of `count` images of one class go to each part.

    Half-up(f_train N) to training, N - floor((1 - f_test) N) to test, the rest to validation; this
    gives table 1 of the paper. If nothing is left for the rest, the test part shrinks.

    >>> part_counts(6705, (0.75, 0.05, 0.2))
    (5029, 335, 1341)
    """
    # Decimal fractions are taken exactly: 0.05 is 1/20, unlike its binary form.
    train, validation, test = (Fraction(f).limit_denominator(10**6) for f in fractions)
    num_train = math.floor(train * count + Fraction(1, 2))
    num_test = count - num_train
    if validation > 0:
        num_test = min(num_test, count - math.floor((1 - test) * count))
    return num_train, count - num_train - num_test, num_test


def stratified(
    labels: np.ndarray, fractions: Sequence[float], seed: int, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Splits the images of each class at random (mode 'paper').

    `fractions` of training, validation and test sum to 1; those of the latter two may be 0.
    """
    parts: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    for label, counts in enumerate(_targets(labels, fractions, class_names)):
        order = generator('split', seed, label).permutation(np.flatnonzero(labels == label))
        for part, chosen in zip(PARTS, np.split(order, np.cumsum(counts)[:-1]), strict=True):
            parts[part].append(chosen)
    return {part: np.sort(np.concatenate(chosen)) for part, chosen in parts.items()}


def grouped(
    labels: Array, group_ids: Array, fractions: Sequence[float], seed: int, class_names: Names
) -> dict[str, np.ndarray]:
    """Splits so that no group has images in two parts; class sizes come close to `stratified`.

    A group may have images of several classes. An image with group id '' is a group of its own.
    """
    used = [p for p, fraction in enumerate(fractions) if fraction > 0]
    target = np.array(_targets(labels, fractions, class_names), float).T[used]
    group_of = group_numbers(group_ids)
    part_of = np.array(used)[_deal(labels, group_of, target, generator('grouped split', seed))]
    for label, name in enumerate(class_names):
        if not np.isin(used, part_of[labels == label]).all():
            num_groups = len(np.unique(group_of[labels == label]))
            raise InputError(
                f'class {name} has {num_groups} groups, too few for a grouped split with '
                f'data.fractions {tuple(fractions)}: every part needs one of its images'
            )
    return {part: np.flatnonzero(part_of == p) for p, part in enumerate(PARTS)}


def folds(
    labels: Array, group_ids: Array | None, number: int, seed: int, class_names: Names
) -> np.ndarray:
    """Returns the fold of each image, int64 `[N]`, 0 to `number` - 1, for cross-validation.

    Each fold has an equal share of every class, up to one image or, where `group_ids` keep images
    together as in `grouped`, about the size of a group.
    """
    if group_ids is None:
        fold_of, dealt = np.empty(len(labels), np.int64), 0
        for label in range(len(class_names)):
            members = np.flatnonzero(labels == label)
            order = generator('folds', seed, label).permutation(members)
            fold_of[order] = (dealt + np.arange(len(order))) % number
            dealt += len(order)
    else:
        counts = np.bincount(labels, minlength=len(class_names))
        target = np.tile(counts / number, (number, 1))
        rng = generator('grouped folds', seed)
        fold_of = _deal(labels, group_numbers(group_ids), target, rng)
    for label, name in enumerate(class_names):
        reached = len(np.unique(fold_of[labels == label]))
        if reached < number:
            raise InputError(
                f'class {name} has images in {reached} of {number} folds; it needs at least one '
                'image, or group if images are kept together, per fold (data.folds)'
            )
    return fold_of


def cross_validation(
    labels: Array,
    group_ids: Array | None,
    number: int,
    fold: int,
    fractions: Sequence[float],
    seed: int,
    class_names: Names,
) -> dict[str, np.ndarray]:
    """Tests on one of the `number` `folds`; divides the others into training and validation part.

    The two have the ratio that they have in `fractions`, whose test part does not matter.
    """
    _require_fractions(fractions)
    test = folds(labels, group_ids, number, seed, class_names) == fold
    rest = np.flatnonzero(~test)
    validation = fractions[1] / (fractions[0] + fractions[1])
    shares = (1 - validation, validation, 0.0)
    if group_ids is None:
        parts = stratified(labels[rest], shares, seed, class_names)
    else:
        parts = grouped(labels[rest], group_ids[rest], shares, seed, class_names)
    return {part: rest[indices] for part, indices in parts.items()} | {'test': np.flatnonzero(test)}


def official(named: np.ndarray, names: Mapping[str, Sequence[str]]) -> dict[str, np.ndarray]:
    """Assembles the parts from those of the source (mode 'official').

    `named` `[N]` is the part of each image in the source, '' if none; `names` are, for each of
    PARTS, the names in `named` that form it. Other images are in no part.
    """
    taken = [name for part in PARTS for name in names[part]]
    for part in PARTS:
        require_parts(f'data.{part}_parts', names[part], named, taken)
    return {part: np.flatnonzero(np.isin(named, list(names[part]))) for part in PARTS}


def require_parts(field: str, names: Sequence[str], named: np.ndarray, taken: list[str]) -> None:
    """Refuses names that are not parts of the source, or occur several times in `taken`."""
    known = sorted(set(named.tolist()) - {''})
    for name in names:
        if name not in known or taken.count(name) > 1:
            raise InputError(
                f'{field} has {name!r}, which is unknown or used twice; use each of '
                f'{", ".join(known)} once, or data.validation_parts=() for none'
            )


def group_numbers(group_ids: np.ndarray) -> np.ndarray:
    """Numbers groups from 0 on, `[N]`; an image with group id '' is a group of its own."""
    names, group_of = np.unique(group_ids, return_inverse=True)
    alone = np.flatnonzero(np.asarray(group_ids) == '')
    group_of[alone] = len(names) + np.arange(len(alone))
    return group_of


def _deal(labels, group_of, target, rng: np.random.Generator) -> np.ndarray:
    """Deals out whole groups to P parts of about `target` `[P, C]` images; returns the parts `[N]`.

    From large to small, in random order among equals, a group goes to the part where it lowers
    sum((size - target)^2 / target) over its classes most.
    """
    sizes = np.zeros((group_of.max() + 1, target.shape[1]), np.int64)  # [G, C]
    np.add.at(sizes, (group_of, labels), 1)
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order].sum(axis=1), kind='stable')]
    filled = np.zeros_like(target)
    part_of = np.empty(len(sizes), np.int64)
    for group in order:
        classes = np.flatnonzero(sizes[group])
        size, aim, have = sizes[group, classes], target[:, classes], filled[:, classes]
        change = ((have + size - aim) ** 2 - (have - aim) ** 2) / aim
        part_of[group] = best = int(np.argmin(change.sum(axis=1)))
        filled[best, classes] += size
    return part_of[group_of]


def _targets(labels, fractions, class_names) -> list[tuple[int, int, int]]:
    """Returns the sizes of the parts of each class, or says which class is too small."""
    _require_fractions(fractions)
    targets = []
    for label, name in enumerate(class_names):
        targets.append(part_counts(int(np.sum(labels == label)), fractions))
        for part, fraction, count in zip(PARTS, fractions, targets[-1], strict=True):
            if fraction > 0 and count == 0:
                raise InputError(
                    f'class {name} has {sum(targets[-1])} images, too few for data.fractions '
                    f'{tuple(fractions)}: none is left for the {part} part; use others, such as '
                    '(0.75, 0.0, 0.25), or data.split=official if the data set has parts'
                )
    return targets


def _require_fractions(fractions: Sequence[float]) -> None:
    fits = len(fractions) == len(PARTS) and fractions[0] > 0 and min(fractions) >= 0
    if not (fits and abs(sum(fractions) - 1) < 1e-6):
        raise InputError(
            f'data.fractions is {tuple(fractions)}; it must be three numbers that sum to 1, above '
            '0 for training, 0 or more for validation and test'
        )
