"""Files that several processes share: whole or not there at all, and locked while in use."""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from metriclt_jax.errors import InputError

_log = logging.getLogger(__name__)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file such that readers see the old content or the new, never a part of it."""
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)


def read_json(path: Path) -> Any:
    """The content of a JSON file; raises `InputError` if it cannot be read."""
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(
            f'{path} cannot be read as JSON ({error}); delete its folder or use another'
        ) from None


@contextlib.contextmanager
def locked(path: Path, *, busy: str | None = None) -> Iterator[None]:
    """Holds the lock of the file `path`, which is created empty and stays.

    Args:
        path: of the lock file, in a folder that exists.
        busy: the message of the error while another process holds the lock; None waits for it.

    Raises:
        InputError: the lock is taken, or the file system has no locks.
    """
    with path.open('a') as file:
        lock_file(file, busy=busy)
        yield


def lock_file(file: IO[Any], *, busy: str | None = None) -> None:
    """Locks an open file until it is closed or the process ends, however it ends; see `locked`."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if busy is not None:
            raise InputError(busy) from None
        _log.warning('Waiting for another process that is preparing the same data (%s).', file.name)
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError as error:
        raise InputError(
            f'{file.name} cannot be locked ({error.strerror}): its file system has no file locks; '
            'use a folder on a local disk or another network file system'
        ) from None
