"""What is in two parts, or has two labels, is counted and named."""

import dataclasses
import types

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import leaks, load_dataset, prepare
from metriclt_jax.data.defaults import data_config
from metriclt_jax.errors import InputError

PARTS = {
    'train': np.array([0, 1, 2, 3]),
    'validation': np.array([4, 5]),
    'test': np.array([6, 7, 8]),
}  # and 9 is in none
IDS = np.array([f'i{n}' for n in range(10)])
NO_GROUPS, ONE_LABEL = np.full(10, ''), np.zeros(10, int)


def find(groups=NO_GROUPS, same=(), labels=ONE_LABEL, parts=PARTS):
    contents = np.arange(10)
    for pair in same:
        contents[list(pair)] = contents[pair[0]] + 100
    return leaks.find_leaks(labels, groups, contents, parts)


def sentences(found, labels=ONE_LABEL):
    return leaks.describe(found, IDS, labels, ['mole', 'wart'])


@pytest.mark.parametrize(
    ('members', 'pairs'),
    [
        ([0, 3], []),
        ([3, 9], []),
        ([0, 4], ['train validation']),
        ([1, 2, 8], ['train test']),
        ([5, 6], ['validation test']),
        ([0, 5, 7], ['train validation', 'train test', 'validation test']),
    ],
)
def test_a_group_or_an_image_in_two_parts(members, pairs):
    groups = NO_GROUPS.astype('<U9')
    groups[members] = 'patient 1'
    found = find(groups)
    assert {' '.join(pair): ids.tolist() for pair, ids in found.groups.items()} == {
        pair: ['patient 1'] for pair in pairs
    }
    assert not found.images
    assert len(sentences(found)) == bool(pairs)

    found = find(same=[members])
    assert [' '.join(pair[::-1]) for pair in found.images] == pairs
    for (one, _), images in found.images.items():
        assert set(images) == set(members) & set(PARTS[one])
    used = [member for member in members if member != 9]
    assert found.copies.tolist() == [[member, used[0]] for member in used[1:]]
    assert len(sentences(found)) == (len(used) > 1)


def test_the_sentences_have_counts_and_names():
    groups = np.array(['p', 'q', '', '', 'p', '', 'q', 'p', '', ''])
    (of_groups, of_images) = sentences(find(groups, [(2, 6), (3, 8), (4, 5)]))
    assert '1 in train and validation (such as p), 2 in train and test' in of_groups
    assert 'data.split=grouped' in of_groups
    assert '2 of test in train (such as i6)' in of_images
    (kept,) = sentences(find(same=[(0, 3), (6, 7, 8)]))
    assert '3 copies, each in the part of its original (such as i3 of i0)' in kept
    assert sentences(find()) == []


def test_images_with_two_labels():
    labels = np.array([0, 1, 0, 0, 0, 0, 0, 1, 0, 1])
    found = find(same=[(0, 1), (2, 3), (4, 7), (5, 9)], labels=labels)
    assert found.conflicts.tolist() == [[1, 0], [7, 4]]  # 9 is in no part
    assert sentences(found, labels)[-1].endswith(
        '2, i0 (mole) and i1 (wart); i4 (mole) and i7 (wart)'
    )


def cache(*values, crc32=None):
    """A cache of one-pixel images."""
    pixels = np.array(values, np.uint8).reshape(-1, 1, 1, 1).repeat(3, axis=-1)
    crc32 = np.array(values if crc32 is None else crc32, np.uint32)
    return types.SimpleNamespace(crc32=crc32, read=lambda indices: pixels[indices])


def test_equal_checksums_are_not_enough_for_being_identical():
    assert leaks.contents_of(cache(5, 6, 5, 7)).tolist() == [0, 1, 0, 3]
    images = cache(1, 2, 1, 4, 2, crc32=[9, 9, 9, 9, 8])
    assert leaks.contents_of(images).tolist() == [0, 1, 0, 3, 4]


def test_images_that_a_run_has_seen():
    own = cache(1, 2, 3, 4, 5)
    parts = {'train': np.array([0, 1]), 'validation': np.array([3]), 'test': np.array([2, 4])}
    seen = leaks.checksums(own, parts)
    other = cache(2, 7, 3, 4, 1, crc32=[2, 1, 3, 4, 1])  # 7 has the checksum of 1 by chance
    indices = np.arange(5)
    assert leaks.seen_images(seen, other, indices) == {'train': 3, 'validation': 1}
    assert leaks.seen_images(seen, other, indices, own) == {'train': 2, 'validation': 1}
    assert leaks.seen_images(seen, other, indices[1:3], own) == {'train': 0, 'validation': 0}


