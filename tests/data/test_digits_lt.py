import io
import shutil

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from metriclt_jax.data import load_dataset, records
from metriclt_jax.data.pipeline import eval_batches, prefetch_to_devices, train_batches
from metriclt_jax.errors import InputError


def test_records_hold_the_digits(digits_dir):
    opened = records.open_records('digits_lt', str(digits_dir))
    assert opened.class_names == tuple('0123456789')
    digits = load_digits()
    assert len(opened) == len(digits.target) == 1797
    assert len(opened.fingerprint) == 64
    for index in (0, 5, 1796):
        (example,) = opened.read([index])
        assert example[:3] == (f'digit_{index:04d}', digits.target[index], '')
        pixels = np.asarray(Image.open(io.BytesIO(example.image)))
        np.testing.assert_allclose(pixels, digits.images[index] * 255 / 16, atol=0.5)


def test_from_nothing_to_batches_on_devices(tmp_path, data_config):
    config = data_config(tmp_path / 'not' / 'there', imbalance_ratio=20.0, resize=16)
    dataset = load_dataset(config)  # prepares and decodes
    assert dataset.name == 'digits_lt'
    assert dataset.class_names == tuple('0123456789')
    assert dataset.groups is None
    np.testing.assert_array_equal(dataset.labels, load_digits().target)
    np.testing.assert_array_equal(dataset.aspects, 1)

    # 174 eights are the smallest class; of them, 131 are for training.
    assert dataset.train_counts.tolist() == [131, 94, 67, 48, 35, 25, 18, 13, 9, 7]
    everything = load_dataset(data_config(tmp_path / 'not' / 'there', resize=16))
    assert everything.train_counts.min() == 131
    assert set(dataset.parts['train']) < set(everything.parts['train'])
    for part in ('validation', 'test'):
        np.testing.assert_array_equal(dataset.parts[part], everything.parts[part])

    batches = train_batches(
        dataset, sampler='class_balanced', seed=0, batch_size=16, first_step=0, num_steps=3
    )
    for batch in prefetch_to_devices(batches, jax.devices()[:4]):
        assert batch['image'].shape == (4, 4, 16, 16, 3)
    labels = [batch['label'][batch['mask'] == 1] for batch in eval_batches(dataset, 'test', 50)]
    np.testing.assert_array_equal(
        np.concatenate(labels), load_digits().target[dataset.parts['test']]
    )


def test_the_fingerprint_is_that_of_version_0_1_0(digits_dir, data_config):
    fingerprint = load_dataset(data_config(digits_dir, imbalance_ratio=20.0)).fingerprint
    assert fingerprint == '8571518b09f8dcc87f2d7671fe9db88dbe00d6a61512124bbc89a3e2c65e1fee'


@pytest.mark.parametrize(
    ('fields', 'message'),
    [({'name': 'digits'}, 'digits is not prepared'), ({'split': 'random'}, 'data.split')],
)
def test_bad_fields_are_refused(digits_dir, data_config, fields, message):
    with pytest.raises(InputError, match=message):
        load_dataset(data_config(digits_dir, **fields))


def test_a_flipped_bit_in_a_record_is_noticed(digits_dir, tmp_path, data_config):
    shutil.copytree(digits_dir / 'digits_lt', tmp_path / 'digits_lt')
    (file,) = (tmp_path / 'digits_lt' / '2.0.0').glob('*.array_record*')
    content = bytearray(file.read_bytes())
    content[300_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match='incomplete or damaged'):
        load_dataset(data_config(tmp_path))
    assert not (tmp_path / 'cache' / 'digits_lt_8x8').exists()


def test_a_folder_that_cannot_be_written_to(tmp_path, data_config):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be prepared in'):
        load_dataset(data_config(tmp_path / 'file'))
