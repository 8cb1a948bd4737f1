"""What users write for a folder: a local path, or an address such as gs://bucket/folder.

Local paths are `pathlib.Path`, addresses `epath.Path`; the two have the same methods for reading,
listing and writing whole files. An address has no folders to make, no locks and no appending.
"""

import contextlib
import errno
import logging
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from metriclt_jax.errors import InputError, explained

# Errors that a remote storage does not have: full disks, quotas and read-only file systems.
_OF_LOCAL_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def is_remote(path: os.PathLike | str) -> bool:
    """Whether a path is like gs://bucket/data."""
    return '://' in os.fspath(path)


def to_path(text: os.PathLike | str) -> Path:
    """The path that a user wrote, local or gs://BUCKET/FOLDER; `InputError` for other addresses."""
    text = os.fspath(text)
    if not re.match(r'\w+:/', text):
        return local_path(text)
    if not re.match(r'gs://[^/]', text) or re.search(r'[*?[\]]', text):
        raise InputError(f'{text} must be a local path or gs://BUCKET/FOLDER, without * ? [ ]')
    with reached(text):
        return _remote_path(text)


def local_path(text: os.PathLike | str) -> Path:
    """The local path that a user wrote; `InputError` for an address."""
    text = os.fspath(text)
    if re.match(r'\w+:/', text):
        raise InputError(f'{text} cannot be used here; write a local path')
    with explained(f'{text} is not a path'):
        return Path(text).expanduser()


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


def absolute(path: Path) -> Path:
    """The path as seen from any directory."""
    return path if is_remote(path) else path.absolute()  # epath would put the directory before gs:


def walk(root: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[tuple]:
    """Yields as os.walk does, with paths; folders behind an address have no folders, only files."""
    if not is_remote(root):
        for folder, folders, files in os.walk(root, onerror=on_error):
            yield Path(folder), folders, files
        return
    import fsspec

    file_system, top = fsspec.url_to_fs(os.fspath(root))
    found: dict[str, list[str]] = {}
    for name in file_system.find(top):  # one request for a thousand files, unlike its walk
        folder, _, file = name.rpartition('/')
        found.setdefault(folder, []).append(file)
    for folder, files in found.items():
        yield _remote_path(f'gs://{folder}'), [], files


def _remote_path(text: str) -> Path:
    import fsspec  # what only addresses need is imported for them only
    from etils import epath

    # TensorStore and other hosts write, too, so what gcsfs listed once may be wrong later.
    fsspec.config.conf.setdefault('gcs', {}).setdefault('use_listings_cache', False)
    logging.getLogger('gcsfs').setLevel(logging.CRITICAL)  # it logs the errors that it raises
    return epath.Path(text)
