"""Class probabilities for a folder of images, as a CSV file.

NAME.csv appears when it is complete. Beside it are NAME.made_by.json (the model and the images),
NAME.skipped.csv (unreadable files, if any) and, until then, NAME.partial.csv, from which a killed
command resumes.
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
from typing import BinaryIO, NamedTuple

import numpy as np
from rich.console import Console

from metriclt_jax.data.decoding import in_order
from metriclt_jax.errors import InputError
from metriclt_jax.files import lock_file, read_json, write_atomically
from metriclt_jax.inference import TrainedClassifier, read_image
from metriclt_jax.progress import track


class Predicted(NamedTuple):
    """A complete CSV file, its number of rows, and the skipped files, each as name and reason."""

    csv: Path
    images: int
    skipped: list[list[str]]


class Outputs(NamedTuple):
    """The file to write and those beside it."""

    csv: Path
    partial: Path
    skipped: Path
    made_by: Path


def outputs_of(output: str | Path, folder: Path) -> Outputs:
    """The files of `output`; raises `InputError` if they cannot be written or are in `folder`."""
    path = Path(output).expanduser()
    if path.suffix != '.csv' or not path.parent.is_dir():
        raise InputError(f'--output is {output}; it must be NAME.csv in a folder that exists')
    if path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f'--output is {output}; it must be outside the images in {folder}')
    beside = ('.partial.csv', '.skipped.csv', '.made_by.json')
    return Outputs(path, *(path.with_suffix(suffix) for suffix in beside))


def list_files(folder: Path) -> list[str]:
    """Sorted relative paths of all files below a folder, links followed, hidden ones left out.

    Raises:
        InputError: the folder cannot be read or has no files, a link leads back to it, or a name
            cannot be written to a CSV file.
    """

    def fail(error: OSError) -> None:
        raise InputError(f'folder {error.filename} cannot be read: {error.strerror}') from None

    files = []
    for parent, folders, names in os.walk(folder, onerror=fail, followlinks=True):
        here = Path(parent)
        folders[:] = [name for name in folders if not name.startswith('.')]
        for name in folders:
            if here.resolve().is_relative_to((here / name).resolve()):
                raise InputError(f'{here / name} is a link to a folder that contains it; remove it')
        shown = [name for name in names if not name.startswith('.')]
        files += [(here / name).relative_to(folder).as_posix() for name in shown]
    if not files:
        raise InputError(f'folder {folder} has no files')
    for name in files:
        if '\r' in name:  # Python's csv would not quote it
            raise InputError(f'{name!r} in {folder} has a carriage return in its name; rename it')
    return sorted(files)


def predict_folder(
    classifier: TrainedClassifier,
    folder: Path,
    output: str | Path,
    *,
    skip_bad_files: bool = False,
    console: Console | None = None,
) -> Predicted:
    """Writes the class probabilities of all images below `folder` to `output`.

    The columns are the image's path relative to the folder, the most probable class, and each
    class's probability; rows are sorted by path. All files are checked before prediction starts.
    The same call resumes after a kill.

    Args:
        classifier: from `metriclt_jax.load`.
        folder: images of any sizes; hidden files are ignored.
        output: NAME.csv.
        skip_bad_files: skip unreadable files instead of refusing the folder.
        console: for messages; None prints to the terminal.

    Raises:
        InputError: a folder or file cannot be used, or the output was begun with another model or
            other images.
    """
    names = list_files(folder)
    outputs = outputs_of(output, folder)
    console = console or Console()
    header = ['image', 'predicted', *classifier.class_names]
    made_by = {
        'model_sha256': classifier.fingerprint(),
        'files_sha256': _fingerprint(folder, names),
        'images': str(folder.resolve()),
        'class_names': list(classifier.class_names),
    }
    _require_same(outputs, made_by)
    is_complete = outputs.csv.exists()
    if is_complete:
        _say(console, f'{outputs.csv} is complete; nothing is predicted')
        bad = _read_rows(outputs.skipped, 2)[1:]
    else:
        done = {row[0] for row in _read_rows(outputs.partial, len(header))}
        bad = _unreadable(folder, [name for name in names if name not in done], classifier)
    if bad and not skip_bad_files:
        raise InputError(
            f'{len(bad)} of {len(names)} files in {folder} are not readable images; remove them or '
            f'skip them with --skip_bad_files: {", ".join(describe(bad))}'
        )
    result = Predicted(outputs.csv, len(names) - len(bad), bad)
    if is_complete:
        return result
    try:
        with _open_partial(outputs.partial, header) as (file, rows):
            _require_same(outputs, made_by)  # again, now that no other process writes
            write_atomically(outputs.made_by, json.dumps(made_by, indent=1) + '\n')
            if len(rows) > 1:
                _say(console, f'resuming after {len(rows) - 1} of {result.images} images')
            finished = {name for name, *_ in (*rows, *bad)}
            remaining = [name for name in names if name not in finished]
            _append(file, [] if rows else [header])
            for some, probabilities in classifier.predict_stream(
                _decoded(folder, remaining, classifier)
            ):
                _append(file, _rows(some, probabilities, classifier.class_names))
            os.fsync(file.fileno())
            outputs.skipped.unlink(missing_ok=True)
            if bad:
                write_atomically(outputs.skipped, _to_bytes([['image', 'reason'], *bad]))
            outputs.partial.replace(outputs.csv)
    except OSError as error:
        raise InputError(f'{outputs.csv} cannot be written: {error.strerror or error}') from None
    return result


def describe(files: Sequence[Sequence[str]], most: int = 20) -> Iterator[str]:
    """Names and reasons of the first bad files, and how many more there are."""
    for name, reason in files[:most]:
        yield f'{name} ({reason})'
    if len(files) > most:
        yield f'and {len(files) - most} more'


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of the files' names, sizes and times of modification."""
    digest = hashlib.sha256()
    for name in names:
        path = folder / name
        stat = path.stat() if path.exists() else path.lstat()  # a broken link
        digest.update(os.fsencode(f'{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0'))
    return digest.hexdigest()


