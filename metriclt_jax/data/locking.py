"""One process at a time, for work that writes into a shared data folder."""

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Holds the lock of the file `path`, which is created and stays (it is empty).

    The operating system releases the lock when the process ends, however it ends.
    """
    with path.open('a') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning('Waiting for another process that prepares the same data (%s).', path)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
