"""Label arithmetic at full size: which image is in which part, without any image."""

import csv
import hashlib
import io
import os
import zipfile
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.data import dataset as dataset_module
from metriclt_jax.data import prepare
from metriclt_jax.data.dataset import describe_division, divide, load_dataset
from metriclt_jax.data.defaults import DEFAULTS, data_config
from metriclt_jax.data.splits import PARTS
from metriclt_jax.errors import InputError

SKIN7 = {'MEL': 1113, 'NV': 6705, 'BCC': 514, 'AKIEC': 327, 'BKL': 1099, 'DF': 115, 'VASC': 142}
# Single-finding images of the public Data_Entry_2017.csv; of the other five findings some number.
XRAY = {
    'Atelectasis': 4212, 'Cardiomegaly': 1094, 'Effusion': 3959, 'Infiltration': 500,
    'Mass': 2138, 'Nodule': 2706, 'Pneumonia': 50, 'Pneumothorax': 2199, 'Consolidation': 70,
    'Edema': 634, 'Emphysema': 895, 'Fibrosis': 60, 'Pleural_Thickening': 80, 'Hernia': 110,
}  # fmt: skip
# Training, validation and test images of PathMNIST (Yang et al. 2023), in the order of its labels.
PATHMNIST = {
    'ADI': (9366, 1041, 1338),
    'BACK': (9509, 1057, 847),
    'DEB': (10360, 1152, 339),
    'LYM': (10401, 1156, 634),
    'MUC': (8006, 890, 1035),
    'MUS': (12182, 1354, 592),
    'NORM': (7886, 877, 741),
    'STR': (9401, 1045, 421),
    'TUM': (12885, 1432, 1233),
}


def config(name, **fields):
    data = data_config(name)
    data.update(fields)
    return data.lock()


def shuffled(counts):
    """Labels of classes of these sizes, `{part: [C]}` or `[C]`, in random order, and the parts."""
    if not isinstance(counts, dict):
        counts = {'': counts}
    labels = np.concatenate([np.repeat(np.arange(len(n)), n) for n in counts.values()])
    official = np.repeat([*counts], [sum(n) for n in counts.values()])
    order = np.random.default_rng(0).permutation(len(labels))
    return labels[order], official[order]


def result(data, names, counts, group_ids=None):
    labels, official = shuffled(counts)
    group_ids = np.full(len(labels), '') if group_ids is None else group_ids
    return divide(data, names, labels, group_ids, official)


def sizes(names, labels, parts):
    return {
        part: np.bincount(labels[indices], minlength=len(names)).tolist()
        for part, indices in parts.items()
    }


def table_1(names, labels, parts):
    """N min, N max and ratio; 3158 / 83 is 38.048, which the paper rounds to 38.05 and 38.1."""
    train = sizes(names, labels, parts)['train']
    ratio = Decimal(max(train)) / min(train)
    for places in ('.01', '.1'):
        ratio = ratio.quantize(Decimal(places), ROUND_HALF_UP)
    return min(train), max(train), float(ratio)


def digest(parts):
    everything = hashlib.sha256()
    for part in PARTS:
        everything.update(parts[part].astype('<i8').tobytes() + part.encode())
    return everything.hexdigest()[:16]


# What results rely on: these arrays may never change


PAPER = {'fractions': (0.75, 0.05, 0.2)}


@pytest.mark.parametrize(
    ('fields', 'expected'),
    [
        ({}, '54b82a7657c6d3d5'),
        (PAPER, '5edbf2524763b708'),
        ({**PAPER, 'imbalance_ratio': 0.0}, '81f8c5814e3588f5'),
    ],
)
def test_parts_of_the_digits_are_what_they_were(fields, expected):
    labels = load_digits().target
    nothing = np.full(len(labels), '')
    parts = divide(config('digits_lt', **fields), tuple('0123456789'), labels, nothing, nothing)[2]
    assert digest(parts) == expected


