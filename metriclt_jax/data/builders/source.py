"""What a reader of original files returns, and what all readers share."""

import dataclasses
import itertools
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from metriclt_jax.data.records import Example
from metriclt_jax.errors import InputError

SUFFIXES = (
    '.bmp', '.gif', '.jp2', '.jpeg', '.jpg', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff',
    '.webp',
)  # fmt: skip
"""Of the files that are taken for images, in lower case."""


@dataclasses.dataclass(frozen=True)
class Source:
    """The original files of a data set, read and checked but for the images themselves.

    Attributes:
        class_names: `[C]`.
        examples: in ascending order of their ids, no id twice; they may be made on the way.
        count: of the examples.
        num_bytes: of their images, at most.
        files: the image files among them, whose pixels nobody has looked at.
        note: what else was found in the source, for the user; may be ''.
    """

    class_names: tuple[str, ...]
    examples: Iterable[Example] = dataclasses.field(repr=False)
    count: int
    num_bytes: int
    files: Sequence[Path] = dataclasses.field(repr=False)
    note: str = ''


def from_examples(
    class_names: Sequence[str], examples: Iterable[Example], note: str = ''
) -> Source:
    """Returns the source of examples that are all there, in any order.

    Raises:
        InputError: two classes or two examples have one name, or a name (also of a group) cannot
            be printed or has blanks at its ends.
    """
    examples = sorted(examples, key=lambda example: example.image_id)
    _require_names('class', sorted(class_names))
    _require_names('image', [example.image_id for example in examples])
    for group in sorted({example.group for example in examples} - {''}):
        require_name('group', group)
    files = [example.image for example in examples if isinstance(example.image, Path)]
    made = sum(len(example.image) for example in examples if isinstance(example.image, bytes))
    return Source(
        class_names=tuple(class_names),
        examples=examples,
        count=len(examples),
        num_bytes=made + sum(file.stat().st_size for file in files),
        files=files,
        note=note,
    )


def _require_names(kind: str, names: Sequence[str]) -> None:
    """Checks names, which are sorted."""
    for name in names:
        require_name(kind, name)
    for first, second in itertools.pairwise(names):
        if first == second:
            raise InputError(f'{kind} {first} is listed twice; allowed: once')


def require_name(kind: str, name: str) -> None:
    """Raises `InputError` if a name may look like another one, as 'a ' and 'a' do."""
    if not name.isprintable() or name != name.strip() or not name:
        raise InputError(
            f'the name of one {kind} is {name!r}; allowed: characters that can be printed, no '
            'blanks at the ends'
        )


def open_folder(
    source: str | None,
    dataset: str,
    layout: str,
    folders: Sequence[str] = (),
    files: Sequence[str] = (),
) -> Path:
    """Returns the folder `source` after a look at what it must contain.

    Args:
        source: the folder, as the user wrote it.
        dataset: its name, for messages.
        layout: what the folder must contain, for messages.
        folders: that it must contain.
        files: that it must contain.

    Raises:
        InputError: the folder or a part of its contents is not there.
    """
    if not source:
        raise InputError(f'{dataset} needs a source; allowed: a folder with {layout}')
    root = Path(source).expanduser()
    kinds = dict.fromkeys(('', *folders), 'folder') | dict.fromkeys(files, 'file')
    for name, kind in kinds.items():
        if not {'folder': Path.is_dir, 'file': Path.is_file}[kind](root / name):
            raise InputError(
                f'there is no {kind} {root / name}; the source of {dataset} is a folder with '
                f'{layout}'
            )
        require_inside(root / name, root)
    return root


def find_images(folder: Path, suffix: str, root: Path) -> dict[str, Path]:
    """Returns the files with a suffix in a folder, by their names without it; no hidden ones."""
    require_inside(folder, root)
    paths = [path for path in folder.iterdir() if path.suffix == suffix and not hidden(path)]
    for path in paths:
        if path.is_symlink():
            require_inside(path, root)
    return {path.stem: path for path in paths}


def hidden(path: Path) -> bool:
    """Whether file managers and systems left this, such as .DS_Store and Thumbs.db."""
    return path.name.startswith('.') or path.name.lower() in ('thumbs.db', 'desktop.ini')


def require_inside(path: Path, root: Path) -> Path:
    """Returns `path` unless it leaves the folder `root`, by '..', as a link or from its start.

    Raises:
        InputError: it does, or has a character that no path has.
    """
    try:
        real = Path(os.path.realpath(path))
    except ValueError as error:
        raise InputError(f'{str(path)!r} cannot be the path of a file: {error}') from error
    if not real.is_relative_to(os.path.realpath(root)):
        raise InputError(f'{path} leaves the source folder; allowed: files inside {root}')
    return path
