"""Original files to records, once: read, check, write; later, compare with the original files."""

import collections
import csv
import dataclasses
import inspect
import io
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from etils import epath

from metriclt_jax.data import decoding, records, storage
from metriclt_jax.data.changes import find_changes
from metriclt_jax.data.sources import OWN, READERS
from metriclt_jax.data.sources.common import Source, is_inside
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.paths import is_remote, local_path, reached
from metriclt_jax.progress import track

SKIPPED = 'skipped.csv'  # beside the records: files that were left out, and why

_log = logging.getLogger(__name__)

# What array_record adds to an image and to a file, at most.
_OVERHEAD, _FILE_OVERHEAD = 512, 2**20
_NAMED = 20  # files in a message
_PATHS = ('source', 'labels')  # options that are paths


def prepare(
    dataset: str,
    source: str | None,
    data_dir: os.PathLike | str,
    name: str = '',
    announce: Callable[[str], None] = _log.info,
    *,
    skip_bad_files: bool = False,
    **options: Any,
) -> epath.Path:
    """Writes the records of a data set, unless they exist already; returns their folder.

    The source is checked completely, down to the pixels, before records are written, which appear
    in one step when they are complete. Records that exist are compared with the source.

    Args:
        dataset: a key of READERS.
        source: the folder (or file) with the original files; ignored by digits_lt.
        data_dir: where prepared data sets lie; may be gs://... .
        name: `data.name` in configs; by default `dataset`.
        announce: called with sentences on what will be written, is left out or is not compared.
        skip_bad_files: leaves out, and lists beside the records, files that cannot be used and
            identical files with different labels, instead of refusing the source.
        **options: further arguments of the reader.
    """
    name = name or dataset
    _check_arguments(dataset, name, options)
    path = records.folder(name, data_dir)
    given = _given(source, options)
    if records.are_complete(path):
        _require_same(name, path, data_dir, dataset, given, announce)
        return path
    local = Path(records.folder(name, storage.local_folder(data_dir)))
    classes_are_folders = dataset == OWN and source and not options.get('labels')
    if classes_are_folders and is_inside(local, local_path(source)):
        raise InputError(
            f'the data folder {data_dir} is inside the source {source}, whose folders are classes; '
            'use another --data_dir'
        )
    original = _read(dataset, {'source': source, **options})
    if not original.count and not original.unusable:
        raise InputError(f'the source {source} of {name} has no images; it needs at least one')
    written = False
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked(local.parent / '.lock'):
            if not records.are_complete(path):
                if is_remote(path):  # a local copy is of records that were removed there
                    shutil.rmtree(local, ignore_errors=True)
                announce(_what_is_written(original, local, name))
                bad = _bad_files(original, own=dataset == OWN)
                total = len({*original.files, *bad})
                if bad and not skip_bad_files:
                    raise InputError(
                        f'{len(bad)} of the {total} files of {name} cannot be used; mend or remove '
                        f'them, or leave them out with --skip_bad_files: {listed(bad.items())}'
                    )
                if bad:
                    announce(f'left out: {len(bad)} of the {total} files, {listed(bad.items())}')
                    original = _without(original, bad)
                if not original.count:
                    raise InputError(f'{name} has no images but those that cannot be used')
                with storage.written_aside(local) as aside:
                    if bad:
                        root = given.get('source', '')
                        rows = [(_inside(file, root), reason) for file, reason in bad.items()]
                        (aside / SKIPPED).write_bytes(to_csv([('file', 'reason'), *rows]))
                    records.write(aside, name, original, dataset, given)
                if is_remote(path):
                    storage.copy_files(epath.Path(local), path, records.LAST)
                written = True
    except (OSError, RuntimeError) as error:  # array_record raises RuntimeError for a full disk
        raise InputError(f'{name} cannot be prepared in {data_dir}: {error}') from error
    if not written:  # another process did it meanwhile
        _require_same(name, path, data_dir, dataset, given, announce)
    return path


def is_prepared(name: str, data_dir: os.PathLike | str) -> bool:
    """Whether the records of a data set exist."""
    return records.are_complete(records.folder(name, data_dir))


def skipped_files(path: epath.Path) -> list[str]:
    """Returns the files that records were prepared without, as paths in the source."""
    with reached(path):
        if not (path / SKIPPED).exists():
            return []
        text = (path / SKIPPED).read_bytes().decode('utf-8', 'surrogateescape')
    return [row[0] for row in csv.reader(io.StringIO(text, newline=''))][1:]


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