@pytest.mark.parametrize('grouped', [False, True])
def test_folds_leave_the_parts_of_the_source_aside(grouped):
    counts = {'train': [30, 20], 'test': [10, 20]}
    groups = np.array([f'p{i // 2}' for i in range(80)]) if grouped else None
    tested = []
    for fold in range(4):
        data = config('folder', folds=4, fold=fold)
        _, labels, parts = result(data, 'ab', counts, groups)
        tested.append(parts['test'])
        if grouped:
            train, test = (set(groups[parts[part]]) for part in ('train', 'test'))
            assert not train & test
    assert sorted(np.concatenate(tested)) == list(range(80))
    labels, official = shuffled(counts)
    ids = np.full(80, '') if groups is None else groups
    said = describe_division(data, labels, ids, official, parts)
    assert 'fold 3 of 4' in said
    assert 'source' not in said


@pytest.mark.parametrize(
    ('split', 'expected'), [('paper', '7074f98ab99fd594'), ('grouped', '3bba81f40d5c0159')]
)
def test_parts_of_counts_like_skin7_are_what_they_were(split, expected):
    counts = [*SKIN7.values()]
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(7), counts))
    groups = np.array([f'{label}_{index // 2}' for index, label in enumerate(labels)])
    data = config('skin7', split=split)
    assert digest(divide(data, [*SKIN7], labels, groups, np.full(10015, ''))[2]) == expected


def test_parts_of_the_real_skin7_are_what_they_were():
    if not os.environ.get('METRICLT_DATA'):
        pytest.skip('METRICLT_DATA names no folder with isic2018_task3_200x150.zip')
    tables = {}
    with zipfile.ZipFile(Path(os.environ['METRICLT_DATA']) / 'isic2018_task3_200x150.zip') as file:
        for name in file.namelist():
            if name.endswith('.csv'):
                text = io.StringIO(file.read(name).decode())
                rows = sorted(csv.DictReader(text), key=lambda row: row['image'])
                tables[name.rsplit('_', 1)[-1]] = rows
    labels = [[row[name] for name in SKIN7].index('1.0') for row in tables['GroundTruth.csv']]
    lesions = [row['lesion_id'] for row in tables['LesionGroupings.csv']]
    for split, expected in [('paper', '2cd898c20c2742ea'), ('grouped', 'fb30c6e3fca89d59')]:
        columns = np.array(labels), np.array(lesions), np.full(10015, '')
        names, new, parts = divide(config('skin7', split=split), [*SKIN7], *columns)
        assert digest(parts) == expected
        assert table_1(names, new, parts) == (86, 5029, 58.5)


# Table 1


def test_skin7_is_that_of_table_1():
    names, labels, parts = result(config('skin7'), [*SKIN7], [*SKIN7.values()])
    assert table_1(names, labels, parts) == (86, 5029, 58.5)
    train = dict(zip(names, sizes(names, labels, parts)['train'], strict=True))
    assert [train[n] for n in ('NV', 'MEL', 'BKL', 'BCC', 'AKIEC', 'VASC', 'DF')] == [
        5029, 835, 824, 386, 245, 107, 86,
    ]  # fmt: skip
    groups = configured_groups(config('skin7'), np.array([*train.values()]))
    assert {k: [names[c] for c in v] for k, v in groups.items()} == {
        'major': ['NV', 'MEL', 'BKL'],
        'minor': ['VASC', 'DF'],
    }


def test_xray9_is_that_of_table_1():
    names, labels, parts = result(config('xray9'), [*XRAY], [*XRAY.values()])
    assert table_1(names, labels, parts) == (83, 3158, 38.1)
    counts = sizes(names, labels, parts)
    assert counts['train'] == [3158, 2966, 2029, 1646, 1601, 818, 671, 473, 83]
    assert np.sum([*counts.values()], axis=0).tolist() == [
        4210, 3955, 2705, 2195, 2135, 1090, 895, 630, 110,
    ]  # fmt: skip
    # Labels follow the chosen order; the other five findings are in no part.
    original, _ = shuffled([*XRAY.values()])
    used = np.concatenate([*parts.values()])
    assert len(used) == len(set(used)) == 17925
    assert [names[c] for c in labels[used]] == [[*XRAY][c] for c in original[used]]
    other = np.isin(np.array([*XRAY])[original], names, invert=True)
    np.testing.assert_array_equal(labels == -1, other)
    assert configured_groups(config('xray9'), np.array(counts['train'])) == {
        'major': [0, 1, 2],
        'minor': [6, 7, 8],
    }


