"""Class probabilities for a folder of images, as a CSV file.

Beside NAME.csv, which appears when it is complete, lie NAME.made_by.json, NAME.skipped.csv (files
that were left out, if any) and until then NAME.partial.csv. A command that was killed goes on from
these files.
"""

import csv
import fcntl
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from rich.console import Console

from metriclt_jax.data.decoding import in_order
from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json, write_atomically
from metriclt_jax.inference import TrainedClassifier, read_image
from metriclt_jax.progress import track


class Predicted(NamedTuple):
    """What a complete CSV file holds.

    Attributes:
        images: number of its rows.
        skipped: files that were left out, each as name and reason.
        csv: the file.
    """

    images: int
    skipped: list[list[str]]
    csv: Path


class Outputs(NamedTuple):
    """The file that is asked for and those beside it."""

    csv: Path
    partial: Path
    skipped: Path
    made_by: Path


@dataclass(frozen=True)
class _Table:
    """A CSV file that grows by whole rows; `keys` are the first columns of its earlier ones."""

    path: Path
    file: BinaryIO
    keys: frozenset[str]

    def append(self, rows: Iterable[Sequence[str]]) -> None:
        """Adds rows; when this returns, a kill of the process does not lose them."""
        self.file.write(_to_bytes(rows))
        self.file.flush()

    def move_to(self, path: Path) -> None:
        """Gives the table, now complete, its final name."""
        os.fsync(self.file.fileno())
        self.path.replace(path)


def outputs_of(output: str | Path, folder: Path) -> Outputs:
    """The files for `output`; raises `InputError` where they cannot be."""
    path = Path(output).expanduser()
    if path.suffix != '.csv' or not path.parent.is_dir():
        raise InputError(f'--output is {output}; allowed: NAME.csv in a folder that exists')
    if path.parent.resolve().is_relative_to(folder.resolve()):
        raise InputError(f'--output is {output}, among the images; allowed: outside of {folder}')
    beside = ('.partial.csv', '.skipped.csv', '.made_by.json')
    return Outputs(path, *(path.with_suffix(suffix) for suffix in beside))


def list_files(folder: Path) -> list[str]:
    """Paths of all files below a folder, relative to it and sorted.

    Hidden files and folders are left out, links are followed.

    Raises:
        InputError: there is no such folder, it has no files, a link leads back to it, or a file has
            an impossible name.
    """
    if not folder.is_dir():
        raise InputError(f'there is no folder {folder}')
    files = sorted(path.relative_to(folder).as_posix() for path in _walk(folder, ()))
    if not files:
        raise InputError(f'folder {folder} has no files; allowed: one image or more')
    for name in files:
        if '\r' in name:  # which Python's csv would not quote
            raise InputError(f'{name!r} in {folder} has a carriage return in its name; rename it')
    return files


def _walk(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    above = (*above, folder.resolve())
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith('.')]
    except OSError as error:
        raise InputError(f'folder {folder} cannot be read: {error.strerror}') from None
    for path in entries:
        if not path.is_dir():
            yield path
        elif path.resolve() in above:
            raise InputError(f'{path} is a link to a folder that it lies in; remove it')
        else:
            yield from _walk(path, above)