def _given(source: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those arguments that decide what the records hold; they are kept with them."""
    given = {name: value for name, value in {'source': source, **options}.items() if value}
    paths = {k: os.path.realpath(local_path(given[k])) for k in _PATHS if k in given}
    return given | paths


def _require_same(
    name: str, path: epath.Path, data_dir, dataset: str, given: Mapping[str, Any], announce
) -> None:
    """Refuses records that were not made of what the source holds now."""
    prepared = records.read_metadata(path)
    if prepared['dataset'] != dataset:
        raise InputError(
            f'{path} is a prepared {prepared["dataset"]}, not {dataset}; use another --name, or '
            'remove that folder'
        )
    skipped = set(skipped_files(path))
    if skipped:
        announce(f'{name} was prepared without {len(skipped)} of its files: {path / SKIPPED}')
    arguments = {**prepared['origin'], **given}
    if dataset == 'digits_lt':  # comes with a package
        return
    gone = [arguments[k] for k in _PATHS if k in arguments and not os.path.exists(arguments[k])]
    if 'source' not in arguments or gone:
        if arguments == prepared['origin']:
            what = f'{gone[0]} is gone' if gone else 'no source is given'
            announce(f'{name} was not compared with its source: {what}')
            return
        raise InputError(
            f'{name} is already prepared in {path}, but cannot be compared: there is no '
            f'{gone[0] if gone else "source"}'
        )
    try:
        now = _read(dataset, arguments)
        left_out = {f for f in now.files if _inside(f, arguments['source']) in skipped}
        now = _without(now, left_out)
        examples = track(now.examples, f'Comparing {name}', now.count)
        if records.fingerprint(now.class_names, examples) == prepared['fingerprint']:
            return
    except (InputError, OSError) as error:
        raise InputError(
            f'{name} is prepared in {path}, but its source can no longer be read: {error}'
        ) from error
    now = _without(_read(dataset, arguments), left_out)  # a lazy one is read only once
    differences = find_changes(records.open_records(name, data_dir), now)
    if differences:
        raise InputError(
            f'the source of {name} is not what was prepared in {path}: {"; ".join(differences)}; '
            'delete that folder to prepare it anew, or use another --name'
        )


def _read(dataset: str, arguments: Mapping[str, Any]) -> Source:
    try:
        return READERS[dataset](**arguments)
    except OSError as error:
        file = error.filename or arguments['source']
        raise InputError(f'{file} cannot be read: {error.strerror or error}') from error


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


def _bad_files(original: Source, own: bool) -> dict[Path, str]:
    """Returns the files that cannot be used, by the reader, by decoding or by their own labels."""
    bad = dict(original.unusable)
    if not original.files:  # the examples may be lazy, and are made by the reader
        return bad
    examples = [example for example in original.examples if isinstance(example.image, Path)]
    same = collections.defaultdict(list)
    checked = decoding.check_images(original.files)
    for example, (problem, digest) in zip(examples, checked, strict=True):
        if problem:
            bad[example.image] = problem
        else:
            same[digest].append(example)
    names = original.class_names
    for equal in same.values() if own else ():
        for example in equal:
            other = next((other for other in equal if other.label != example.label), None)
            if other is not None:
                label, its = names[example.label], names[other.label]
                bad[example.image] = f'{label}, while the same file {other.image} is {its}'
    return bad


def listed(bad: Collection[tuple[Path | str, str]]) -> str:
    """Returns the first bad files of a list, with their reasons."""
    named = [f'{path} ({reason})' for path, reason in list(bad)[:_NAMED]]
    more = f' and {len(bad) - _NAMED} more' if len(bad) > _NAMED else ''
    return ', '.join(named) + more


def to_csv(rows: Iterable[Sequence[str]]) -> bytes:
    """Returns a table as the bytes of a CSV file; file names in it may not be UTF-8."""
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode('utf-8', 'surrogateescape')


def _inside(path: Path, root: str) -> str:
    """Returns a path as it is in the source, wherever that lies."""
    return os.path.relpath(Path(os.path.realpath(path.parent), path.name), root)


def _without(original: Source, bad: Collection[Path]) -> Source:
    """Returns the source without some files."""
    if not original.files:
        return original
    examples = [example for example in original.examples if example.image not in bad]
    files = [example.image for example in examples]
    return dataclasses.replace(original, examples=examples, count=len(examples), files=files)