def test_pathmnist_lt_is_that_of_table_1():
    official = dict(zip(PARTS, zip(*PATHMNIST.values(), strict=True), strict=True))
    names, labels, parts = result(config('pathmnist_lt'), [*PATHMNIST], official)
    assert table_1(names, labels, parts) == (94, 9366, 99.6)
    counts = sizes(names, labels, parts)
    assert [counts['train'][c] for c in (0, 1, 2, 8, 4, 6, 7, 5, 3)] == [
        9366, 5267, 2962, 1666, 937, 527, 296, 167, 94,
    ]  # fmt: skip
    assert sum(counts['train']) == 21282
    assert [counts[part] for part in PARTS[1:]] == [[*official[part]] for part in PARTS[1:]]


def test_flower_lt_prints_the_ratio_that_its_pool_allows():
    # 102 classes, 10 images of each in the official training and validation parts, 20 to 238 in
    # the test part, 6149 in all (Nilsback and Zisserman 2008).
    pool = np.insert(np.linspace(97, 20, 101).round().astype(int), 51, 238)
    pool[0] += 6149 - pool.sum()
    assert (len(pool), min(pool), max(pool), sum(pool)) == (102, 20, 238, 6149)
    official = {'train': [10] * 102, 'validation': [10] * 102, 'test': pool}
    names = [f'flower {number}' for number in range(102)]
    _, labels, parts = result(config('flower_lt'), names, official)
    counts = sizes(names, labels, parts)
    assert counts['validation'] == [0] * 102
    assert counts['test'] == [20] * 102
    order = np.argsort(-np.array(pool), kind='stable')
    for rank in (0, 1, 20, 50, 101):  # n_i = min(available, round(238 * 10^(-i / 101)))
        wanted = min(pool[order[rank]], int(238 * 10 ** (-rank / 101) + 0.5))
        assert counts['train'][order[rank]] == wanted
    assert table_1(names, labels, parts) == (20, 238, 11.9)  # not 10: the rarest have but 20 images
    groups = configured_groups(config('flower_lt'), np.array(counts['train']))
    assert [len(members) for members in groups.values()] == [34, 34, 34]
    assert groups['major'][0] == 51


def test_dogs_lt_has_the_published_number_of_images():
    test = [48 + 47 * (c % 2) for c in range(120)]
    names = [f'dog {number:03d}' for number in range(120)]
    _, labels, parts = result(config('dogs_lt'), names, {'train': [100] * 120, 'test': test})
    counts = sizes(names, labels, parts)
    assert table_1(names, labels, parts) == (10, 100, 10.0)
    assert counts['train'][0] == 100
    assert counts['train'][-1] == 10
    assert np.all(np.diff(counts['train']) <= 0)  # in alphabetical order
    assert sum(counts['train']) == 4646
    assert counts['test'] == test
    groups = configured_groups(config('dogs_lt'), np.array(counts['train']))
    assert groups['medium'] == list(range(40, 80))


# Properties


def test_subsets_for_larger_ratios_lie_in_those_for_smaller_ones():
    official = dict(zip(PARTS, zip(*PATHMNIST.values(), strict=True), strict=True))
    previous = None
    for ratio in (1.0, 10.0, 50.0, 100.0, 500.0):
        parts = result(config('pathmnist_lt', imbalance_ratio=ratio), [*PATHMNIST], official)[2]
        if previous is not None:
            assert set(parts['train']) < set(previous['train'])
            for part in ('validation', 'test'):
                np.testing.assert_array_equal(parts[part], previous[part])
        previous = parts
    other = config('pathmnist_lt', imbalance_ratio=500.0, split_seed=1)
    other = result(other, [*PATHMNIST], official)[2]
    assert len(other['train']) == len(previous['train'])
    assert not np.array_equal(other['train'], previous['train'])


