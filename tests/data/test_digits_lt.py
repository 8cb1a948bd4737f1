import glob
import io
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from metriclt_jax.data import load_dataset, prepare, records
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


def test_larger_ratios_leave_subsets(digits_dir, data_config):
    kept = [
        set(load_dataset(data_config(digits_dir, imbalance_ratio=ratio)).parts['train'])
        for ratio in (1.0, 5.0, 50.0)
    ]
    assert kept[2] < kept[1] < kept[0]


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'name': 'digits'}, 'data set digits is not prepared in data.data_dir'),
        ({'split': 'random'}, "data.split is 'random'; allowed: paper, grouped"),
        ({'split': 'grouped'}, 'digits_lt has no groups'),
        ({'fractions': (0.9, 0.2, 0.1)}, 'data.fractions is'),
        ({'fractions': (0.99, 0.001, 0.009)}, 'class 0 has 178 images, too few'),
        ({'split_seed': -1}, 'data.split_seed is -1'),
        ({'imbalance_ratio': 0.5}, 'data.imbalance_ratio is 0.5'),
        ({'imbalance_ratio': 300.0}, 'data.imbalance_ratio is 300.0; allowed: at most 262'),
        ({'resize': 0}, 'data.resize is 0'),
    ],
)
def test_bad_fields_are_refused(digits_dir, data_config, fields, message):
    with pytest.raises(InputError) as raised:
        load_dataset(data_config(digits_dir, **fields))
    assert message in str(raised.value)


def test_the_second_time_nothing_is_written(digits_dir, monkeypatch):
    monkeypatch.setattr(records, 'write', lambda *arguments: pytest.fail('written again'))
    path = prepare('digits_lt', None, str(digits_dir))
    assert path == digits_dir / 'digits_lt' / '2.0.0'
    assert sorted(p.name for p in path.parent.iterdir()) == ['.lock', '2.0.0']


def copy_of(digits_dir, tmp_path):
    subprocess.run(['cp', '-r', str(digits_dir / 'digits_lt'), str(tmp_path)], check=True)
    return tmp_path / 'digits_lt' / '2.0.0'


@pytest.mark.parametrize('name', ['digits_lt-images.array_record*', 'metadata.json'])
@pytest.mark.parametrize('damage', ['truncated', 'gone'])
def test_damaged_records_are_noticed(digits_dir, tmp_path, data_config, name, damage):
    (file,) = copy_of(digits_dir, tmp_path).glob(name)
    if damage == 'gone':
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r'incomplete or damaged .* prepare the data set again'):
        load_dataset(data_config(tmp_path))
    assert not (tmp_path / 'cache' / 'digits_lt_8x8').exists()


def test_a_flipped_bit_in_a_record_is_noticed(digits_dir, tmp_path, data_config):
    (file,) = copy_of(digits_dir, tmp_path).glob('*.array_record*')
    content = bytearray(file.read_bytes())
    content[300_000] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match='incomplete or damaged'):
        load_dataset(data_config(tmp_path))


def test_a_folder_that_cannot_be_written_to(tmp_path, data_config):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be prepared in'):
        load_dataset(data_config(tmp_path / 'file'))


def test_something_else_in_the_way_is_not_deleted(tmp_path, data_config):
    precious = tmp_path / 'digits_lt' / '2.0.0' / 'precious'
    precious.mkdir(parents=True)
    with pytest.raises(InputError, match='is in the way'):
        load_dataset(data_config(tmp_path))
    assert precious.exists()


@pytest.mark.slow
def test_two_processes_at_once(tmp_path):
    program = (
        'import sys; from metriclt_jax.config import data_fields; from metriclt_jax.data import *\n'
        "c = data_fields(); c.name, c.data_dir, c.resize = 'digits_lt', sys.argv[1], 24\n"
        'd = load_dataset(c); print(int(d.images.read(d.parts["test"]).sum()))'
    )
    processes = [
        subprocess.Popen(
            [sys.executable, '-W', 'error', '-c', program, str(tmp_path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    assert len({output for output, _ in results}) == 1
    said = [line for _, error in results for line in error.splitlines()]
    ours = ('Waiting for another process', 'decoding 1797 images')
    assert all(any(words in line for words in ours) for line in said)  # nothing noisy from TFDS
    assert not glob.glob(f'{tmp_path}/**/*incomplete*', recursive=True)
