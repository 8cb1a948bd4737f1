"""Files that several processes share: whole or not there at all, and locked while in use.

Paths are local or addresses, see `paths`. Whatever cannot be written is `NotWritten`.
"""

import contextlib
import fcntl
import io
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from metriclt_jax.errors import CLEAR, Busy, InputError, NotWritten
from metriclt_jax.paths import is_remote


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file such that readers see the old content or the new, never a part of it."""
    content = content.encode() if isinstance(content, str) else content
    with written(path):
        if is_remote(path):  # an object appears when it is complete
            path.write_bytes(content)
            return
        temporary = path.with_name(f'.{path.name}.{os.getpid()}')
        try:
            temporary.write_bytes(content)
            temporary.replace(path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Turns what goes wrong in writing below `path` into `NotWritten`, which names it."""
    try:
        yield
    except CLEAR:
        raise
    except Exception as error:  # libraries raise a full disk as anything
        code = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore's
        reason = os.strerror(int(code[1])) if code else getattr(error, 'strerror', None)
        raise NotWritten(
            f'{path} cannot be written ({reason or repr(error)}); make room there and run the same '
            'command again, or use another path'
        ) from error


@contextlib.contextmanager
def appended(path: Path) -> Iterator[IO[str]]:
    """A text file to append to, on the disk when the block ends; an object grows only then."""
    with written(path):
        if not is_remote(path):
            with path.open('a') as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            return
        file = io.StringIO(path.read_text() if path.exists() else '')
        file.seek(0, io.SEEK_END)
        try:
            yield file
        finally:
            write_atomically(path, file.getvalue())


def make_folder(folder: Path) -> Path:
    """Makes a folder to write in, with those above it; an address has none to make."""
    if not is_remote(folder):
        with written(folder):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
    return folder


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises `InputError` if it cannot be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        hint = 'delete its folder or use another'
        raise InputError(f'{path} cannot be read as JSON ({error}); {hint}') from None


@contextlib.contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds the lock of the file `path`, which is created empty and stays; see `lock_file`."""
    with path.open('a') as file:
        lock_file(file, busy=busy)
        yield


def lock_file(file: IO[Any], *, busy: str | None = None) -> None:
    """Locks an open file until it is closed or the process ends, however it ends.

    While another process holds the lock, raises `Busy` with the message `busy`; None waits for it.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if busy is not None:
            raise Busy(busy) from None
        logging.getLogger(__name__).warning(
            'Waiting for another process that is preparing the same data (%s).', file.name
        )
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(
            f'{file.name} cannot be locked ({error.strerror}): its file system has no file locks; '
            'use a folder on a local disk or another network file system'
        ) from None
