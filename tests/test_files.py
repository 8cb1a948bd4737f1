import errno
import fcntl
import os
from pathlib import Path

import pytest

from metriclt_jax.errors import InputError, NotWritten
from metriclt_jax.files import locked, read_json, write_atomically


def test_write_atomically_leaves_no_temporary_file(tmp_path):
    write_atomically(tmp_path / 'a.json', 'one')
    write_atomically(tmp_path / 'a.json', 'two')
    assert [path.name for path in tmp_path.iterdir()] == ['a.json']
    assert (tmp_path / 'a.json').read_text() == 'two'


def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path, monkeypatch):
    write_atomically(tmp_path / 'a.json', 'one')

    def write_a_part(path, content):
        path.write_text('t')
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, 'write_bytes', write_a_part)
    with pytest.raises(NotWritten, match=r'a\.json .*No space left'):
        write_atomically(tmp_path / 'a.json', 'two')
    assert [path.read_text() for path in tmp_path.iterdir()] == ['one']


def test_read_json_names_the_file(tmp_path):
    (tmp_path / 'a.json').write_text('{"half')
    for name in ('a.json', 'b.json'):
        with pytest.raises(InputError, match=name):
            read_json(tmp_path / name)


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path / 'lock'), pytest.raises(InputError, match='taken'):  # noqa: SIM117
        with locked(tmp_path / 'lock', busy='taken'):
            pass
    with locked(tmp_path / 'lock', busy='taken'):
        pass


def test_a_file_system_without_locks_gets_a_sentence(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', flock)
    with pytest.raises(InputError, match='no file locks'), locked(tmp_path / 'lock'):
        pass
