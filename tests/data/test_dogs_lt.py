import shutil

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from metriclt_jax.data import load_dataset, prepare
from metriclt_jax.data.defaults import data_config
from metriclt_jax.data.sources import dogs_lt

BREEDS = ('n02085620-Chihuahua', 'n02099267-flat-coated_retriever', 'n02116738-African_hunting_dog')
PER_CLASS = {'train': 4, 'test': 2}


def cells(texts):
    """A column of MATLAB cells, each with one string."""
    column = np.empty((len(texts), 1), object)
    column[:, 0] = texts
    return column


def save_list(folder, part, paths, labels, **more):
    content = {
        'file_list': cells(paths),
        'annotation_list': cells([path.removesuffix('.jpg') for path in paths]),
        'labels': np.array(labels, float)[:, None],
    }
    savemat(folder / 'lists' / f'{part}_list.mat', content | more)


def files(part):
    start = {'train': 10, 'test': 50}[part]
    return [
        f'{breed}/{breed[:9]}_{start + number}.jpg'
        for breed in BREEDS
        for number in range(PER_CLASS[part])
    ]


def labels(part):
    return [1 + label for label in range(len(BREEDS)) for _ in range(PER_CLASS[part])]


@pytest.fixture(scope='session')
def original(tmp_path_factory):
    """The official layout in miniature: images and lists."""
    root = tmp_path_factory.mktemp('dogs')
    (root / 'lists').mkdir()
    for part in PER_CLASS:
        for number, path in enumerate(files(part)):
            (root / 'Images' / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new('RGB', (10, 8), (number, 0, 0)).save(root / 'Images' / path, 'JPEG')
        save_list(root, part, files(part), labels(part))
    # One of the official images is a PNG file with transparency, called .jpg.
    Image.new('RGBA', (10, 8), (9, 9, 9, 255)).save(root / 'Images' / files('test')[0], 'PNG')
    return root


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / 'dogs')


def test_from_the_official_files_to_the_parts(original, tmp_path):
    prepare('dogs_lt', str(original), str(tmp_path))
    config = data_config('dogs_lt')
    config.update({'data_dir': str(tmp_path), 'resize': 8, 'imbalance_ratio': 4.0})
    dataset = load_dataset(config.lock())
    assert dataset.class_names == ('Chihuahua', 'flat-coated_retriever', 'African_hunting_dog')
    assert dataset.train_counts.tolist() == [4, 2, 1]
    assert len(dataset.parts['validation']) == 0
    assert dataset.groups is None
    test = dataset.parts['test']
    expected = [
        (path.split('/')[1].removesuffix('.jpg'), label - 1)
        for path, label in zip(files('test'), labels('test'), strict=True)
    ]
    found = zip(dataset.ids[test].tolist(), dataset.labels[test].tolist(), strict=True)
    assert list(found) == expected
    assert sorted(dataset.ids) == sorted(
        path.split('/')[1].removesuffix('.jpg') for part in PER_CLASS for path in files(part)
    )
    (png,) = dataset.images.read(test[:1])
    assert np.all(png == 9)


def test_lists_may_lie_beside_the_images(folder):
    for path in (folder / 'lists').iterdir():
        path.rename(folder / path.name)
    (folder / 'lists').rmdir()
    Image.new('L', (2, 2)).save(folder / 'Images' / BREEDS[0] / 'unlisted.jpg')
    assert dogs_lt.read_source(str(folder)).count == 18


def listed(paths=None, numbers=None, **more):
    return lambda folder: save_list(
        folder, 'test', paths or files('test'), numbers or labels('test'), **more
    )


OUTSIDE = ['../../outside/x.jpg', *files('test')[1:]]
SPOILED = {
    'no test list': (lambda f: (f / 'lists' / 'test_list.mat').unlink(), 'lists/test_list.mat'),
    'no image': (lambda f: (f / 'Images' / files('train')[5]).unlink(), 'n02099267_11.jpg'),
    'no texts': (listed(file_list=np.zeros((6, 1))), 'test_list.mat has file_list of type float64'),
    'other label': (listed(numbers=[1, 1, 2, 2, 3, 1]), 'n02116738_51.jpg several labels'),
    'label outside': (
        lambda f: [
            save_list(f, part, files(part), [4 if n == 3 else n for n in labels(part)])
            for part in PER_CLASS
        ],
        r'labels \[1, 2, 4\]',
    ),
    'twice': (listed([files('train')[0], *files('test')[1:]]), 'n02085620_10 is listed twice'),
    'leaves': (listed(OUTSIDE, [4, 1, 2, 2, 3, 3]), 'x.jpg leaves the source folder'),
}


@pytest.mark.parametrize('case', SPOILED)
def test_bad_folders_are_refused(case, folder, assert_refused):
    spoil, message = SPOILED[case]
    spoil(folder)
    assert_refused('dogs_lt', folder, message)