@pytest.fixture
def own(tmp_path):
    """Writes, prepares and loads own images: rows of path, label, group and split."""

    def load(rows, same=(), **fields):
        source = tmp_path / 'images'
        source.mkdir()
        for number, (path, *_) in enumerate(rows):
            pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), np.uint8)
            Image.fromarray(pixels).save(source / path)
        for first, second in same:
            Image.open(source / first).save(source / second)
        table = ['path,label,group,split', *map(','.join, rows)]
        (tmp_path / 'labels.csv').write_text('\n'.join(table))
        labels = str(tmp_path / 'labels.csv')
        prepare('folder', str(source), tmp_path, 'own', labels=labels)
        config = data_config('folder')
        config.update({'name': 'own', 'data_dir': str(tmp_path), 'resize': 8, **fields})
        return load_dataset(config)

    return load


def rows(count, group='', parts=('',)):
    return [
        (f'{n}.png', 'ab'[n % 2], group and f'{group}{n // 4}', parts[n // 2 % len(parts)])
        for n in range(count)
    ]


def test_own_images_are_divided_by_what_is_known_of_them(own):
    parts = ('train', 'train', 'validation', 'test')
    dataset = own(rows(40, 'patient ', parts))
    for part, indices in dataset.parts.items():
        assert {parts[int(name[:-4]) // 2 % 4] for name in dataset.ids[indices]} == {part}
    assert '20 train, 10 validation, 10 test' in dataset.remarks[0]
    assert 'names parts' in dataset.remarks[0]
    assert 'groups' in dataset.remarks[1]  # a patient has four images, in two parts


def test_parts_without_a_validation_part(own):
    dataset = own(rows(40, parts=('train', 'test')))
    assert [len(indices) for indices in dataset.parts.values()] == [20, 0, 20]
    assert len(dataset.remarks) == 1


@pytest.mark.parametrize('part', ['', 'train'])
def test_groups_without_parts_to_test_on(own, part):
    dataset = own(rows(80, 'patient ', (part,)))
    groups = [set(dataset.groups[indices]) for indices in dataset.parts.values()]
    assert all(groups)
    assert sum(map(len, groups)) == len(set.union(*groups)) == 20
    assert 'names groups' in dataset.remarks[0]
    assert len(dataset.remarks) == 1


def test_neither_groups_nor_parts(own):
    dataset = own(rows(80))
    assert 'image by image' in dataset.remarks[0]
    assert [len(indices) for indices in dataset.parts.values()] == [60, 4, 16]
    with pytest.raises(InputError, match='own has no groups'):
        load_dataset(config_of(dataset, split='grouped'))


def test_a_split_that_is_asked_for_is_taken(own):
    dataset = own(rows(80, 'patient ', ('train', 'test')), split='grouped')
    assert 'data.split=grouped)' in dataset.remarks[0]
    assert len(dataset.remarks) == 1


def config_of(dataset, **fields):
    config = data_config('folder')
    data_dir = dataset.images.path.parents[1]
    config.update({'name': 'own', 'data_dir': str(data_dir), 'resize': 8, **fields})
    return config


def test_a_copy_in_another_format_is_named(own):
    given = rows(80)
    given[3] = ('3.bmp', *given[3][1:])
    dataset = own(given, same=[('1.png', '3.bmp')])
    (remark,) = dataset.remarks[1:]
    assert 'identical images' in remark
    assert '3.bmp' in remark


def test_a_copy_with_another_label_is_refused(own, tmp_path):
    given = [*rows(80), ('odd.bmp', 'a', '', '')]
    with pytest.raises(InputError, match=r'labels \(1\); .*: 1.png \(b\) and odd.bmp \(a\)'):
        own(given, same=[('1.png', 'odd.bmp')])
    config = data_config('folder')
    config.update({'name': 'own', 'data_dir': str(tmp_path), 'resize': 8, 'classes': ('b', 'a')})
    with pytest.raises(InputError, match='different labels'):
        load_dataset(config)


def test_published_labels_are_taken_as_published(own, monkeypatch):
    from metriclt_jax.data import dataset as module

    given = [*rows(80), ('odd.bmp', 'a', '', '')]
    open_records = module.records.open_records

    def published(*arguments):
        return dataclasses.replace(open_records(*arguments), dataset='dogs_lt')

    monkeypatch.setattr(module.records, 'open_records', published)
    dataset = own(given, same=[('1.png', 'odd.bmp')])
    assert 'identical images with different labels: 1' in dataset.remarks[-1]
