"""folder: your own images, in one folder per class or listed in a CSV file.

Either every folder in the source is a class and holds its images, possibly in subfolders:

    melanoma/a.jpg
    naevus/2021/b.png

or a table lists them, with the columns `path` (relative to the source folder), `label` and
optionally `group` (images of one patient) and `split` (train, validation or test):

    path,label,group,split
    images/a.jpg,melanoma,patient 1,train
"""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from metriclt_jax.data.sources import common
from metriclt_jax.data.splits import PARTS
from metriclt_jax.errors import InputError

Row = tuple[str, str, str, str]  # path, label, group and part


def read_source(
    source: str | None, labels: str | None = None, classes: Sequence[str] = ()
) -> common.Source:
    """Returns the images of the folder `source`, or those that the CSV file `labels` lists.

    `classes` are all class names in order, by default those that occur, sorted.
    """
    layout = 'one folder per class, or images that a CSV file lists (--labels)'
    root = common.open_folder(source, 'folder', layout)
    if labels:
        rows, note = _listed(root, Path(labels).expanduser())
    else:
        rows, note = list(_found(root)), ''
    class_names = list(classes) or sorted({label for _, label, _, _ in rows})
    for path, label, _, _ in rows:
        if label not in class_names:
            raise InputError(
                f'image {path} has the label {label!r}; it must be one of {", ".join(class_names)}'
            )
    examples = [
        common.Example(path, class_names.index(label), group, root / path, part)
        for path, label, group, part in rows
    ]
    return common.from_examples(class_names, examples, note)


def _found(root: Path) -> Iterator[Row]:
    """Yields the images in the folders of `root`."""
    visible = sorted(path for path in root.iterdir() if not common.hidden(path.name))
    folders = [path for path in visible if path.is_dir()]
    if not folders:
        raise InputError(f'{root} has no folders; it needs one per class, or a CSV file (--labels)')
    if {folder.name for folder in folders} <= {*PARTS, 'val', 'valid'}:
        raise InputError(
            f'the folders of {root} are parts, not classes; use one folder per class, or a CSV '
            'file with a column split (--labels)'
        )
    for path in visible:
        if path not in folders and path.suffix.lower() in common.SUFFIXES:
            raise InputError(f'{path} is an image beside the class folders; move it into one')
    for folder in folders:
        paths = list(_files_below(folder, root))
        if not paths:
            raise InputError(f'{folder} has no images; it needs at least one')
        for path in paths:
            if path.suffix.lower() not in common.SUFFIXES:
                raise InputError(
                    f'{path} is not an image file; names must end with {", ".join(common.SUFFIXES)}'
                )
            yield path.relative_to(root).as_posix(), folder.name, '', ''


def _files_below(folder: Path, root: Path) -> Iterator[Path]:
    """Yields the visible files of a folder and its subfolders; refuses links to folders."""
    common.require_inside(folder, root)
    if folder.is_symlink():
        raise InputError(f'{folder} is a link to a folder; replace it by the folder')
    for path in folder.iterdir():
        if path.is_dir() and not common.hidden(path.name):
            yield from _files_below(path, root)
        elif not common.hidden(path.name):
            yield common.require_inside(path, root)


def _listed(root: Path, table: Path) -> tuple[list[Row], str]:
    """Returns the images that a table lists, and a note on what it has."""
    rows = []
    columns = ('path', 'label', 'group', 'split')
    listed = common.read_csv(table, columns[:2], optional=columns[2:])
    for row in listed:
        common.require_name('image', row['path'])
        path = root / os.path.normpath(row['path'])
        if Path(row['path']).is_absolute():
            raise InputError(f'{table} has the path {path}; it must be relative to {root}')
        common.require_inside(path, root)
        if not path.is_file():
            raise InputError(f'there is no image {path}, which {table} lists')
        if row['split'] not in (*PARTS, ''):
            raise InputError(
                f'{table} has the split {row["split"]!r} for image {row["path"]}; it must be one '
                f'of {", ".join(PARTS)}'
            )
        rows.append((path.relative_to(root).as_posix(), row['label'], row['group'], row['split']))
    without = [path for path, _, _, part in rows if not part]
    if 0 < len(without) < len(rows):
        raise InputError(
            f'{table} has no split for {len(without)} of its {len(rows)} images, the first is '
            f'{without[0]}; give one for all images or for none'
        )
    _, _, groups, parts = (set(column) - {''} for column in zip(*rows, strict=True))
    note = f'{len(groups) or "no"} groups, {len(parts) or "no"} parts'
    unused = [column for column in listed[0] if column and column not in columns]
    return rows, note + (f'; unused columns: {", ".join(unused)}' if unused else '')
