import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.data import splits
from metriclt_jax.data.splits import PARTS, official, part_counts
from metriclt_jax.errors import InputError

XRAY9 = (4210, 3955, 2705, 2195, 2135, 1090, 895, 630, 110)
PAPER = (0.75, 0.05, 0.2)


def stratified(labels, fractions, seed=0, names=None):
    return splits.stratified(labels, fractions, seed, names or range(labels.max() + 1))


def grouped(labels, groups, fractions, seed=0, names=None):
    return splits.grouped(labels, groups, fractions, seed, names or range(labels.max() + 1))


def counts(labels, parts):
    return np.stack([np.bincount(labels[parts[p]], minlength=labels.max() + 1) for p in PARTS])


def assert_partition(parts, size):
    assert tuple(parts) == PARTS
    np.testing.assert_array_equal(np.sort(np.concatenate(list(parts.values()))), np.arange(size))
    for indices in parts.values():
        assert indices.dtype == np.int64
        assert np.all(np.diff(indices) > 0)


@pytest.mark.parametrize(
    ('count', 'fractions', 'expected'),
    [
        (115, PAPER, (86, 6, 23)),  # DF and VASC of Skin7, whose reported recalls imply them
        (142, PAPER, (107, 6, 29)),
        (2, (0.8, 0.0, 0.2), (2, 0, 0)),  # half up and floor would hand out three images of two
        (3, (1 / 3, 1 / 3, 1 / 3), (1, 1, 1)),
        (100, (0.71, 0.0, 0.29), (71, 0, 29)),
        (100, (0.42, 0.29, 0.29), (42, 29, 29)),  # 0.71 * 100 is 70.99999999999999 in floats
    ],
)
def test_part_counts_are_exact(count, fractions, expected):
    assert part_counts(count, fractions) == expected


@given(
    st.integers(0, 3000),
    st.integers(1, 100).flatmap(lambda a: st.tuples(st.just(a), st.integers(0, 100 - a))),
)
@settings(deadline=None, max_examples=100)
def test_part_counts_hand_out_every_image_once(count, percent):
    train, validation = percent
    fractions = (train / 100, validation / 100, (100 - train - validation) / 100)
    parts = part_counts(count, fractions)
    assert sum(parts) == count
    assert all(abs(p - f * count) <= 1.5 for p, f in zip(parts, fractions, strict=True))
    assert all(p == 0 for p, f in zip(parts, fractions, strict=True) if f == 0)


def test_stratified_is_seeded_and_random_within_each_class():
    labels = np.repeat([0, 1], [400, 100])
    parts = stratified(labels, PAPER, seed=1)
    again = stratified(labels, PAPER, seed=1)
    other = stratified(labels, PAPER, seed=2)
    for part in PARTS:
        np.testing.assert_array_equal(parts[part], again[part])
        assert not np.array_equal(parts[part], other[part])
    # 80 test images out of 400 in order would have mean 39.5 or 359.5.
    assert 150 < parts['test'][:80].mean() < 250
    # A class is split alike whatever the other classes are.
    alone = stratified(labels[:400], PAPER, seed=1)
    np.testing.assert_array_equal(parts['test'][parts['test'] < 400], alone['test'])


@pytest.mark.parametrize('split', [stratified, lambda y, *a: grouped(y, y.astype(str), *a)])
def test_a_class_that_cannot_be_in_every_part_is_named(split):
    labels = np.repeat([0, 1], [100, 16])  # of 16, 12 go to training and 4 to test
    with pytest.raises(InputError, match=r'class rare has 16 images.*validation'):
        split(labels, PAPER, 0, ('common', 'rare'))
    with pytest.raises(InputError, match='class unseen has 0 images'):
        split(labels[:100], PAPER, 0, ('common', 'unseen'))


@pytest.mark.parametrize(
    'fractions',
    [(0.75, 0.05), (0.75, 0.05, 0.1), (1.2, 0, -0.2), (0, 0.5, 0.5), (float('nan'), 0.5, 0.5)],
)
def test_impossible_fractions_are_refused(fractions):
    with pytest.raises(InputError, match=r'data\.fractions'):
        stratified(np.zeros(100, int), fractions)


def assert_grouped(labels, groups, parts):
    assert_partition(parts, len(labels))
    part_of = np.empty(len(labels), int)
    for number, part in enumerate(PARTS):
        part_of[parts[part]] = number
    for group in set(groups) - {''}:
        assert len(set(part_of[np.asarray(groups) == group])) == 1


def test_grouped_keeps_groups_together_and_class_sizes_close():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(9), XRAY9))
    # A few patients have dozens of images, of several classes; most have one or two.
    groups = np.array([f'p{n}' for n in (800 * rng.pareto(1.2, len(labels))).astype(int) % 9000])
    parts = grouped(labels, groups, PAPER, seed=0)
    assert_grouped(labels, groups, parts)
    wanted = counts(labels, stratified(labels, PAPER))
    assert np.all(np.abs(counts(labels, parts) - wanted) <= np.maximum(0.03 * wanted, 3))
    # Large groups are dealt to all parts, not only to the large one.
    size = np.unique(groups, return_counts=True)[1][np.unique(groups, return_inverse=True)[1]]
    assert np.ptp([size[parts[part]].mean() for part in PARTS]) < 0.1 * size.mean()
    other = grouped(labels, groups, PAPER, seed=1)
    assert not np.array_equal(parts['test'], other['test'])


