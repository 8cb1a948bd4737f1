"""Tables that list images: which columns say what, and which file a row means."""

import functools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

from metriclt_jax.data.sources import common, names
from metriclt_jax.data.sources.class_folders import Found
from metriclt_jax.data.sources.tables import Table, read_table
from metriclt_jax.data.splits import PARTS
from metriclt_jax.errors import InputError

COLUMNS: Mapping[str, Sequence[str]] = {
    'path': (
        'path', 'filename', 'file', 'filepath', 'image', 'imageid', 'imagepath', 'imagename',
        'imagefile', 'imageindex', 'img', 'imgid', 'imgpath', 'imgname', 'isicid',
    ),
    'label': (
        'label', 'labels', 'labelname', 'class', 'classname', 'classlabel', 'dx', 'diagnosis',
        'diagnostic', 'target', 'category', 'disease', 'species', 'finding', 'groundtruth',
    ),
    'group': (
        'group', 'groupid', 'patient', 'patientid', 'lesion', 'lesionid', 'case', 'caseid',
        'subject', 'subjectid', 'person', 'personid', 'patientname', 'patientnumber', 'patientno',
        'pid', 'mrn',
    ),
    'split': ('split', 'set', 'part', 'subset', 'partition'),
}  # fmt: skip
"""The names of each column, without regard to case, blanks and signs; the first has precedence.

Also a split is the column that names parts in every row, whatever it is called.
"""

_NONE = 'none'  # given instead of the name of a column: leave it out
_BITS = {'0': 0, '0.0': 0, 'false': 0, '1': 1, '1.0': 1, 'true': 1}


def find(
    root: Path, path: Path, classes: Collection[str], columns: Mapping[str, str | None]
) -> tuple[list[Found], dict[Path, str], str]:
    """Returns the images that a table lists, those that cannot be used and why, and a note.

    The table `path` names images relative to `root`. `classes` and `columns`, by the keys of
    COLUMNS, are those that the user gave.
    """
    table = read_table(path)
    used = {kind: _choose(table, kind, columns.get(kind)) for kind in COLUMNS}
    listed = table.column(used['path'])
    if '' in listed:
        raise InputError(f'{path} has {listed.count("")} rows without {used["path"]}; fill them')
    labels, class_columns = _labels(table, used)
    groups, merged = _groups(table, used['group'])
    parts = _parts(table, used['split'], listed)

    rows, unusable = [], {}
    files_of, known = _finder(root), set(labels)

    def joins(label: str) -> bool:
        parts = [part.strip() for part in re.split(r'[|;,/&+]', label)]
        return len(parts) > 1 and known.issuperset(parts)

    for name, label, group, part in zip(listed, labels, groups, parts, strict=True):
        files = files_of(name)
        file = files[0] if len(files) == 1 else root / name
        if not files:
            unusable[file] = f'{path} lists it, but it does not exist'
        elif len(files) > 1:
            unusable[file] = f'it may be {files[0]} or {files[1]}'
        elif not common.is_inside(file, root):
            unusable[file] = 'it leaves the source folder'
        elif names.is_missing(label) and label not in classes:
            unusable[file] = f'its label {label!r} stands for none; if it is a class, use --classes'
        elif label not in classes and joins(label):
            unusable[file] = f'it has several labels, {label!r}; if that is a class, use --classes'
        else:
            rows.append(Found(file, label, group, part))
    found = list(dict.fromkeys(rows))
    labels_of = defaultdict(list)
    for image in found:
        labels_of[image.path].append(image.label)
    for file, given in labels_of.items():
        if len(given) > 1:
            unusable[file] = f'{path} lists it with different fields (as {" and ".join(given)})'
    note = _note(table, used, class_columns, groups, merged, parts)
    again = f'; {len(rows) - len(found)} rows are repeated' if len(rows) > len(found) else ''
    return [image for image in found if image.path not in unusable], unusable, note + again


def _note(
    table: Table,
    used: Mapping[str, str],
    class_columns: Sequence[str],
    groups: Sequence[str],
    merged: int,
    parts: Sequence[str],
) -> str:
    """Says what a table gives, and what of it is not used."""

    counts = [len(set(values) - {''}) or 'no' for values in (groups, parts)]
    without = f' ({groups.count("")} images without)' if any(groups) and '' in groups else ''
    renamed = [f'{kind} from {c}' for kind, c in used.items() if c and c.casefold() != kind]
    left = [c for c in table.header if c and c not in (*used.values(), *class_columns)]
    notes = {
        f'{counts[0]} groups{without}, {counts[1]} parts': True,
        f'{merged} groups in several spellings': merged,
        ', '.join(renamed): renamed,
        f'classes from {", ".join(class_columns)}': class_columns,
        f'unused columns: {", ".join(left)}': left,
    }
    return '; '.join(note for note, is_true in notes.items() if is_true)