@pytest.mark.parametrize(
    ('name', 'fields', 'message'),
    [
        ('folder', {'classes': ('a', 'd')}, "data.classes has 'd'"),
        ('folder', {'classes': ('a', 'b', 'a')}, "data.classes has 'a'.*twice"),
        ('folder', {'split': 'grouped'}, 'folder has no groups; use paper$'),
        ('folder', {'split': 'official'}, 'folder has no official parts; use paper$'),
        ('dogs_lt', {'split': 'grouped'}, 'dogs_lt has no groups; use paper or official'),
        ('dogs_lt', {'validation_parts': ('val',)}, r'odd, test, train.*=\(\)'),
        ('dogs_lt', {'split': 'paper', 'divided_parts': ('trian',)}, "divided_parts has 'trian'"),
        ('folder', {'multiple_of': 64}, 'class a has 0 images'),
        ('dogs_lt', {'train_parts': ('trian',)}, "data.train_parts has 'trian'"),
        ('dogs_lt', {'train_parts': ('odd',)}, 'the train part of dogs_lt has no image of a, c'),
        ('dogs_lt', {'imbalance_ratio': 41.0}, 'data.imbalance_ratio is 41.0; .* at most 40'),
        ('dogs_lt', {'imbalance_ratio': 0.5}, 'data.imbalance_ratio is 0.5'),
    ],
)
def test_fields_that_do_not_fit_the_data(name, fields, message):
    counts = [40, 50, 60]
    if name == 'dogs_lt':
        counts = {'train': counts, 'test': [5, 5, 5], 'odd': [0, 3, 0]}
    with pytest.raises(InputError, match=message):
        result(config(name, **fields), [*'abc'], counts)


@pytest.mark.parametrize('split', ['paper', 'grouped'])
def test_official_validation_and_test_images_are_not_divided(split):
    """Skin7 with the official validation and test archives beside those of the training."""
    counts = [*SKIN7.values()]
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(7), counts))
    groups = np.array([f'{label}_{index // 2}' for index, label in enumerate(labels)])
    data = config('skin7', split=split)
    alone = divide(data, [*SKIN7], labels, groups, np.full(10015, ''))[2]

    more = rng.integers(0, 7, 1705)
    official = np.repeat(['train', 'validation', 'test'], [10015, 193, 1512])
    columns = np.concatenate([labels, more]), np.append(groups, np.full(1705, '')), official
    assert digest(divide(data, [*SKIN7], *columns)[2]) == digest(alone)
    everything = config('skin7', split=split, divided_parts=())
    assert sum(map(len, divide(everything, [*SKIN7], *columns)[2].values())) == 11720
    parts = divide(config('skin7', split='official'), [*SKIN7], *columns)[2]
    assert [len(indices) for indices in parts.values()] == [10015, 193, 1512]


def test_there_are_defaults_for_each_data_set_that_can_be_prepared():
    from metriclt_jax.data.preparation import READERS

    assert set(DEFAULTS) == set(READERS)


def test_default_classes_are_those_that_the_readers_give():
    from metriclt_jax.data.sources import medmnist, xray9

    assert set(DEFAULTS['xray9']['classes']) < set(xray9.CLASS_NAMES)
    assert [*PATHMNIST] == medmnist.PUBLISHED['pathmnist']['class_names']
    for name, published in medmnist.PUBLISHED.items():
        if name != 'pathmnist':
            groups = configured_groups(data_config(name), np.ones(len(published['class_names'])))
            assert set(groups) == {'major', 'minor'}


@pytest.mark.parametrize(
    ('fields', 'message'),
    [({'fractions': (0.9, 0.0, 0.2)}, 'data.fractions'), ({'major': 9, 'minor': 9}, 'data.major')],
)
def test_what_cannot_be_divided_is_refused_before_images_are_decoded(
    fields, message, tmp_path, monkeypatch
):
    prepare('digits_lt', None, tmp_path)
    monkeypatch.setattr(dataset_module, 'open_cache', lambda *a: pytest.fail('decodes'))
    with pytest.raises(InputError, match=message):
        load_dataset(config('digits_lt', data_dir=str(tmp_path), **fields))
