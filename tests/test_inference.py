"""A classifier's numbers depend on the image alone; what cannot be loaded or read says so."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

import metriclt_jax
from metriclt_jax.augment.geometry import AugmentConfig
from metriclt_jax.config import paper_config
from metriclt_jax.devices import place
from metriclt_jax.errors import InputError
from metriclt_jax.inference import TrainedClassifier, read_image
from metriclt_jax.methods import METHODS, Method
from metriclt_jax.models import create_model, initialize
from metriclt_jax.training.workdir import claim

SIZE, CROP, CLASSES = 14, 10, 3


def make_classifier(num_devices=1, seed=0, **changes):
    model = create_model('resnet18', CLASSES, stage_sizes=(1,), width=4, stem='small')
    variables = initialize(model, seed)
    variables['params']['head']['kernel'] *= 20  # so that probabilities differ between images
    devices = tuple(jax.devices()[:num_devices])
    classifier = TrainedClassifier(
        model,
        place(variables, devices),
        AugmentConfig(resize=SIZE, crop=CROP),
        tuple('abc'),
        devices,
    )
    return dataclasses.replace(classifier, **changes)


def make_pictures(sizes):
    """Noise about a colour that differs between the pictures, uint8 `[H, W, 3]` each."""
    random = np.random.default_rng(0)
    colors = random.integers(0, 200, (len(sizes), 3))
    return [
        (color + random.integers(0, 56, (*size, 3))).astype(np.uint8)
        for color, size in zip(colors, sizes, strict=True)
    ]


@pytest.fixture(scope='module')
def images():
    return np.stack(make_pictures([(SIZE, SIZE)] * 13))


def expected_probabilities(classifier, pixels):
    """One image, without the package's geometry, batches and devices."""
    edge = (SIZE - CROP) // 2
    cropped = pixels[edge : edge + CROP, edge : edge + CROP].astype(np.float64) / 255
    normal = (cropped - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    logits = classifier.model.apply(classifier.variables, normal[None].astype(np.float32)).logits[0]
    exponents = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    return exponents / exponents.sum()


@pytest.mark.parametrize(('num_devices', 'batch_size'), [(1, 64), (1, 1), (1, 4), (2, 5), (8, 64)])
def test_probabilities_depend_on_the_image_alone(images, num_devices, batch_size):
    classifier = make_classifier(num_devices, batch_size=batch_size)
    one = make_classifier()
    expected = np.stack([expected_probabilities(one, image) for image in images])
    assert len(set(expected.argmax(axis=1))) > 1
    np.testing.assert_allclose(classifier.predict(images), expected, atol=2e-6)
    features = one.model.apply(one.variables, np.zeros((1, CROP, CROP, 3), np.float32)).features
    assert classifier.features(images).shape == (len(images), features.shape[1])


def test_a_stream_keeps_its_keys_and_is_read_a_batch_ahead_at_most(images):
    classifier = make_classifier(batch_size=2)
    taken = []

    def endless():
        for key in range(10**9):
            taken.append(key)
            yield f'image {key}', images[key % len(images)]

    stream = classifier.predict_stream(endless())
    keys, probabilities = next(stream)
    assert keys == ('image 0', 'image 1')
    assert len(taken) <= 4
    np.testing.assert_allclose(probabilities, classifier.predict(images[:2]), atol=1e-6)
    assert next(stream)[0] == ('image 2', 'image 3')
    assert list(classifier.predict_stream([])) == []


def test_the_fingerprint_is_that_of_the_classifier():
    first = make_classifier()
    assert first.fingerprint() == make_classifier(num_devices=2, batch_size=1).fingerprint()
    others = {'augment': AugmentConfig(resize=SIZE, crop=CROP - 1)}, {'class_names': tuple('acb')}
    different = [first, *(make_classifier(**changes) for changes in ({'seed': 1}, *others))]
    assert len({classifier.fingerprint() for classifier in different}) == 4


def test_images_that_cannot_be_used(tmp_path):
    classifier = make_classifier()
    (tmp_path / 'note.txt').write_text('no image')
    with pytest.raises(InputError, match=r'note\.txt'):
        read_image(tmp_path / 'note.txt', SIZE)
    with pytest.raises(InputError, match=r'missing\.png'):
        read_image(tmp_path / 'missing.png', SIZE)
    with pytest.raises(InputError, match=r'CMYK'):
        classifier.predict([Image.new('CMYK', (5, 5))])
    for empty in ([], np.zeros((0, 5, 5, 3), np.uint8), [Image.new('RGB', (0, 5))]):
        with pytest.raises(InputError):
            classifier.predict(empty)
    with pytest.raises(InputError, match=r'batch_size is 0'):
        dataclasses.replace(classifier, batch_size=0)


@pytest.mark.parametrize(
    ('mistake', 'words', 'remedy'),
    [
        (lambda x: x[:0], 'at least one pixel', None),
        (lambda x: x[:, :0], 'at least one pixel', None),
        (lambda x: x / np.float32(255), 'uint8', lambda x: (255 * x).round().astype(np.uint8)),
        (lambda x: x.astype(np.int64), 'uint8', lambda x: x.astype(np.uint8)),
        (lambda x: x.transpose(2, 0, 1), 'transpose', lambda x: x.transpose(1, 2, 0)),
        (lambda x: np.dstack([x, x[..., :1]]), ':3', lambda x: x[..., :3]),
        (lambda x: x[..., 0], 'dstack', lambda x: np.dstack([x] * 3)),
        (lambda x: x[..., :1], 'dstack', lambda x: np.dstack([x] * 3)),
        (lambda x: x[0, 0], r'\[H, W, 3\]$', None),
    ],
)
def test_arrays_that_are_no_pictures_say_what_to_do(mistake, words, remedy, images):
    classifier = make_classifier()
    wrong = mistake(images[0])
    for given in ([wrong], [images[0], wrong]):
        with pytest.raises(InputError, match=f'shape .*; .*{words}'):
            classifier.predict(given)
    if wrong.ndim in (2, 3):
        with pytest.raises(InputError, match=r'predict\(\[image\]\)'):
            classifier.predict(wrong)
    if remedy:
        assert classifier.predict([remedy(wrong)]).shape == (1, CLASSES)


def test_runs_that_cannot_be_loaded(tmp_path, monkeypatch):
    config = paper_config()
    config.method = 'added'
    with claim(tmp_path, config):
        pass
    results = tmp_path / 'results.json'
    results.write_text('{"class_names": ["a", "b"]}')

    def refused(match, **options):
        with pytest.raises(InputError, match=match):
            metriclt_jax.load(tmp_path, **options)

    refused('added')  # its file was not imported
    monkeypatch.setitem(METHODS, 'added', Method())
    refused('stage1 has no .*checkpoint')
    monkeypatch.setitem(METHODS, 'added', METHODS['sc_crw'])
    refused('stage1 of method added', stage='stage1')  # trains no classifier
    refused('stage3', stage='stage3')
    results.write_text('{"class_names"')
    refused(r'results\.json')