@given(
    images=st.integers(50, 400),
    number=st.integers(3, 150),
    mixed=st.booleans(),
    seed=st.integers(0, 1000),
    fractions=st.sampled_from([PAPER, (0.6, 0.2, 0.2), (0.7, 0.0, 0.3)]),
)
@settings(deadline=None, max_examples=60)
def test_grouped_never_divides_a_group(images, number, mixed, seed, fractions):
    rng = np.random.default_rng(seed)
    group = rng.integers(0, number, images)
    labels = rng.integers(0, 3, images) if mixed else group % 3
    groups = np.where(group == 0, '', group.astype(str))
    with contextlib.suppress(InputError):  # a class with too few images or groups
        parts = grouped(labels, groups, fractions, seed)
        assert_grouped(labels, groups, parts)
        for part, fraction in zip(PARTS, fractions, strict=True):
            assert set(labels[parts[part]]) == (set(labels) if fraction else set())


def test_grouped_treats_an_image_without_group_as_its_own():
    labels = np.repeat([0, 1], [200, 100])
    parts = grouped(labels, np.full(300, ''), PAPER)
    np.testing.assert_array_equal(counts(labels, parts), counts(labels, stratified(labels, PAPER)))


def test_grouped_names_a_class_with_too_few_groups():
    labels = np.repeat([0, 1], [100, 60])
    groups = np.array([str(i) for i in range(100)] + ['x'] * 50 + ['y'] * 10)
    with pytest.raises(InputError, match='class rare has 2 groups'):
        grouped(labels, groups, PAPER, 0, ('common', 'rare'))


NAMED = np.array(['test', 'train', 'other', 'test', 'validation', 'train', ''])


def test_official_puts_the_parts_of_the_source_together():
    swapped = {'train': ('test', 'other'), 'validation': (), 'test': ('validation', 'train')}
    parts = official(NAMED, swapped)
    assert tuple(parts) == PARTS
    assert {part: indices.tolist() for part, indices in parts.items()} == {
        'train': [0, 2, 3],
        'validation': [],
        'test': [1, 4, 5],
    }


@pytest.mark.parametrize(
    ('names', 'message'),
    [
        ({'train': ['tain'], 'validation': [], 'test': ['test']}, "data.train_parts has 'tain'"),
        ({'train': ['train'], 'validation': ['test'], 'test': ['test']}, "'test', .*twice"),
    ],
)
def test_official_refuses_names_that_are_unknown_or_repeated(names, message):
    with pytest.raises(InputError, match=f'{message}.*other, test, train, validation'):
        official(NAMED, names)


@given(
    images=st.integers(60, 400),
    number=st.sampled_from([2, 3, 5]),
    size=st.integers(1, 6),
    seed=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=60)
def test_folds_test_every_image_once_and_share_classes_equally(images, number, size, seed):
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(images) % 7 // 3)  # classes of 3, 3 and 1 sevenths
    within = rng.integers(0, images // size + 1, images)
    groups = np.array([f'{label} {n}' for label, n in zip(labels, within, strict=True)])
    for owners in (None, groups):
        with contextlib.suppress(InputError):  # a class with fewer groups than folds
            fold_of = splits.folds(labels, owners, number, seed, range(3))
            shares = np.stack(
                [np.bincount(labels[fold_of == k], minlength=3) for k in range(number)]
            )
            if owners is None:
                largest = 1
                assert np.ptp(shares.sum(axis=1)) <= 1
            else:
                largest = np.unique(groups, return_counts=True)[1].max()
                assert all(len(set(fold_of[groups == group])) == 1 for group in set(groups))
            assert np.all(np.ptp(shares, axis=0) <= largest)


@pytest.mark.parametrize('owned', [False, True])
def test_cross_validation_is_a_partition_for_each_fold(owned):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat([0, 1, 2], [600, 200, 50]))
    groups = rng.integers(0, 300, len(labels)).astype(str) if owned else None
    tested = []
    for fold in range(5):
        parts = splits.cross_validation(labels, groups, 5, fold, PAPER, 0, 'abc')
        assert_partition(parts, len(labels))
        if owned:
            assert_grouped(labels, groups, parts)
        wanted = np.outer(PAPER, np.bincount(labels))
        assert np.all(np.abs(counts(labels, parts) - wanted) <= 0.05 * wanted + 6)
        tested.append(parts['test'])
    np.testing.assert_array_equal(np.sort(np.concatenate(tested)), np.arange(len(labels)))


def test_folds_are_the_same_on_every_machine():
    labels = np.repeat([0, 1], [7, 5])
    assert splits.folds(labels, None, 3, 0, 'ab').tolist() == [1, 0, 0, 1, 2, 0, 2, 2, 1, 0, 2, 1]
    groups = np.array(list('aabbccddeeff'))
    assert splits.folds(labels, groups, 3, 0, 'ab').tolist() == [2, 2, 1, 1, 0, 0, 2, 2, 0, 0, 1, 1]


@pytest.mark.parametrize('fractions', [(0.0, 0.0, 1.0), (1.0,), (0.5, 0.6, -0.1)])
def test_fractions_are_checked_with_folds_too(fractions):
    with pytest.raises(InputError, match=r'data\.fractions'):
        splits.cross_validation(np.arange(20) % 2, None, 2, 0, fractions, 0, 'ab')


def test_a_class_with_fewer_groups_than_folds_is_named():
    labels = np.repeat([0, 1], [50, 8])
    groups = np.array([str(n) for n in range(50)] + ['x', 'y'] * 4)
    for owners, number in ((None, 10), (groups, 5)):
        with pytest.raises(InputError, match=r'rare.*data\.folds'):
            splits.folds(labels, owners, number, 0, ('common', 'rare'))
