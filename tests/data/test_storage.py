"""Data folders behind gs://, with a file system in memory in the place of Google's."""

import errno
import io
import os
import shutil

import pytest
from etils import epath
from etils.epath import backend
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from metriclt_jax.data import prepare, records, storage
from metriclt_jax.errors import InputError

DATA_DIR = 'gs://bucket/some data/'
FOLDER = f'/bucket/some data/mine/{records.VERSION}'


class Storage(MemoryFileSystem):
    """Keeps files in memory; has no folders of its own, like an object store."""

    protocol = ('gs', 'gcs')

    @classmethod
    def _strip_protocol(cls, path):
        return '/' + path.removeprefix('gs://').strip('/')

    def _open(self, path, mode='rb', **options):
        self.opened.append((path, mode))
        return super()._open(path, mode, **options)


def use(monkeypatch, get_filesystem):
    monkeypatch.setattr(backend._FileSystemSpecBackend, '_get_filesystem', get_filesystem)


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    for field, value in {'store': {}, 'pseudo_dirs': [''], 'opened': []}.items():
        monkeypatch.setattr(Storage, field, value, raising=False)
    local = LocalFileSystem()
    use(monkeypatch, lambda self, name: local if name == 'file' else Storage())
    monkeypatch.setenv(storage.LOCAL_ROOT, str(tmp_path / 'local'))
    return Storage


@pytest.fixture
def source(tmp_path):
    """Six images of two classes."""
    for number in range(6):
        path = tmp_path / 'source' / 'ab'[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (2, 2), number).save(path)
    return str(tmp_path / 'source')


def forget_local_copies(tmp_path):
    shutil.rmtree(tmp_path / 'local')


def pixels(opened):
    examples = opened.read(range(len(opened)))
    return [Image.open(io.BytesIO(example.image)).getpixel((0, 0)) for example in examples]


def test_a_local_folder_is_its_own(tmp_path, monkeypatch):
    assert storage.local_folder(tmp_path) == tmp_path
    monkeypatch.setenv('HOME', '/home/someone')
    monkeypatch.delenv(storage.LOCAL_ROOT, raising=False)
    assert str(storage.local_folder('~/data')) == '/home/someone/data'
    local = str(storage.local_folder('gs://bucket/../data/'))
    assert local == '/home/someone/.cache/metriclt_jax/data/gs%3A%2F%2Fbucket%2F..%2Fdata'


def test_prepared_elsewhere_and_read_here(bucket, source, tmp_path):
    path = prepare('folder', source, DATA_DIR, 'mine')
    assert str(path) == f'gs://bucket/some data/mine/{records.VERSION}'
    assert f'{FOLDER}/dataset_info.json' in bucket.store
    written = [name for name, mode in bucket.opened if mode == 'wb']
    assert written[-1] == f'{FOLDER}/dataset_info.json'
    bucket.opened.clear()
    prepare('folder', source, DATA_DIR, 'mine')  # the second time, nothing is written
    assert [name for name, _ in bucket.opened] == [f'{FOLDER}/metadata.json']

    forget_local_copies(tmp_path)  # on another machine
    opened = records.open_records('mine', DATA_DIR)
    assert pixels(opened) == [0, 2, 4, 1, 3, 5]
    assert opened.path.is_relative_to(tmp_path / 'local')

    bucket.opened.clear()
    assert pixels(records.open_records('mine', DATA_DIR)) == [0, 2, 4, 1, 3, 5]
    assert [name for name, _ in bucket.opened] == [f'{FOLDER}/metadata.json']


def test_an_upload_that_was_cut_off_is_not_trusted_and_repeated(bucket, source, tmp_path):
    prepare('folder', source, DATA_DIR, 'mine')
    complete = dict(bucket.store)
    del bucket.store[f'{FOLDER}/dataset_info.json']
    with pytest.raises(InputError, match='data set mine is not prepared'):
        records.open_records('mine', DATA_DIR)
    prepare('folder', source, DATA_DIR, 'mine')
    assert {name: file.getvalue() for name, file in bucket.store.items()} == {
        name: file.getvalue() for name, file in complete.items()
    }


def test_records_that_were_prepared_anew_are_copied_anew(bucket, source, tmp_path, monkeypatch):
    prepare('folder', source, DATA_DIR, 'mine')
    shutil.copytree(tmp_path / 'local', tmp_path / 'of another machine')
    bucket.store.clear()
    Image.new('L', (2, 2), 99).save(f'{source}/a/0.png')
    prepare('folder', source, DATA_DIR, 'mine')
    assert pixels(records.open_records('mine', DATA_DIR)) == [99, 2, 4, 1, 3, 5]

    monkeypatch.setenv(storage.LOCAL_ROOT, str(tmp_path / 'of another machine'))
    assert pixels(records.open_records('mine', DATA_DIR)) == [99, 2, 4, 1, 3, 5]


def flip_a_bit(content):
    return content[:300] + bytes([content[300] ^ 1]) + content[301:]


@pytest.mark.parametrize('damage', [flip_a_bit, lambda content: content[: len(content) // 2]])
def test_damage_on_the_way_is_noticed(bucket, source, tmp_path, damage):
    prepare('folder', source, DATA_DIR, 'mine')
    forget_local_copies(tmp_path)
    (name,) = (name for name in bucket.store if 'array_record' in name)
    content = bucket.store[name].getvalue()
    bucket().pipe_file(name, damage(content))
    with pytest.raises(InputError, match='damaged'):
        records.open_records('mine', DATA_DIR)
    left = {path.name for path in (tmp_path / 'local').rglob('*') if path.is_file()}
    assert left <= {'.lock'}
    bucket().pipe_file(name, content)
    assert pixels(records.open_records('mine', DATA_DIR)) == [0, 2, 4, 1, 3, 5]


@pytest.mark.parametrize('error', [ConnectionError('no route'), ImportError('install gcsfs')])
def test_storage_that_cannot_be_reached_is_a_sentence(monkeypatch, error):
    def get_filesystem(self, name):
        raise error

    use(monkeypatch, get_filesystem)
    with pytest.raises(InputError, match=f'cannot be reached.* package gcsfs.*{error}'):
        records.open_records('mine', DATA_DIR)


def test_a_current_copy_is_read_without_a_lock(bucket, source, tmp_path):
    prepare('folder', source, DATA_DIR, 'mine')
    (lock,) = (tmp_path / 'local').rglob('.lock')
    lock.unlink()
    lock.mkdir()  # nothing can lock it
    assert pixels(records.open_records('mine', DATA_DIR)) == [0, 2, 4, 1, 3, 5]


def test_a_full_local_disk_is_not_called_unreachable(bucket, source, tmp_path, monkeypatch):
    prepare('folder', source, DATA_DIR, 'mine')
    forget_local_copies(tmp_path)

    def full(self, target, overwrite=False):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(epath.gpath.PosixGPath, 'copy', full)
    with pytest.raises(InputError, match='No space left on device') as raised:
        records.open_records('mine', DATA_DIR)
    assert 'cannot be reached' not in str(raised.value)


def test_what_was_skipped_is_known_on_other_machines(bucket, source, tmp_path):
    (tmp_path / 'source' / 'a' / 'broken.png').touch()
    prepare('folder', source, DATA_DIR, 'mine', skip_bad_files=True)
    forget_local_copies(tmp_path)
    said = []
    prepare('folder', source, DATA_DIR, 'mine', said.append)
    assert said == [f'mine was prepared without 1 of its files: gs:/{FOLDER}/skipped.csv']