def predict_folder(
    classifier: TrainedClassifier,
    folder: Path,
    output: str | Path,
    *,
    skip_bad_files: bool = False,
    console: Console | None = None,
) -> Predicted:
    """Writes the class probabilities of all images below `folder` to `output`, or goes on with it.

    The columns are the path of the image relative to the folder, the most probable class and a
    probability for each class; the rows are in the order of the paths.

    Args:
        classifier: from `metriclt_jax.load`.
        folder: of images of any sizes; hidden files are ignored.
        output: NAME.csv.
        skip_bad_files: leave out files that are no readable images; otherwise all are decoded once
            before anything is predicted.
        console: where it is said what is done; the terminal if None.

    Raises:
        InputError: a folder or file that cannot be used, a file that is no readable image, or an
            output that another model, or other images, began.
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
    skipped = _read_rows(outputs.skipped, 2)[1:]
    if skipped and not skip_bad_files:
        raise InputError(
            f'{outputs.csv} was begun with --skip_bad_files and lacks {len(skipped)} of the files '
            f'in {folder}; give that flag again, or another --output'
        )
    if outputs.csv.exists():
        _say(console, f'{outputs.csv} is complete; nothing is predicted')
        return Predicted(len(names) - len(skipped), skipped, outputs.csv)
    if not skip_bad_files:
        done = {row[0] for row in _read_rows(outputs.partial, len(header))}
        _require_good(folder, [name for name in names if name not in done], classifier)
    try:
        with (
            _open_table(outputs.partial, header) as rows,
            _open_table(outputs.skipped, ['image', 'reason']) as left_out,
        ):
            _require_same(outputs, made_by)  # again, now that no other process is at it
            write_atomically(outputs.made_by, json.dumps(made_by, indent=1) + '\n')
            remaining = [name for name in names if name not in rows.keys | left_out.keys]
            if len(remaining) < len(names):
                done = len(names) - len(remaining)
                _say(console, f'going on after {done} of {len(names)} files')
            _predict(classifier, folder, remaining, rows, left_out if skip_bad_files else None)
            rows.move_to(outputs.csv)
        skipped = _read_rows(outputs.skipped, 2)[1:]
        if not skipped:
            outputs.skipped.unlink()
    except OSError as error:
        raise InputError(f'{outputs.csv} cannot be written: {error.strerror or error}') from None
    return Predicted(len(names) - len(skipped), skipped, outputs.csv)


def _predict(
    classifier: TrainedClassifier,
    folder: Path,
    names: Sequence[str],
    rows: _Table,
    left_out: _Table | None,
) -> None:
    """Adds the rows of the images `names`; a bad one goes to `left_out`, or is an error if None."""

    def good() -> Iterator[tuple[str, np.ndarray]]:
        for name, image in _decoded(folder, names, classifier, 'Predicting'):
            if not isinstance(image, InputError):
                yield name, image
            elif left_out is None:
                raise image
            else:
                left_out.append([[name, _reason(folder, name, image)]])

    for some, probabilities in classifier.predict_stream(good()):
        rows.append(_rows(some, probabilities, classifier.class_names))


def describe(files: Sequence[Sequence[str]], most: int = 20) -> Iterator[str]:
    """Texts on bad files with their reasons: of the first of them, and how many more there are."""
    for name, reason in files[:most]:
        yield f'{name} ({reason})'
    if len(files) > most:
        yield f'and {len(files) - most} more'


def _decoded(
    folder: Path, names: Sequence[str], classifier: TrainedClassifier, what: str
) -> Iterator[tuple[str, np.ndarray | InputError]]:
    """Images in the order of `names`, decoded in threads a little ahead, or what is wrong."""

    def decoded(name: str) -> tuple[str, np.ndarray | InputError]:
        path = folder / name
        try:
            if not path.is_file():  # reading a pipe would wait for ever
                raise InputError(f'image {path} cannot be read: it is no file')
            return name, read_image(path, classifier.augment.resize)
        except InputError as error:
            return name, error

    with ThreadPoolExecutor() as pool:
        window = 2 * classifier.batch_size
        yield from track(in_order(pool, decoded, names, window), what, len(names))


def _require_good(folder: Path, names: Sequence[str], classifier: TrainedClassifier) -> None:
    bad = [
        (name, _reason(folder, name, image))
        for name, image in _decoded(folder, names, classifier, 'Checking images')
        if isinstance(image, InputError)
    ]
    if bad:
        raise InputError(
            f'{len(bad)} of {len(names)} files in {folder} are no readable images, remove them or '
            f'leave them out with --skip_bad_files: {", ".join(describe(bad))}'
        )


def _reason(folder: Path, name: str, error: InputError) -> str:
    text = str(error).removeprefix(f'image {folder / name} ')
    return ' '.join(text.split())


def _rows(
    names: Sequence[str], probabilities: np.ndarray, class_names: Sequence[str]
) -> Iterator[list[str]]:
    """The rows of a batch; probabilities have the fewest digits that give the same float32."""
    predicted = probabilities.argmax(axis=1)
    for name, index, row in zip(names, predicted, probabilities.astype(str), strict=True):
        yield [name, class_names[index], *row]


def _fingerprint(folder: Path, names: Sequence[str]) -> str:
    """SHA-256 of what the files are called, how large they are and when they were changed."""
    digest = hashlib.sha256()
    for name in names:
        try:
            stat = (folder / name).stat()
        except OSError:  # a link that leads nowhere
            stat = (folder / name).lstat()
        digest.update(os.fsencode(f'{name}\0{stat.st_size}\0{stat.st_mtime_ns}\0'))
    return digest.hexdigest()


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)


def _require_same(outputs: Outputs, made_by: dict) -> None:
    """Checks that what lies at `outputs` was begun with the same model and images."""
    if not outputs.made_by.exists():
        # A kill before it was written leaves headers at most.
        tables = [path for path in (outputs.partial, outputs.skipped) if _has_rows(path)]
        unknown = [outputs.csv] * outputs.csv.exists() + tables
        if unknown:
            raise InputError(
                f'{unknown[0]} exists and {outputs.made_by}, which says what made it, does not; '
                'use another --output, or delete it'
            )
        return
    earlier = read_json(outputs.made_by)
    for field, what in (('model_sha256', 'another model'), ('files_sha256', 'other files')):
        if not isinstance(earlier, dict) or earlier.get(field) != made_by[field]:
            raise InputError(
                f'{outputs.csv} was begun with {what} than now (see {outputs.made_by}); use '
                f'another --output, or delete {outputs.csv.stem}.*'
            )


def _has_rows(table: Path) -> bool:
    return table.exists() and table.read_bytes().count(b'\n') > 1


@contextmanager
def _open_table(path: Path, header: Sequence[str]) -> Iterator[_Table]:
    """A table, without the row that was being written at a kill; for one process at a time."""
    with path.open('ab') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process
        except BlockingIOError:
            raise InputError(f'another process is writing {path}; wait for it') from None
        if not (path.exists() and os.path.samestat(path.stat(), os.fstat(file.fileno()))):
            raise InputError(f'another process has just moved {path}; start again')
        rows = _read_rows(path, len(header))
        complete = _to_bytes(rows)
        if rows[:1] not in ([], [list(header)]) or not path.read_bytes().startswith(complete):
            raise InputError(f'{path} was changed by something else; delete it')
        file.truncate(len(complete))
        table = _Table(path, file, frozenset(row[0] for row in rows[1:]))
        if not rows:
            table.append([header])
        yield table


def _to_bytes(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(rows)
    return text.getvalue().encode('utf-8', 'surrogateescape')  # names need not be UTF-8


def _read_rows(path: Path, columns: int) -> list[list[str]]:
    """The complete rows of a table, its header first; [] where there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    complete = content[: content.rfind(b'\n') + 1].decode('utf-8', 'surrogateescape')
    rows = csv.reader(io.StringIO(complete, newline=''))
    return list(itertools.takewhile(lambda row: len(row) == columns, rows))
