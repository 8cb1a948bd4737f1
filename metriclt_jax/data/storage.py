"""Data folders: local ones and remote ones such as gs://bucket/data.

Records and memory maps are local files, so a remote data folder has a local one beside it, with
copies of its records and the decoded images.
"""

import contextlib
import errno
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath

from metriclt_jax.errors import InputError, explained
from metriclt_jax.progress import track

LOCAL_ROOT = 'METRICLT_LOCAL_DATA'
"""Environment variable: where local folders lie; by default ~/.cache/metriclt_jax/data."""


# Errors that a remote storage does not have: full disks, quotas and read-only file systems.
_OF_LOCAL_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_remote(path: os.PathLike | str) -> bool:
    """Whether a path is like gs://bucket/data."""
    return '://' in os.fspath(path)


def local_folder(data_dir: os.PathLike | str) -> Path:
    """Returns `data_dir` itself, or the local folder that belongs to it if it is remote."""
    if not is_remote(data_dir):
        with explained(f'the data folder {str(data_dir)!r} is not a path'):
            return Path(data_dir).expanduser()
    root = os.environ.get(LOCAL_ROOT, '~/.cache/metriclt_jax/data')
    return Path(root).expanduser() / urllib.parse.quote(os.fspath(data_dir).rstrip('/'), safe='')


@contextlib.contextmanager
def reached(path: os.PathLike | str) -> Iterator[None]:
    """Turns errors of remote storage into `InputError`; leaves those of local files."""
    problem = f'{path} cannot be reached; gs:// needs the package gcsfs and credentials'
    with explained(problem) if is_remote(path) else contextlib.nullcontext():
        try:
            yield
        except OSError as error:
            if error.errno in _OF_LOCAL_DISKS:
                raise InputError(f'{error.filename or path}: {error.strerror}') from error
            raise


def copy_files(source: epath.Path, target: epath.Path, last: str) -> None:
    """Copies a folder's files, `last` after all others; one of the two folders is remote."""
    with reached(target if is_remote(target) else source):
        files = [path for path in source.iterdir() if not path.is_dir()]
        if is_remote(target):
            target.mkdir(parents=True, exist_ok=True)
        else:
            size = sum(path.stat().length for path in files)
            require_space(Path(target), size, f'the copy of {source}')
        others = [path for path in files if path.name != last]
        with ThreadPoolExecutor() as pool:
            copied = pool.map(lambda path: path.copy(target / path.name, overwrite=True), others)
            for _ in track(copied, f'Copying to {target}', len(others)):
                pass
        (source / last).copy(target / last, overwrite=True)


def require_space(folder: Path, num_bytes: int, what: str) -> int:
    """Returns the free bytes of a folder's disk; `InputError` if they are too few for `what`."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f'{what} needs {num_bytes / 2**20:,.0f} MiB in {folder}, where '
            f'{free / 2**20:,.0f} MiB are free'
        )
    return free


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields an empty folder that is renamed to `path` in the end, or removed after an error.

    The caller holds a lock, so an existing folder of that kind is of a process that was killed.
    """
    aside = path.with_name(f'.{path.name}.incomplete')
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        aside.rename(path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
