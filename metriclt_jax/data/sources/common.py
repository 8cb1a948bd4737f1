"""What readers return and share: checks of folders and names, label files."""

import collections
import csv
import dataclasses
import io
import itertools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metriclt_jax.errors import InputError, explained

SUFFIXES = (
    '.bmp', '.dcm', '.dib', '.dicom', '.gif', '.j2c', '.j2k', '.jfif', '.jp2', '.jpe', '.jpeg',
    '.jpf', '.jpg', '.jpx', '.pbm', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp',
)  # fmt: skip
"""Endings of image files, in lower case."""


class Example(NamedTuple):
    """One image, in a record or on its way there."""

    image_id: str
    label: int
    group: str  # the lesion or patient; '' if unknown
    image: bytes | Path  # the encoded image, or (never when read from a record) its file
    part: str = ''  # 'train', 'validation' or 'test' if the data set has official parts


@dataclasses.dataclass(frozen=True)
class Source:
    """The original files of a data set, read and checked except for the pixels."""

    class_names: tuple[str, ...]  # [C]
    examples: Iterable[Example] = dataclasses.field(repr=False)  # by ascending id; may be lazy
    count: int  # number of examples
    num_bytes: int  # upper bound on the size of their images
    files: Sequence[Path] = dataclasses.field(repr=False, default=())  # to be checked by decoding
    note: str = ''  # what else the reader found, to be shown to the user
    unusable: Mapping[Path, str] = dataclasses.field(default_factory=dict)  # files, and why not


def from_examples(
    class_names: Sequence[str], examples: Iterable[Example], note: str = ''
) -> Source:
    """Returns the source of examples in any order, after a check of all names."""
    examples = sorted(examples, key=lambda example: example.image_id)
    names = {'class': sorted(class_names), 'image': [example.image_id for example in examples]}
    for kind, given in names.items():
        for name in given:
            require_name(kind, name)
        for first, second in itertools.pairwise(given):
            if first == second:
                raise InputError(f'{kind} {first} is listed twice; list it once')
    for group in sorted({example.group for example in examples} - {''}):
        require_name('group', group)
    files = [example.image for example in examples if isinstance(example.image, Path)]
    num_bytes = sum(
        image.stat().st_size if isinstance(image, Path) else len(image)
        for image in (example.image for example in examples)
    )
    return Source(tuple(class_names), examples, len(examples), num_bytes, files, note)


def to_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 `[H, W]` or `[H, W, 3]`."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, 'PNG')
    return png.getvalue()


def require_name(kind: str, name: str) -> None:
    """Refuses a name that may look like another one, as 'a ' and 'a' do."""
    if not name.isprintable() or name != name.strip() or not name:
        raise InputError(
            f'the name of one {kind} is {name!r}; use printable characters, no spaces at the ends'
        )


def open_folder(source: str | None, dataset: str, layout: str, *names: str) -> Path:
    """Returns the folder `source`, which must contain files and folders (`names` with a /)."""
    if not source:
        raise InputError(f'{dataset} needs a source: a folder with {layout}')
    root = Path(source).expanduser()
    for name in ('./', *names):
        kind, exists = ('folder', Path.is_dir) if name.endswith('/') else ('file', Path.is_file)
        if not exists(root / name):
            raise InputError(f'there is no {kind} {root / name}; {dataset} needs {layout}')
        require_inside(root / name, root)
    return root


def find_images(folder: Path, suffix: str, root: Path) -> dict[str, Path]:
    """Returns the visible files with a suffix in a folder, by their names without it."""
    paths = [path for path in folder.iterdir() if path.suffix == suffix and not hidden(path.name)]
    for path in (folder, *paths):
        if path.is_symlink():
            require_inside(path, root)
    return {path.stem: path for path in paths}


def hidden(name: str) -> bool:
    """Whether a file was left by a file manager or system, such as .DS_Store and Thumbs.db."""
    return name.startswith('.') or name.lower() in ('thumbs.db', 'desktop.ini')


def require_inside(path: Path, root: Path) -> Path:
    """Returns `path`; refuses one that leaves `root` by '..', a link or its start."""
    with explained(f'{str(path)!r} is not a path'):  # it may contain a NUL
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    if not inside:
        raise InputError(f'{path} leaves the source folder; it must be inside {root}')
    return path


def require_all(
    needed: Collection[str], needed_by: Path, present: Collection[str], present_in: Path
) -> None:
    """Refuses images that one place names and another lacks."""
    missing = sorted(set(needed) - set(present))
    if missing:
        raise InputError(
            f'{present_in} lacks {len(missing)} of the {len(needed)} images of {needed_by}, the '
            f'first is {missing[0]}'
        )


def read_csv(
    path: Path, columns: Sequence[str], optional: Sequence[str] = ()
) -> list[dict[str, str]]:
    """Reads a CSV file with one row per image, which the first of `columns` names.

    `columns` have no empty fields; `optional` ones are filled with ''. (pandas would rename
    repeated columns and shift rows with too many fields, which are errors here.)
    """
    with (
        explained(f'{path} cannot be read as a CSV file'),
        path.open(newline='', encoding='utf-8-sig') as file,
    ):
        reader = csv.DictReader(file, restval='')
        header = list(reader.fieldnames or ())
        while header and not header[-1].strip():
            header.pop()
        reader.fieldnames = header
        rows = list(reader)
    for column in (*columns, *optional):
        count = header.count(column)
        if count > 1 or (column in columns and not count):
            raise InputError(
                f'{path} has {count or "no"} columns {column!r}; it needs {", ".join(columns)}, '
                f'once each and separated by commas, and has {", ".join(header) or "none"}'
            )
    if not rows:
        raise InputError(f'{path} has no rows; it needs one per image')
    key = columns[0]
    for row in rows:
        if any(field.strip() for field in row.pop(None, ())):
            raise InputError(
                f'{path} has more fields than columns in the row of image {row[key]!r}; put "" '
                'around a field that contains a comma'
            )
        if not all(row[column] for column in columns):
            raise InputError(f'{path} has an empty field in the row of image {row[key]!r}')
        for column in optional:
            row.setdefault(column, '')
    ((image_id, count),) = collections.Counter(row[key] for row in rows).most_common(1)
    if count > 1:
        raise InputError(f'{path} lists image {image_id} {count} times; list it once')
    return rows


def read_mat(path: Path, variables: Mapping[str, type]) -> list[np.ndarray]:
    """Reads lists of integers (`int`) or texts (`str`) of a MATLAB file, as arrays `[N]`."""
    from scipy.io import loadmat

    with explained(f'{path} cannot be read as a MATLAB file'):
        found = loadmat(path)
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
    wanted = {int: 'integers', str: 'cells with one text each'}[kind]
    raise InputError(f'{path} has {name} of type {values.dtype}; it must hold {wanted}')
