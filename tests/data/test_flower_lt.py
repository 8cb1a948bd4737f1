import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from tensorflow_datasets.datasets.oxford_flowers102 import oxford_flowers102_dataset_builder

from metriclt_jax.data import load_dataset, prepare
from metriclt_jax.data.defaults import data_config
from metriclt_jax.data.sources import flower_lt

COUNT = 306  # three of each class


def save_labels(folder, labels):
    savemat(folder / 'imagelabels.mat', {'labels': np.array([labels], np.uint8)})


def save_parts(folder, **parts):
    savemat(folder / 'setid.mat', {name: np.array([ids], np.uint16) for name, ids in parts.items()})


@pytest.fixture(scope='session')
def original(tmp_path_factory):
    """The official layout in miniature; arrays are one row and numbers start at 1, as there."""
    folder = tmp_path_factory.mktemp('flowers')
    (folder / 'jpg').mkdir()
    for number in range(1, COUNT + 1):
        picture = Image.new('RGB', (10, 8), (number % 256, 0, 0))
        picture.save(folder / 'jpg' / f'image_{number:05d}.jpg', quality=95)
    save_labels(folder, [77 + 0 * n if n == 1 else 1 + n % 102 for n in range(1, COUNT + 1)])
    numbers = np.random.default_rng(0).permutation(COUNT) + 1  # the official ones have no order
    save_parts(folder, trnid=numbers[:50], valid=numbers[50:100], tstid=numbers[100:])
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'flowers')


def test_from_the_official_files_to_the_parts(folder, tmp_path):
    save_parts(folder, trnid=ALL[:51], valid=ALL[51:102], tstid=ALL[102:])  # the last: two a class
    prepare('flower_lt', str(folder), str(tmp_path / 'data'))
    config = data_config('flower_lt')
    config.update({'data_dir': str(tmp_path / 'data'), 'resize': 8, 'imbalance_ratio': 2.0})
    dataset = load_dataset(config.lock())
    assert dataset.class_names == flower_lt.CLASS_NAMES
    # 2 * 2^(-i / 101) is 1.5 or more up to i = 41; classes of one size stay in their order.
    assert dataset.train_counts.tolist() == [2] * 42 + [1] * 60
    assert len(dataset.parts['validation']) == 0
    numbers = {
        part: [int(dataset.ids[index][-5:]) for index in indices]
        for part, indices in dataset.parts.items()
    }
    assert numbers['test'] == list(ALL[:102])
    assert set(numbers['train']) < set(ALL[102:])
    for part in ('train', 'test'):
        images = dataset.images.read(dataset.parts[part]).astype(int)
        reds = np.array(numbers[part])[:, None, None] % 256
        assert np.abs(images[..., 0] - reds).max() <= 3
        labels = [76 if number == 1 else number % 102 for number in numbers[part]]
        assert dataset.labels[dataset.parts[part]].tolist() == labels


def test_class_names_are_those_of_tfds():
    assert list(flower_lt.CLASS_NAMES) == oxford_flowers102_dataset_builder._NAMES


ALL = range(1, COUNT + 1)
SPOILED = {
    'missing image': (lambda f: (f / 'jpg/image_00100.jpg').unlink(), 'image_00100'),
    'not a MATLAB file': (
        lambda f: (f / 'setid.mat').write_bytes(b'\x1f\x8b' * 200),
        'setid.mat cannot be read',
    ),
    'other variable': (lambda f: savemat(f / 'imagelabels.mat', {'label': [1]}), "'labels'"),
    'a part less': (lambda f: save_parts(f, trnid=ALL[:9], tstid=ALL[9:]), "setid.mat .*'valid'"),
    'label 0': (lambda f: save_labels(f, [n % 102 for n in ALL]), 'imagelabels.mat .*label 0'),
    'half a label': (
        lambda f: savemat(f / 'imagelabels.mat', {'labels': [[1.5] * COUNT]}),
        'imagelabels.mat has labels of type float64',
    ),
    'in two parts': (
        lambda f: save_parts(f, trnid=ALL[:9], valid=ALL[8:20], tstid=ALL[20:]),
        'setid.mat must list each of the images 1 to 306',
    ),
}


@pytest.mark.parametrize('case', SPOILED)
def test_bad_folders_are_refused(case, folder, assert_refused):
    spoil, message = SPOILED[case]
    spoil(folder)
    assert_refused('flower_lt', folder, message)
