"""Class probabilities for a folder of images, as a CSV file.

NAME.csv appears when it is complete. Until then there is NAME.partial.csv, from which a killed
command resumes. NAME.made_by.json names the model and the images, NAME.skipped.csv the unreadable
files, if any.
"""

import csv
import hashlib
import io
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from rich.console import Console

from metriclt_jax.data.decoding import in_order
from metriclt_jax.data.preparation import listed, to_csv
from metriclt_jax.data.sources.common import hidden
from metriclt_jax.errors import InputError
from metriclt_jax.files import lock_file, read_json, write_atomically
from metriclt_jax.inference import TrainedClassifier, read_image
from metriclt_jax.progress import say, track


def list_files(folder: Path) -> list[str]:
    """Sorted relative paths of all files below a folder; follows links, ignores `hidden` ones."""

    def fail(error: OSError) -> None:
        raise InputError(f'folder {error.filename} cannot be read: {error.strerror}') from None

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(parent)
        folders[:] = [name for name in folders if not hidden(name)]
        above = {up.resolve() for up in (here, *here.parents) if up.is_relative_to(folder)}
        for path in (here / name for name in folders):
            if path.resolve() in above:
                raise InputError(f'{path} is a link to a folder that contains it; remove it')
        shown = [here / name for name in names if not hidden(name)]
        files += [path.relative_to(folder).as_posix() for path in shown]
    if not files:
        raise InputError(f'folder {folder} has no files')
    for name in files:
        if '\r' in name:  # Python's csv would not quote it
            raise InputError(f'{name!r} in {folder} has a carriage return in its name; rename it')
    return sorted(files)


def predict_folder(
    classifier: TrainedClassifier,
    folder: Path,
    output: Path,
    console: Console,
    *,
    skip_bad_files: bool = False,
) -> None:
    """Writes the class probabilities of all images below `folder` to `output`, NAME.csv.

    The columns are the image's path relative to the folder, the most probable class, and each
    class's probability; rows are sorted by path. Hidden files are ignored. All files are checked
    before prediction starts. The same call resumes after a kill; with another model or other images
    it raises `InputError`.
    """
    names = list_files(folder)
    if output.suffix != '.csv' or not output.parent.is_dir():
        raise InputError(f'--output is {output}; it must be NAME.csv in a folder that exists')
    if output.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f'--output is {output}; it must be outside the images in {folder}')
    partial, skipped = output.with_suffix('.partial.csv'), output.with_suffix('.skipped.csv')
    side = classifier.augment.resize
    made_by = {
        'model_sha256': classifier.fingerprint(),
        'files_sha256': _fingerprint(folder, names),
        'images': str(folder.resolve()),
        'class_names': list(classifier.class_names),
    }
    _require_same(output, partial, made_by)
    if output.exists():
        without = f', without the files in {skipped}' if skipped.exists() else ''
        say(f'{output} is complete already{without}', console)
        return
    header = ['image', 'predicted', *classifier.class_names]
    done = {row[0] for row in _read_rows(partial, len(header))[1:]}
    left = [name for name in names if name not in done]
    checked = _in_threads(lambda name: _problem(folder, name, side), left, 'Checking images')
    bad = [found for found in checked if found]
    if bad and not skip_bad_files:
        raise InputError(
            f'{len(bad)} of {len(names)} files in {folder} are not readable images; remove them or '
            f'skip them with --skip_bad_files: {listed(bad)}'
        )
    total = len(names) - len(bad)
    try:
        with _open_partial(partial, header) as (file, rows):
            _require_same(output, partial, made_by)  # again, as no other process writes now
            write_atomically(output.with_suffix('.made_by.json'), json.dumps(made_by) + '\n')
            if len(rows) > 1:
                say(f'resuming after {len(rows) - 1} of {total} images', console)
            _append(file, [] if rows else [header])
            finished = {row[0] for row in (*rows[1:], *bad)}
            left = [name for name in names if name not in finished]
            images = _in_threads(lambda name: read_image(folder / name, side), left, 'Predicting')
            for some, probabilities in classifier.predict_stream(zip(left, images, strict=True)):
                _append(file, _rows(some, probabilities, classifier.class_names))
            os.fsync(file.fileno())
            skipped.unlink(missing_ok=True)
            if bad:
                write_atomically(skipped, to_csv([['image', 'reason'], *bad]))
            partial.replace(output)
    except OSError as error:
        raise InputError(f'{output} cannot be written: {error.strerror or error}') from None
    about_bad = f'; {len(bad)} unreadable files are listed in {skipped}' if bad else ''
    say(f'{output} has {total} images{about_bad}', console)


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of the files' names, sizes and times of modification."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        stat = path.stat() if path.exists() else path.lstat()  # a broken link
        digest.update(os.fsencode(f'{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0'))
    return digest.hexdigest()


def _require_same(output: Path, partial: Path, made_by: dict) -> None:
    """Refuses to go on with an output that was begun with another model or other images."""
    if not any(path.exists() and path.stat().st_size for path in (output, partial)):
        return
    record = output.with_suffix('.made_by.json')
    earlier = read_json(record) if record.exists() else {}
    depends_on = {'model_sha256': 'a different model', 'files_sha256': 'different images'}
    for field, what in depends_on.items():
        if earlier.get(field) != made_by[field]:
            raise InputError(
                f'{output} was started with {what} (see {record.name}); use another --output, or '
                f'delete {output.stem}.*'
            )


def _problem(folder: Path, name: str, side: int) -> list[str]:
    """Name and reason of a file that is not a readable image; [] if it is one."""
    path = folder / name
    try:
        if not path.is_file():  # reading a pipe would never end
            return [name, 'is not a file']
        read_image(path, side)
    except InputError as error:
        return [name, ' '.join(str(error).removeprefix(f'image {path} ').split())]
    return []


def _in_threads(function: Callable, names: Sequence[str], what: str) -> Iterator:
    with ThreadPoolExecutor() as pool:
        yield from track(in_order(pool, function, names), what, len(names))


def _rows(names: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str]) -> Iterator:
    """The rows of a batch; probabilities have the fewest digits that give the same float32."""
    predicted = probabilities.argmax(axis=1)
    for name, index, row in zip(names, predicted, probabilities.astype(str), strict=True):
        yield [name, class_names[index], *row]


@contextmanager
def _open_partial(path: Path, header: Sequence[str]) -> Iterator[tuple[BinaryIO, list[list[str]]]]:
    """The table, locked and without the row that was being written at a kill, and its rows."""
    with path.open('ab') as file:
        lock_file(file, busy=f'another process is writing {path}; wait for it')
        if not path.exists():
            raise InputError(f'another process has just completed {path}; start again')
        rows = _read_rows(path, len(header))
        complete = to_csv(rows)
        if rows[:1] not in ([], [list(header)]) or not path.read_bytes().startswith(complete):
            raise InputError(f'{path} was changed by another program; delete it')
        file.truncate(len(complete))
        yield file, rows


def _append(file: BinaryIO, rows: Iterable[Sequence[str]]) -> None:
    file.write(to_csv(rows))
    file.flush()  # from now on, a kill of the process does not lose them


def _read_rows(path: Path, columns: int) -> list[list[str]]:
    """The complete rows of a table, header first; [] if there is no table."""
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b'\n') + 1].decode('utf-8', 'surrogateescape')
    rows = csv.reader(io.StringIO(complete, newline=''))
    return list(itertools.takewhile(lambda row: len(row) == columns, rows))
