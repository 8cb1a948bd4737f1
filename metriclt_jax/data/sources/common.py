"""What readers return and share: checks of folders and their files."""

import dataclasses
import io
import itertools
import os
import types
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metriclt_jax.data.sources.names import require_name
from metriclt_jax.errors import InputError, explained
from metriclt_jax.paths import local_path

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
    class_names: Sequence[str],
    examples: Iterable[Example],
    note: str = '',
    unusable: Mapping[Path, str] = types.MappingProxyType({}),
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
    images = [example.image for example in examples]
    files = [image for image in images if isinstance(image, Path)]
    sizes = (len(image) if isinstance(image, bytes) else image.stat().st_size for image in images)
    return Source(tuple(class_names), examples, len(images), sum(sizes), files, note, unusable)


def to_png(pixels: np.ndarray) -> bytes:
    """Encodes uint8 `[H, W]` or `[H, W, 3]`."""
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, 'PNG')
    return png.getvalue()


def open_folder(source: str | None, dataset: str, layout: str, *names: str) -> Path:
    """Returns the folder `source`, which must contain files and folders (`names` with a /)."""
    if not source:
        raise InputError(f'{dataset} needs a source: a folder with {layout}')
    outer = local_path(source)
    root = unwrapped(outer, *names)
    for name in ('./', *names):
        kind, exists = ('folder', Path.is_dir) if name.endswith('/') else ('file', Path.is_file)
        if not exists(root / name):
            raise InputError(f'there is no {kind} {root / name}; {dataset} needs {layout}')
        require_inside(root / name, outer)
    return root


def unwrapped(folder: Path, *names: str) -> Path:
    """Returns the folder with any of `names`: `folder`, or one alone in it as archives unpack."""
    inner = folder
    while names and inner.is_dir() and not any((inner / name).exists() for name in names):
        inside = visible(inner)
        if len(inside) != 1 or not is_folder(inside[0]):
            return folder
        inner = Path(inside[0].path)
    return inner


def visible(folder: Path | str) -> list[os.DirEntry]:
    """What a folder has but for hidden files, by name."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not hidden(entry.name)]
    return sorted(shown, key=lambda entry: entry.name)


def walk(folder: Path | str) -> Iterator[os.DirEntry]:
    """Yields what is visible in a folder and its subfolders, except these; links as they are."""
    for entry in visible(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from walk(entry.path)
        else:
            yield entry


def is_folder(entry: os.DirEntry) -> bool:
    """Whether an entry is a folder or a link to one; a link to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def problem(entry: os.DirEntry, root: Path) -> str:
    """Says why an entry of a folder is not an image of the source `root`; '' if it may be one."""
    if is_folder(entry):
        return 'it is a link to a folder'
    if entry.is_symlink() and not os.path.isfile(entry.path):
        return 'it is a link to nothing'
    if entry.is_symlink() and not is_inside(Path(entry.path), root):
        return 'it leaves the source folder'
    if not entry.is_file():
        return 'it is not a file'
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:
        return 'its name does not end as those of images do'
    return ''


def files_below(folder: Path, root: Path) -> Iterator[Path]:
    """Yields the visible files in and below a folder; refuses links to folders and outside."""
    require_inside(folder, root)
    for entry in walk(folder):
        if entry.is_symlink():
            require_inside(Path(entry.path), root)
            if is_folder(entry):
                raise InputError(f'{entry.path} is a link to a folder; replace it by the folder')
        yield Path(entry.path)


def find_images(folder: Path, suffix: str, root: Path) -> dict[str, Path]:
    """Returns the visible files with a suffix in and below a folder, by their names without it."""
    images: dict[str, Path] = {}
    for path in files_below(folder, root):
        if path.suffix.lower() == suffix:
            if path.stem in images:
                raise InputError(f'{images[path.stem]} exists again as {path}; remove one of them')
            images[path.stem] = path
    return images


_LEFT_BY_SYSTEMS = {
    'thumbs.db', 'ehthumbs.db', 'ehthumbs_vista.db', 'desktop.ini', 'icon\r', 'picasa.ini',
    '__macosx', '$recycle.bin', 'recycler', 'system volume information', 'lost+found',
    '@eadir', '#recycle', '@recycle', '#snapshot', '@recently-snapshot', '@tmp', '__pycache__',
    'network trash folder', 'temporary items',
}  # fmt: skip


def hidden(name: str) -> bool:
    """Whether a file was left by a file manager or system, such as .DS_Store and @eaDir."""
    return name.startswith(('.', '~$')) or name.lower() in _LEFT_BY_SYSTEMS


def is_inside(path: Path, root: Path) -> bool:
    """Whether `path` is below `root`, with all links followed."""
    with explained(f'{str(path)!r} is not a path'):  # it may contain a NUL
        return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def require_inside(path: Path, root: Path) -> Path:
    """Returns `path`; refuses one that leaves `root` by '..', a link or its start."""
    if not is_inside(path, root):
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


def missing_files(
    listed: Collection[str], table: Path, present: Collection[str], folder: Path, suffix: str
) -> dict[Path, str]:
    """Returns the images that a table lists and a folder lacks, but not all, with the reason."""
    missing = sorted(set(listed) - set(present))
    if len(missing) == len(listed):
        require_all(listed, table, present, folder)
    reason = f'{table} lists it, but it does not exist'
    return {folder / f'{name}{suffix}': reason for name in missing}


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
