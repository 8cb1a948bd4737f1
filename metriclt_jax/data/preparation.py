"""Original files to records, once: read, check, write."""

import functools
import inspect
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from metriclt_jax.data import decoding, records, remote
from metriclt_jax.data.builders import (
    digits_lt,
    dogs_lt,
    flower_lt,
    folder,
    medmnist,
    skin7,
    xray9,
)
from metriclt_jax.data.builders.source import Source
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked

READERS: Mapping[str, Callable[..., Source]] = {
    'skin7': skin7.read_source,
    'xray9': xray9.read_source,
    'pathmnist_lt': functools.partial(medmnist.read_source, 'pathmnist'),
    'flower_lt': flower_lt.read_source,
    'dogs_lt': dogs_lt.read_source,
    'digits_lt': digits_lt.read_source,
    'folder': folder.read_source,
} | {
    name: functools.partial(medmnist.read_source, name)
    for name in medmnist.SETS
    if name != 'pathmnist'
}
"""What reads the original files of each data set."""

_log = logging.getLogger(__name__)

# What array_record adds to an image and to a file, at most.
_OVERHEAD, _FILE_OVERHEAD = 512, 2**20
_SHOWN = 300  # characters of a path in a message


def prepare(
    dataset: str,
    source: str | None,
    data_dir: os.PathLike | str,
    name: str = '',
    announce: Callable[[str], None] = _log.info,
    **options: Any,
) -> epath.Path:
    """Writes the records of a data set, unless they are there already; returns their folder.

    The source is checked completely, down to the pixels, before records are written; a check that
    was cut off goes on where it was. The records appear in one step when they are complete, and of
    two processes the second waits for the first.

    Args:
        dataset: a key of READERS.
        source: the folder (or file) with the original files; not used by digits_lt.
        data_dir: where prepared data sets lie, also gs://... .
        name: of the prepared data set, as configs call it; '' is the same as `dataset`.
        announce: is called with a sentence that says what will be written.
        **options: further arguments of the reader.

    Raises:
        InputError: unknown data set, a source that is not as expected or not the one that was
            prepared under this name, or a folder that cannot be written to.
    """
    if dataset not in READERS:
        raise InputError(f'the data set is {dataset!r}; allowed: {", ".join(READERS)}')
    name = name or dataset
    if not re.fullmatch(r'[A-Za-z]\w*', name, re.ASCII):
        raise InputError(
            f'the name of the data set is {name!r}; allowed: letters, digits and _, a letter first'
        )
    if name in READERS and name != dataset:
        raise InputError(
            f'the name of the data set is {name!r}, which is another data set; allowed: a name '
            'that is not ' + ', '.join(READERS)
        )
    for option in options.keys() - inspect.signature(READERS[dataset]).parameters.keys():
        raise InputError(f'{dataset} has no option {option}; allowed: without it')
    path = records.folder(name, data_dir)
    origin = _origin(source, **options)
    if records.are_complete(path):
        _require_same(name, path, dataset, origin)
        return path
    try:
        original = READERS[dataset](source, **options)
    except OSError as error:
        file = str(error.filename or source)
        raise InputError(
            f'{file[:_SHOWN]}{"..." * (len(file) > _SHOWN)} cannot be read: '
            f'{error.strerror or error}'
        ) from error
    if not original.count:
        raise InputError(f'the source {source} of {name} has no images; it needs at least one')
    local = Path(records.folder(name, remote.local_folder(data_dir)))
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked(local.parent / '.lock'):
            if not records.are_complete(path):
                if remote.is_remote(path):  # a copy here is of records that were removed there
                    shutil.rmtree(local, ignore_errors=True)
                _write(original, local, name, dataset, origin, announce)
                if remote.is_remote(path):
                    records.upload(local, path)
        _require_same(name, path, dataset, origin)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of array_record
        raise InputError(f'{name} cannot be prepared in {data_dir}: {error}') from error
    return path


def is_prepared(name: str, data_dir: os.PathLike | str) -> bool:
    """Whether the records of a data set are there."""
    return records.are_complete(records.folder(name, data_dir))


def _write(
    original: Source,
    path: Path,
    name: str,
    dataset: str,
    origin: Mapping[str, Any],
    announce: Callable[[str], None],
) -> None:
    if path.exists():
        raise InputError(f'{path} is in the way: it is not a prepared data set; remove it first')
    needed = original.num_bytes + _OVERHEAD * original.count + _FILE_OVERHEAD
    free = remote.require_space(path.parent, needed, name)
    announce(
        f'{name}: {original.count:,} images of {len(original.class_names)} classes'
        f'{", " * bool(original.note)}{original.note}; writes up to {needed / 2**20:,.0f} MiB to '
        f'{path} ({free / 2**20:,.0f} MiB are free)'
    )
    checked = path.parent / '.checked'
    _check_images(original.files, checked)
    with records.written_aside(path) as aside:
        records.write(
            aside,
            name,
            original.class_names,
            original.examples,
            original.count,
            original.num_bytes,
            dataset,
            origin,
        )
    checked.unlink(missing_ok=True)


def _check_images(files: Sequence[Path], checked: Path) -> None:
    """Checks the images but for those that are in the list `checked`, which is added to.

    A line is an image as it was, so one that has changed since is checked again.
    """
    lines = checked.read_text().splitlines() if checked.exists() else ()
    known = set(lines)
    states = {file: _state(file) for file in files}
    with checked.open('a', buffering=1) as log:
        decoding.check_images(
            [file for file, state in states.items() if state not in known],
            lambda file: log.write(states[file] + '\n'),
        )


def _state(file: Path) -> str:
    stat = file.stat()
    return f'{stat.st_size} {stat.st_mtime_ns} {os.path.realpath(file)!r}'


def _origin(
    source: str | None,
    labels: str | None = None,
    classes: Sequence[str] = (),
    **_: Any,
) -> dict[str, Any]:
    """Returns what was given of that which decides what the records hold."""

    def resolved(path: str) -> str:
        return os.path.realpath(Path(path).expanduser())

    paths = {'source': source, 'labels': labels}
    origin: dict[str, Any] = {key: resolved(path) for key, path in paths.items() if path}
    return origin | ({'classes': list(classes)} if classes else {})


def _require_same(
    name: str, path: os.PathLike | str, dataset: str, origin: Mapping[str, Any]
) -> None:
    """Raises `InputError` if the records are not of this data set, or not of what was given."""
    prepared = records.read_metadata(path)
    if prepared['dataset'] != dataset:
        raise InputError(
            f'{path} is a prepared {prepared["dataset"]}, not {dataset}; allowed: another name '
            '(--name), or remove that folder'
        )
    kept = prepared['origin']
    for key in origin:
        if origin[key] != kept.get(key):
            shown = [_shown(key, value) for key, value in kept.items()] or ['no source']
            raise InputError(
                f'{name} is already prepared in {path} from {", ".join(shown)}, not from '
                f'{_shown(key, origin[key])}; delete that folder or use another --name'
            )


def _shown(key: str, value: Any) -> str:
    return value if key == 'source' else f'{key} {value}'