def _require_same(outputs: Outputs, made_by: dict) -> None:
    """Checks that what exists at `outputs` was begun with the same model and images."""
    if not any(path.exists() and path.stat().st_size for path in (outputs.csv, outputs.partial)):
        return
    earlier = read_json(outputs.made_by) if outputs.made_by.exists() else {}
    for field, what in (('model_sha256', 'this model'), ('files_sha256', 'these images')):
        if earlier.get(field) != made_by[field]:
            raise InputError(
                f'{outputs.csv} was not begun with {what} (see {outputs.made_by.name}); use '
                f'another --output, or delete {outputs.csv.stem}.*'
            )


def _unreadable(
    folder: Path, names: Sequence[str], classifier: TrainedClassifier
) -> list[list[str]]:
    """The files that are not readable images, each as name and reason."""

    def check(name: str) -> list[str]:
        path = folder / name
        try:
            if not path.is_file():  # reading a pipe would never end
                return [name, 'is not a file']
            read_image(path, classifier.augment.resize)
        except InputError as error:
            return [name, ' '.join(str(error).removeprefix(f'image {path} ').split())]
        return []

    return [found for found in _in_threads(check, names, 'Checking images') if found]


def _decoded(
    folder: Path, names: Sequence[str], classifier: TrainedClassifier
) -> Iterator[tuple[str, np.ndarray]]:
    """The names with their images, decoded a little ahead."""

    def decode(name: str) -> tuple[str, np.ndarray]:
        return name, read_image(folder / name, classifier.augment.resize)

    return _in_threads(decode, names, 'Predicting', 2 * classifier.batch_size)


def _in_threads(function: Callable, names: Sequence[str], what: str, window: int = 64) -> Iterator:
    with ThreadPoolExecutor() as pool:
        yield from track(in_order(pool, function, names, window), what, len(names))


def _rows(
    names: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str]
) -> Iterator[list[str]]:
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
        complete = _to_bytes(rows)
        if rows[:1] not in ([], [list(header)]) or not path.read_bytes().startswith(complete):
            raise InputError(f'{path} was changed by another program; delete it')
        file.truncate(len(complete))
        yield file, rows


def _append(file: BinaryIO, rows: Iterable[Sequence[str]]) -> None:
    file.write(_to_bytes(rows))
    file.flush()  # from now on, a kill of the process does not lose them


def _to_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode('utf-8', 'surrogateescape')  # file names may not be UTF-8


def _read_rows(path: Path, columns: int) -> list[list[str]]:
    """The complete rows of a table, header first; [] if there is no table."""
    if not path.exists():
        return []
    content = path.read_bytes()
    complete = content[: content.rfind(b'\n') + 1].decode('utf-8', 'surrogateescape')
    rows = csv.reader(io.StringIO(complete, newline=''))
    return list(itertools.takewhile(lambda row: len(row) == columns, rows))


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