def _choose(table: Table, kind: str, given: str | None) -> str:
    """Returns the column of one kind, '' if there is none."""
    if given and given not in table.header:
        matching = [name for name in table.header if _plain(name) == _plain(given)]
        given = matching[0] if matching else given
    if given:
        without = given == _NONE and _NONE not in table.header and kind != 'path'
        return '' if without else given
    columns = [name for name in table.header if _plain(name) in COLUMNS[kind]]
    preferred = [name for name in columns if _plain(name) == COLUMNS[kind][0]]
    if kind == 'split' and not preferred:  # 'part' may also be one of the body
        columns = [name for name in columns if any(map(names.part_of, table.column(name)))]
        columns = columns or [name for name in table.header if name and _names_parts(table, name)]
    columns = list(dict.fromkeys(preferred or columns))
    if len(columns) > 1:
        raise InputError(
            f'{table.path} has several columns for the {kind}, {", ".join(columns)}; choose one '
            f'with --{kind}_column'
        )
    if kind == 'path' and not columns:
        raise InputError(
            f'{table.path} has no column that names the images; its first line must name the '
            f'columns, such as path,label, or use --path_column; it has {table.shown()}'
        )
    return columns[0] if columns else ''


def _names_parts(table: Table, column: str) -> bool:
    if table.header.count(column) > 1:
        return False
    parts = {names.part_of(field) for field in set(table.column(column))}
    return '' not in parts and {'train'} < parts


def _plain(column: str) -> str:
    return re.sub(r'[\W_]+', '', column.casefold())


def _labels(table: Table, used: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Returns the label of each image, and the columns of the classes if each has its own."""
    if used['label']:
        return [names.tidy(label) for label in table.column(used['label'])], []
    others = [name for name in table.header if name and name not in used.values()]
    bits = {name: [_BITS.get(field.casefold()) for field in table.column(name)] for name in others}
    classes = [name for name in others if None not in bits[name]]
    rows = list(zip(*(bits[name] for name in classes), strict=True))
    if len(classes) < 2 or any(sum(row) != 1 for row in rows):
        raise InputError(
            f'{table.path} has no column with the labels: call it label, use --label_column, or '
            f'have one column of 0 and 1 for each class, with one 1 in each row; it has '
            f'{table.shown()}'
        )
    return [names.tidy(classes[row.index(1)]) for row in rows], classes


def _groups(table: Table, column: str) -> tuple[list[str], int]:
    """Returns the group of each image, '' if unknown, and how many have several spellings.

    Groups that look alike are one, as two halves of one patient would be worse.
    """
    if not column:
        return [''] * len(table.rows), 0
    groups = [names.tidy(group) for group in table.column(column)]
    groups = ['' if names.is_unknown(group) else group for group in groups]
    alike = names.alike(groups)
    one_of = {spelling: spellings[0] for spellings in alike for spelling in spellings}
    return [one_of.get(group, group) for group in groups], len(alike)


def _parts(table: Table, column: str, listed: Sequence[str]) -> list[str]:
    if not column:
        return [''] * len(table.rows)
    given = table.column(column)
    parts = [names.part_of(name) for name in given]
    for image, name, part in zip(listed, given, parts, strict=True):
        if not part and not names.is_missing(name):
            known = ', '.join(PARTS)
            raise InputError(f'{table.path} has the split {name!r} for image {image}; use {known}')
    without = [image for image, part in zip(listed, parts, strict=True) if not part]
    if 0 < len(without) < len(parts):
        raise InputError(
            f'{table.path} has no split for {len(without)} of its {len(parts)} images, the first '
            f'is {without[0]}; give one for all images or for none'
        )
    return parts


def _finder(root: Path) -> Callable[[str], list[Path]]:
    """Returns a function from what a table calls an image to the files that it may mean.

    These are the file with this path, or those whose path or name is the same but for the ending,
    the case and the form of its letters, wherever they lie below `root`.
    """

    @functools.cache
    def by_name() -> dict[str, set[Path]]:
        files = defaultdict(set)
        for entry in common.walk(root):
            path = Path(entry.path)
            if path.suffix.lower() in common.SUFFIXES:
                inside = path.relative_to(root)
                for name in (inside, inside.with_suffix(''), path.name, path.stem):
                    files[_simple(str(name))].add(path)
        return files

    def find(name: str) -> list[Path]:
        path = root / os.path.normpath(name)
        if os.path.isabs(name) and common.is_inside(path, root):
            path = root / os.path.relpath(os.path.realpath(path), os.path.realpath(root))
        if path.is_file():
            return [path]
        return sorted(by_name().get(_simple(name), ()))

    return find


def _simple(path: str) -> str:
    path = unicodedata.normalize('NFC', os.path.normpath(path.replace('\\', '/')))
    return unicodedata.normalize('NFC', path.casefold())
