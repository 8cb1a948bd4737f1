"""Label files: CSV tables with a row an image, and MATLAB files."""

import collections
import csv
import itertools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from metriclt_jax.errors import InputError


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Reads a CSV file that has (at least) some columns, a row an image, no image twice.

    A byte order mark is skipped, and so are commas at the end of a line with nothing behind them.

    Args:
        path: of the file.
        columns: that it needs, none with an empty field; the first names the image.
        optional: further columns that it may have; a row has '' for those that are not there.

    Raises:
        InputError: the file is no such table, or a row has more fields than the header.
    """
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            header, *lines = [line for line in csv.reader(file) if line] or [[]]
    except FileNotFoundError as error:
        raise InputError(f'there is no file {path}') from error
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f'{path} cannot be read as a CSV file: {error}') from error
    while header and not header[-1].strip():
        header.pop()
    for column in columns:
        if column not in header:
            raise InputError(
                f'{path} has no column {column!r}; it needs the columns {", ".join(columns)}, '
                f'separated by commas, and has {", ".join(header) or "none"}'
            )
    for column in (*columns, *optional):
        if header.count(column) > 1:
            raise InputError(f'{path} has {header.count(column)} columns {column!r}; allowed: one')
    if not lines:
        raise InputError(f'{path} has no rows; it needs one an image')
    rows = []
    key = columns[0]
    for line in lines:
        row = dict(itertools.zip_longest(header, line[: len(header)], fillvalue=''))
        if any(field.strip() for field in line[len(header) :]):
            raise InputError(
                f'{path} has more fields than columns in the row of image {row[key]!r}; allowed: '
                f'the {len(header)} of its first line, with "" around a field that has a comma'
            )
        if any(not row[column] for column in columns):
            raise InputError(f'{path} has an empty field in the row of image {row[key]!r}')
        rows.append(dict.fromkeys(optional, '') | row)
    for image_id, count in collections.Counter(row[key] for row in rows).items():
        if count > 1:
            raise InputError(f'{path} lists image {image_id} {count} times; allowed: once')
    return rows


def read_mat(path: Path, variables: Mapping[str, type]) -> list[np.ndarray]:
    """Reads variables of a MATLAB file that are lists of whole numbers or of texts.

    Args:
        path: of the file.
        variables: from the name of each to `int` or `str`.

    Returns:
        For each variable an array `[N]`, int64 or str.

    Raises:
        InputError: the file cannot be read, or has no such variable of a name.
    """
    from scipy.io import loadmat

    try:
        found = loadmat(path)
    except Exception as error:  # whatever its parser stumbles over
        raise InputError(f'{path} cannot be read as a MATLAB file: {error}') from error
    for name in variables:
        if name not in found:
            raise InputError(f'{path} has no variable {name!r}; it needs {", ".join(variables)}')
    return [_list(path, name, np.ravel(found[name]), kind) for name, kind in variables.items()]


def _list(path: Path, name: str, values: np.ndarray, kind: type) -> np.ndarray:
    if kind is int and values.dtype.kind in 'iuf' and np.all(values % 1 == 0):
        return values.astype(np.int64)
    if kind is str and values.dtype.kind == 'O':  # cells, each an array of one text
        cells = [np.ravel(cell) for cell in values]
        if all(cell.dtype.kind == 'U' and len(cell) == 1 for cell in cells):
            return np.array([str(cell[0]) for cell in cells])
    allowed = {int: 'whole numbers', str: 'cells with one text each'}[kind]
    raise InputError(f'{path} has {name} of the kind {values.dtype}; allowed: {allowed}')


def require_all(
    needed: Collection[str], needed_by: Path, present: Collection[str], present_in: Path
) -> None:
    """Raises `InputError` if an image that one place needs is not present in another."""
    missing = sorted(set(needed) - set(present))
    if missing:
        raise InputError(
            f'{present_in} lacks {len(missing)} of the {len(needed)} images of {needed_by}, the '
            f'first is {missing[0]}'
        )
