"""folder: images of one's own, in one folder for each class or listed in a CSV file.

Either every folder in the source is a class and holds its images, in folders below or not:

    melanoma/a.jpg
    naevus/2021/b.png

or a table lists them, with columns `path` (from the source folder), `label` and, where they are
known, `group` (images of one patient) and `split` (train, validation or test):

    path,label,group,split
    images/a.jpg,melanoma,patient 1,train
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from metriclt_jax.data.builders.source import (
    SUFFIXES,
    Source,
    from_examples,
    hidden,
    open_folder,
    require_inside,
    require_name,
)
from metriclt_jax.data.records import Example
from metriclt_jax.data.splits import PARTS
from metriclt_jax.data.tables import read_csv
from metriclt_jax.errors import InputError


def read_source(
    source: str | None, labels: str | None = None, classes: Sequence[str] = ()
) -> Source:
    """Returns the images of the folder `source`.

    Args:
        source: the folder.
        labels: CSV file that lists the images; without it, folders are classes.
        classes: names of all classes, in this order; without it, those that occur, sorted.

    Raises:
        InputError: no such folder or table, a file that is no image, a path that leaves the folder,
            a label that is not in `classes`.
    """
    layout = 'one folder for each class, or images that a CSV file lists (--labels)'
    root = open_folder(source, 'folder', layout)
    note = ''
    if labels:
        rows, note = _listed(root, Path(labels).expanduser())
    else:
        rows = _sorted_into_folders(root)
    class_names = list(classes) or sorted({label for _, label, _, _ in rows})
    for path, label, _, _ in rows:
        if label not in class_names:
            raise InputError(
                f'image {path} has the label {label!r}; allowed: {", ".join(class_names)}'
            )
    return from_examples(
        class_names,
        (
            Example(path, class_names.index(label), group, root / path, part)
            for path, label, group, part in rows
        ),
        note,
    )


def _sorted_into_folders(root: Path) -> list[tuple[str, str, str, str]]:
    """Returns path, label, group and part of all files in the folders of `root`."""
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not hidden(path))
    if not folders:
        raise InputError(
            f'{root} has no folders; it needs one for each class, or a CSV file (--labels)'
        )
    names = [folder.name for folder in folders]
    if set(names) <= {*PARTS, 'val', 'valid'}:
        raise InputError(
            f'the folders of {root} are {", ".join(names)}, which are parts; allowed: one folder '
            'for each class, or a CSV file with a column split (--labels)'
        )
    beside = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES)
    for path in beside:
        if not path.is_dir() and not hidden(path):
            raise InputError(
                f'{path} is an image beside the folders of the classes; allowed: images in them'
            )
    rows = []
    for folder in folders:
        paths = [path for path in _everything_in(folder, root) if not path.is_dir()]
        if not paths:
            raise InputError(f'{folder} has no images; it needs at least one')
        for path in paths:
            if path.suffix.lower() not in SUFFIXES:
                raise InputError(
                    f'{path} is not an image file; allowed: names that end with '
                    f'{", ".join(SUFFIXES)}'
                )
            rows.append((path.relative_to(root).as_posix(), folder.name, '', ''))
    return rows


def _everything_in(folder: Path, root: Path) -> list[Path]:
    """Returns a folder and what is in it and below, but for what is hidden, sorted."""
    paths = [folder]
    for parent, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not hidden(Path(name))]
        paths += [Path(parent, name) for name in (*folders, *files) if not hidden(Path(name))]
    paths.sort()
    for path in paths:
        if path.is_symlink():
            require_inside(path, root)
            if path.is_dir():
                raise InputError(f'{path} is a link to a folder; allowed: folders')
    return paths


def _refuse(error: OSError) -> NoReturn:
    raise InputError(f'{error.filename} cannot be read: {error.strerror}') from error


def _listed(root: Path, table: Path) -> tuple[list[tuple[str, str, str, str]], str]:
    """Returns path, label, group and part of the images that a table lists, and what it has."""
    rows = []
    columns = ('path', 'label', 'group', 'split')
    listed = read_csv(table, columns[:2], optional=columns[2:])
    for row in listed:
        require_name('image', row['path'])
        path = root / os.path.normpath(row['path'])
        if Path(row['path']).is_absolute():
            raise InputError(
                f'{table} has the path {path}; allowed: paths from the source folder {root}'
            )
        require_inside(path, root)
        if not path.is_file():
            raise InputError(f'there is no image {path}, which {table} lists')
        if row['split'] not in (*PARTS, ''):
            raise InputError(
                f'{table} has the split {row["split"]!r} for image {row["path"]}; allowed: '
                f'{", ".join(PARTS)}'
            )
        rows.append((path.relative_to(root).as_posix(), row['label'], row['group'], row['split']))
    without = [path for path, _, _, part in rows if not part]
    if 0 < len(without) < len(rows):
        raise InputError(
            f'{table} has no split for {len(without)} of its {len(rows)} images, the first is '
            f'{without[0]}; allowed: one for each image, or for none'
        )
    _, _, groups, parts = (set(column) - {''} for column in zip(*rows, strict=True))
    note = f'{len(groups) or "no"} groups, {len(parts) or "no"} parts'
    unused = [column for column in listed[0] if column and column not in columns]
    return rows, note + (f'; columns not used: {", ".join(unused)}' if unused else '')
