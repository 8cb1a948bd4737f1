import hashlib
import io
import re
import zipfile

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import load_dataset, prepare, records
from metriclt_jax.data.defaults import data_config
from metriclt_jax.data.sources import medmnist

COUNTS = {'train': 27, 'val': 9, 'test': 18}


def arrays(size=28, channels=3, classes=9):
    """The arrays of an official file, with every class in every part."""
    random = np.random.default_rng(size)
    shape = (size, size, 3) if channels == 3 else (size, size)
    content = {}
    for part, count in COUNTS.items():
        content[f'{part}_images'] = random.integers(0, 256, (count, *shape), np.uint8)
        content[f'{part}_labels'] = (np.arange(count, dtype=np.uint8) % classes)[:, None]
    return content


def save(path, **content):
    np.savez_compressed(path, **content)
    return str(path)


@pytest.fixture
def published(monkeypatch):
    """Publishes the checksum of a file as that of the set and size."""

    def publish(name, size, path):
        with open(path, 'rb') as file:
            digest = hashlib.md5(file.read()).hexdigest()
        monkeypatch.setitem(medmnist.PUBLISHED[name]['md5'], str(size), digest)

    return publish


def prepared(dataset, source, tmp_path, **options):
    prepare(dataset, source, str(tmp_path / 'data'), **options)
    opened = records.open_records(dataset, str(tmp_path / 'data'))
    return opened, opened.read(range(len(opened)))


def test_from_the_official_file_to_the_parts(tmp_path, published):
    content = arrays()
    published('pathmnist', 28, save(tmp_path / 'pathmnist.npz', **content))
    prepare('pathmnist_lt', str(tmp_path), str(tmp_path / 'data'))
    config = data_config('pathmnist_lt')
    config.update({'data_dir': str(tmp_path / 'data'), 'resize': 28, 'imbalance_ratio': 3.0})
    dataset = load_dataset(config.lock())
    counts = dict(zip(dataset.class_names, dataset.train_counts.tolist(), strict=True))
    # 3 * 3^(-i / 8), rounded: 3, 2.6, 2.3, 2.0, 1.7, 1.5, 1.3, 1.1, 1
    order = ('ADI', 'BACK', 'DEB', 'TUM', 'MUC', 'NORM', 'STR', 'MUS', 'LYM')
    assert [counts[name] for name in order] == [3, 3, 2, 2, 2, 2, 1, 1, 1]
    assert [len(dataset.parts[part]) for part in ('validation', 'test')] == [9, 18]
    for part, name in {'train': 'train', 'validation': 'val', 'test': 'test'}.items():
        indices = dataset.parts[part]
        for index, image in zip(indices, dataset.images.read(indices), strict=True):
            in_file, number = str(dataset.ids[index]).split('_')
            assert in_file == name
            assert dataset.labels[index] == content[f'{name}_labels'][int(number), 0]
            np.testing.assert_array_equal(image, content[f'{name}_images'][int(number)])


def test_a_grey_set_by_its_own_name(tmp_path, published):
    content = arrays(channels=1, classes=8)
    path = save(tmp_path / 'tissuemnist.npz', **content)
    published('tissuemnist', 28, path)
    opened, examples = prepared('tissuemnist', path, tmp_path)
    assert opened.class_names[6] == 'Proximal Tubule Segments'
    picture = Image.open(io.BytesIO(examples[3].image))
    assert picture.mode == 'L'
    np.testing.assert_array_equal(np.asarray(picture), content['test_images'][3])


def test_the_published_facts():
    assert medmnist.PUBLISHED['pathmnist']['md5']['28'] == 'a8b06965200029087d5bd730944a56c1'
    digests = [digest for entry in medmnist.PUBLISHED.values() for digest in entry['md5'].values()]
    assert len(set(digests)) == 11 * 4
    assert all(re.fullmatch('[0-9a-f]{32}', digest) for digest in digests)
    counts = [len(entry['class_names']) for entry in medmnist.PUBLISHED.values()]
    assert sorted(counts) == [2, 2, 4, 5, 7, 8, 8, 9, 11, 11, 11]


@pytest.mark.parametrize(('size', 'published'), [(28, 'a8b06965'), (32, 'none')])
def test_a_wrong_checksum_is_refused_unless_allowed(size, published, tmp_path, assert_refused):
    path = save(tmp_path / 'pathmnist.npz', **arrays(size))
    with open(path, 'rb') as file:
        digest = hashlib.md5(file.read()).hexdigest()
    assert_refused('pathmnist_lt', path, f'{digest}, but {published}.* --allow_unknown_checksum')
    _, examples = prepared('pathmnist_lt', path, tmp_path, allow_unknown_checksum=True)
    assert len(examples) == 54


def changed(**content):
    return lambda path: save(path, **(arrays() | content))


def without(name):
    def make(path):
        content = arrays()
        del content[name]
        save(path, **content)

    return make


def flipped(path):
    save(path, **arrays())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo('val_images.npy').header_offset
    content = bytearray(path.read_bytes())
    content[offset + 5000] ^= 255
    path.write_bytes(content)


BAD = {
    'nothing': (lambda path: None, 'has 0 files of pathmnist'),
    'two files': (
        lambda path: [save(path, a=0), save(path.with_name('pathmnist_64.npz'), a=0)],
        'has 2 files of pathmnist',
    ),
    'other file': (lambda path: path.write_text('<html>'), 'npz'),
    'flipped': (flipped, 'npz'),
    'one array': (without('val_labels'), 'val_labels.npy'),
    'label': (changed(val_labels=np.full((9, 1), 9)), 'val_labels with the label 9'),
    'several labels': (
        changed(train_labels=np.zeros((27, 14), np.uint8)),
        r'train_labels of type uint8 and shape \[27, 14\]',
    ),
    'images of objects': (changed(train_images=np.array([object()] * 27)), 'train_images .*object'),
    'other size': (changed(val_images=np.zeros((9, 64, 64, 3), np.uint8)), 'val_images of shape'),
    'fewer labels': (changed(val_labels=np.zeros((8, 1), np.uint8)), r'val_labels .*\[8, 1\]'),
}


@pytest.mark.parametrize('case', BAD)
def test_bad_files_are_refused(case, tmp_path, assert_refused):
    make, message = BAD[case]
    make(tmp_path / 'pathmnist.npz')
    assert_refused('pathmnist_lt', tmp_path, message, allow_unknown_checksum=True)
