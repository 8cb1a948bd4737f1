"""Data folders that are not on this machine, such as gs://bucket/data.

Records and memory maps are read from local files, so a remote data folder has a local one beside
it, which holds copies of its records and all that is derived from them (the decoded images).
"""

import contextlib
import os
import shutil
import urllib.parse
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from etils import epath

from metriclt_jax.data.decoding import in_order
from metriclt_jax.errors import InputError
from metriclt_jax.progress import track

LOCAL_ROOT = 'METRICLT_LOCAL_DATA'
"""Environment variable: where the local folders lie; without it ~/.cache/metriclt_jax/data."""


def is_remote(path: os.PathLike | str) -> bool:
    """Whether a path is an address such as gs://bucket/data."""
    return '://' in os.fspath(path)


def local_folder(data_dir: os.PathLike | str) -> Path:
    """Returns `data_dir` itself, or the local folder that belongs to it if it is remote."""
    if not is_remote(data_dir):
        return Path(data_dir).expanduser()
    root = os.environ.get(LOCAL_ROOT, '~/.cache/metriclt_jax/data')
    return Path(root).expanduser() / urllib.parse.quote(os.fspath(data_dir).rstrip('/'), safe='')


def exists(path: os.PathLike | str) -> bool:
    """Whether there is a file, here or elsewhere."""
    with _reached(path):
        return epath.Path(path).exists()


def read_text(path: os.PathLike | str) -> str:
    """Returns the content of a file, here or elsewhere."""
    with _reached(path):
        return epath.Path(path).read_text()


def download(source: os.PathLike | str, target: Path) -> None:
    """Copies the files of a remote folder into a local one, which exists.

    Raises:
        InputError: they cannot be reached, or there is no space for them.
        OSError: they cannot be written.
    """
    with _reached(source):
        files = [path for path in epath.Path(source).iterdir() if not path.is_dir()]
        require_space(target, sum(path.stat().length for path in files), f'the copy of {source}')
    _copy(files, epath.Path(target))


def upload(source: Path, target: os.PathLike | str, last: str) -> None:
    """Copies the files of a local folder into a remote one, the file `last` after all others.

    Raises:
        InputError: the folder cannot be reached or written to.
    """
    files = [epath.Path(path) for path in source.iterdir()]
    with _reached(target):
        epath.Path(target).mkdir(parents=True, exist_ok=True)
    _copy([path for path in files if path.name != last], epath.Path(target))
    _copy([path for path in files if path.name == last], epath.Path(target))


def require_space(folder: Path, num_bytes: int, what: str) -> int:
    """Returns the free bytes of a folder's disk; InputError if they are too few for `what`."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise InputError(
            f'{what} needs {num_bytes / 2**20:,.0f} MiB in {folder}, where '
            f'{free / 2**20:,.0f} MiB are free'
        )
    return free


def _copy(files: list[epath.Path], target: epath.Path) -> None:
    def copy(path: epath.Path) -> None:
        with (
            _reached(path),
            path.open('rb') as reader,
            _reached(target),
            (target / path.name).open('wb') as writer,
        ):
            shutil.copyfileobj(reader, writer, 2**24)

    with ThreadPoolExecutor() as pool:
        for _ in track(in_order(pool, copy, files), f'Copying to {target}', len(files)):
            pass


@contextlib.contextmanager
def _reached(path: os.PathLike | str) -> Iterator[None]:
    """Explains what goes wrong elsewhere; errors of local files are left as they are."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # each kind of storage has its own, from a package of its own
        if not is_remote(path):
            raise
        raise InputError(
            f'{path} cannot be reached: {type(error).__name__}: {error} (a gs:// path needs the '
            'package gcsfs and credentials)'
        ) from error
