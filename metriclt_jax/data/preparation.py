"""Original files to records, once: read, check, write."""

import inspect
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from metriclt_jax.data import decoding, records, storage
from metriclt_jax.data.sources import READERS
from metriclt_jax.data.sources.common import Source, expanded
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked

_log = logging.getLogger(__name__)

# What array_record adds to an image and to a file, at most.
_OVERHEAD, _FILE_OVERHEAD = 512, 2**20


def prepare(
    dataset: str,
    source: str | None,
    data_dir: os.PathLike | str,
    name: str = '',
    announce: Callable[[str], None] = _log.info,
    **options: Any,
) -> epath.Path:
    """Writes the records of a data set, unless they exist already; returns their folder.

    The source is checked completely, down to the pixels, before records are written. The records
    appear in one step when they are complete; of two processes, the second waits for the first.

    Args:
        dataset: a key of READERS.
        source: the folder (or file) with the original files; ignored by digits_lt.
        data_dir: where prepared data sets lie; may be gs://... .
        name: `data.name` in configs; by default `dataset`.
        announce: called with a sentence that says what will be written.
        **options: further arguments of the reader.
    """
    name = name or dataset
    _check_arguments(dataset, name, options)
    path = records.folder(name, data_dir)
    origin = _origin(source, **options)
    if records.are_complete(path):
        _require_same(name, path, dataset, origin)
        return path
    try:
        original = READERS[dataset](source, **options)
    except OSError as error:
        file = error.filename or source
        raise InputError(f'{file} cannot be read: {error.strerror or error}') from error
    if not original.count:
        raise InputError(f'the source {source} of {name} has no images; it needs at least one')
    local = Path(records.folder(name, storage.local_folder(data_dir)))
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked(local.parent / '.lock'):
            if not records.are_complete(path):
                if storage.is_remote(path):  # a local copy is of records that were removed there
                    shutil.rmtree(local, ignore_errors=True)
                announce(_what_is_written(original, local, name))
                decoding.check_images(original.files)
                with storage.written_aside(local) as aside:
                    records.write(aside, name, original, dataset, origin)
                if storage.is_remote(path):
                    storage.copy_files(epath.Path(local), path, records.LAST)
        _require_same(name, path, dataset, origin)
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for a full disk
        raise InputError(f'{name} cannot be prepared in {data_dir}: {error}') from error
    return path


def is_prepared(name: str, data_dir: os.PathLike | str) -> bool:
    """Whether the records of a data set exist."""
    return records.are_complete(records.folder(name, data_dir))


def _check_arguments(dataset: str, name: str, options: Mapping[str, Any]) -> None:
    if dataset not in READERS:
        raise InputError(f'the data set is {dataset!r}; it must be one of {", ".join(READERS)}')
    if not re.fullmatch(r'[A-Za-z]\w*', name, re.ASCII) or (name in READERS and name != dataset):
        raise InputError(
            f'the name of the data set is {name!r}; use letters, digits and _, a letter first, but '
            'not the name of another data set'
        )
    for option in options.keys() - inspect.signature(READERS[dataset]).parameters.keys():
        raise InputError(f'{dataset} has no option {option}; leave it out')


def _what_is_written(original: Source, path: Path, name: str) -> str:
    """Says what will be written to `path`; `InputError` if it is in use or its disk too full."""
    if path.exists():
        raise InputError(f'{path} is in the way: it is not a prepared data set; remove it first')
    needed = original.num_bytes + _OVERHEAD * original.count + _FILE_OVERHEAD
    free = storage.require_space(path.parent, needed, name)
    note = f', {original.note}' if original.note else ''
    return (
        f'{name}: {original.count:,} images of {len(original.class_names)} classes{note}; writes '
        f'up to {needed / 2**20:,.0f} MiB to {path} ({free / 2**20:,.0f} MiB are free)'
    )


def _origin(
    source: str | None, labels: str | None = None, classes: Sequence[str] = (), **options: Any
) -> dict[str, Any]:
    """Returns those arguments that decide what the records hold."""
    paths = {'source': source, 'labels': labels}
    origin = {k: os.path.realpath(expanded(path)) for k, path in paths.items() if path}
    columns = {key: name for key, name in options.items() if key.endswith('_column')}
    return origin | columns | ({'classes': list(classes)} if classes else {})


def _require_same(name: str, path: epath.Path, dataset: str, origin: Mapping[str, Any]) -> None:
    prepared = records.read_metadata(path)
    if prepared['dataset'] != dataset:
        raise InputError(
            f'{path} is a prepared {prepared["dataset"]}, not {dataset}; use another --name, or '
            'remove that folder'
        )
    for key, value in origin.items():
        if value != prepared['origin'].get(key):
            kept = ', '.join(f'{k} {v}' for k, v in prepared['origin'].items()) or 'no source'
            raise InputError(
                f'{name} is already prepared in {path} from {kept}, not from {key} {value}; delete '
                'that folder or use another --name'
            )
