"""Evaluation counts every image once, whatever the batch size and the devices."""

import dataclasses
import io

import jax
import numpy as np
import pytest

from metriclt_jax.augment.geometry import AugmentConfig, center
from metriclt_jax.data import Dataset
from metriclt_jax.evaluation.evaluate import evaluate
from metriclt_jax.models import create_model, initialize

COUNT, CLASSES, SIZE = 37, 4, 12
AUGMENT = AugmentConfig(resize=SIZE, crop=10)


@dataclasses.dataclass(frozen=True)
class InMemory:
    pixels: np.ndarray

    def read(self, indices):
        return self.pixels[indices]


@pytest.fixture(scope='module')
def dataset():
    random = np.random.default_rng(0)
    order = random.permutation(COUNT + 5)
    return Dataset(
        name='made_up',
        class_names=tuple('abcd'),
        images=InMemory(random.integers(0, 256, (COUNT + 5, SIZE, SIZE, 3), dtype=np.uint8)),
        labels=random.integers(0, CLASSES, COUNT + 5).astype(np.int32),
        aspects=np.ones(COUNT + 5, np.float32),
        ids=np.arange(COUNT + 5).astype(str),
        groups=None,
        parts={'train': order[COUNT:], 'validation': order[:0], 'test': np.sort(order[:COUNT])},
    )


@pytest.fixture(scope='module')
def model():
    return create_model('resnet18', CLASSES, stage_sizes=(1,), width=4, stem='small')


@pytest.fixture(scope='module')
def variables(model):
    made = initialize(model, 0)
    # The head's initial logits are small; spread them, so that all classes are predicted.
    made['params']['head']['kernel'] *= 50
    return made


@pytest.fixture(scope='module')
def expected(dataset, model, variables):
    """The same numbers without batches, devices or masks."""
    test = dataset.parts['test']
    outputs = model.apply(variables, center(dataset.images.pixels[test], AUGMENT))
    predicted = np.argmax(outputs.logits, axis=1)
    confusion = np.zeros((CLASSES, CLASSES), int)
    np.add.at(confusion, (dataset.labels[test], predicted), 1)
    return confusion, jax.nn.softmax(outputs.logits), outputs.features


@pytest.mark.parametrize(
    ('num_devices', 'batch_size'), [(1, COUNT), (1, 16), (2, 7), (8, 8), (8, 100)]
)
def test_every_image_counts_once(dataset, model, variables, expected, num_devices, batch_size):
    devices = jax.devices()[:num_devices]
    result = evaluate(
        model,
        variables,
        AUGMENT,
        dataset,
        'test',
        batch_size=batch_size,
        devices=devices,
        features=True,
    )
    confusion, probabilities, features = expected
    assert len(np.unique(confusion.nonzero()[1])) > 1
    np.testing.assert_array_equal(result.confusion, confusion)
    np.testing.assert_array_equal(result.labels, dataset.labels[dataset.parts['test']])
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-5)
    np.testing.assert_allclose(result.features, features, rtol=1e-4, atol=1e-5)


def test_predictions_are_the_same_bytes_for_the_same_values(dataset, model, variables):
    options = {'batch_size': 64, 'devices': jax.devices()[:1]}
    plain = evaluate(model, variables, AUGMENT, dataset, 'test', **options)
    assert plain.features is None
    assert plain.to_npz() == plain.to_npz()
    with np.load(io.BytesIO(plain.to_npz()), allow_pickle=False) as arrays:
        assert set(arrays) == {'ids', 'labels', 'probabilities'}
        np.testing.assert_array_equal(arrays['ids'], dataset.ids[dataset.parts['test']])
    grouped = dataclasses.replace(dataset, groups=np.char.add('lesion ', dataset.ids))
    known = evaluate(model, variables, AUGMENT, grouped, 'test', **options)
    with np.load(io.BytesIO(known.to_npz()), allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays['groups'], np.char.add('lesion ', arrays['ids']))
