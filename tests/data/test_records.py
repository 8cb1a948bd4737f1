import io
import sys
import tracemalloc

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from metriclt_jax.data import records
from metriclt_jax.data.sources.common import Example, Source
from metriclt_jax.errors import InputError

COUNT = 25


def png(number):
    file = io.BytesIO()
    Image.new('RGB', (3, 2), (number, 0, 255 - number)).save(file, 'PNG')
    return file.getvalue()


EXAMPLES = [
    Example(f'i{n:02d}', n % 2, f'g{n // 4}', png(n), ('train', 'validation', 'test')[n % 3])
    for n in range(COUNT)
]


def write(path, examples=EXAMPLES):
    path.mkdir(parents=True)
    source = Source(('no', 'yes'), iter(examples), COUNT, 10_000)
    records.write(path, 'small', source, 'folder', {'source': 'here'})
    return path


@pytest.fixture
def data_dir(tmp_path):
    write(tmp_path / 'small' / records.VERSION)
    return tmp_path


def test_what_is_written_is_read(data_dir):
    opened = records.open_records('small', str(data_dir))
    assert len(opened) == COUNT
    assert opened.class_names == ('no', 'yes')
    assert opened.read(range(COUNT)) == EXAMPLES
    assert opened.read([24, 0, 24]) == [EXAMPLES[24], EXAMPLES[0], EXAMPLES[24]]
    assert records.read_metadata(opened.path) == {
        'dataset': 'folder',
        'class_names': ['no', 'yes'],
        'fingerprint': opened.fingerprint,
        'origin': {'source': 'here'},
    }


def test_the_folder_is_one_of_tfds(data_dir):
    builder = tfds.builder_from_directory(data_dir / 'small' / records.VERSION)
    assert builder.name == 'small'
    assert builder.info.splits['images'].num_examples == COUNT
    assert builder.info.features['label'].names == ['no', 'yes']
    source = builder.as_data_source(split='images')
    np.testing.assert_array_equal(source[7]['image'], np.full((2, 3, 3), (7, 0, 248)))
    assert 'tensorflow' not in sys.modules


@pytest.mark.parametrize('file_bytes', [1, 3000])
def test_records_go_on_in_further_files(tmp_path, monkeypatch, file_bytes):
    one = write(tmp_path / 'one' / 'small' / records.VERSION)
    again = write(tmp_path / 'again')
    for path in one.iterdir():  # the same examples give the same files
        assert path.read_bytes() == (again / path.name).read_bytes()
    monkeypatch.setattr(records, '_FILE_BYTES', file_bytes)
    many = write(tmp_path / 'many' / 'small' / records.VERSION)
    files = sorted(path.name for path in many.glob('*.array_record*'))
    expected = {1: 25, 3000: 4}[file_bytes]
    assert files == [
        f'small-images.array_record-{n:05d}-of-{expected:05d}' for n in range(expected)
    ]
    opened = records.open_records('small', tmp_path / 'many')
    assert opened.read(range(COUNT)) == EXAMPLES
    assert opened.fingerprint == records.read_metadata(one)['fingerprint']


@pytest.mark.parametrize(
    'change',
    [{'image_id': 'i24b'}, {'label': 1}, {'group': ''}, {'part': 'test'}, {'image': png(1)}],
)
def test_the_fingerprint_knows_every_field(tmp_path, change):
    (field,) = change
    assert getattr(EXAMPLES[24], field) != change[field]
    original = records.read_metadata(write(tmp_path / 'a'))['fingerprint']
    changed = [*EXAMPLES[:24], EXAMPLES[24]._replace(**change)]
    assert records.read_metadata(write(tmp_path / 'b', changed))['fingerprint'] != original


def test_writing_takes_no_memory_for_the_whole_set(tmp_path):
    image = np.random.default_rng(0).bytes(2**20)
    examples = (Example(f'{n:04d}', 0, '', image + bytes([n])) for n in range(40))
    tracemalloc.start()
    records.write(tmp_path, 'big', Source(('a',), examples, 40, 40 * 2**20), 'folder', {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 2**20


@pytest.mark.parametrize('name', ['*.array_record*', 'metadata.json', 'features.json'])
@pytest.mark.parametrize('damage', ['truncated', 'gone'])
def test_damaged_records_are_noticed(data_dir, name, damage):
    (file,) = (data_dir / 'small' / records.VERSION).glob(name)
    if damage == 'gone':
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(InputError, match=r'incomplete or damaged; remove'):
        records.open_records('small', data_dir).read(range(COUNT))
    if name == 'metadata.json':
        file.write_text('{}')
        with pytest.raises(InputError, match=r'incomplete or damaged; remove'):
            records.read_metadata(file.parent)
