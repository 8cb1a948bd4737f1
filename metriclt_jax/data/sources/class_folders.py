"""Where the classes are in a folder: one folder each, possibly inside or around folders of parts.

melanoma/a.jpg              train/melanoma/a.jpg        melanoma/train/a.jpg
naevus/2021/b.png           test/naevus/b.png           naevus/test/b.png
"""

import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from metriclt_jax.data.sources import common, names
from metriclt_jax.errors import InputError

_PIECES = re.compile(  # of a download or an archive, which are numbered; dates; a camera's folders
    r'(.*[\W_])?(part|pt|images?|imgs?|pictures?|pics|photos?|batch|fold|chunk|split|subset|piece'
    r'|partition|archive|download|export|upload|zip|tar|vol|volume|dis[ck]|dir|folder|data|dataset'
    r'|patient|pat|subject|case|person|study|series|session|visit|exam|lesion|scan)'
    r'([\W_]*\d+|[\W_]+[a-f])\W*|(19|20)\d\d([-_. ]?\d\d){0,2}|\d{3}(apple|[a-z_]{5})',
    re.IGNORECASE,
)
_COPY = re.compile(r'copy of (.+)|(.+?)( - copy| copy| \(\d+\))( \d+| \(\d+\))?', re.IGNORECASE)
_CONTENTS = {
    'image', 'images', 'img', 'imgs', 'jpegimages', 'pictures', 'photos', 'thumbnails', 'unlabeled',
    'unlabelled', 'new folder', 'untitled folder',
}  # fmt: skip
_MASKS = {'masks', 'labels', 'annotations', 'segmentations', 'ground_truth', 'groundtruth'}
_ONE_EACH = 'use one folder per class, or a CSV file (--labels)'


class Found(NamedTuple):
    """An image, not yet checked."""

    path: Path
    label: str
    group: str = ''
    part: str = ''


class _Folder(NamedTuple):
    path: Path
    part: str = ''
    label: str = ''


def find(root: Path, classes: Collection[str]) -> tuple[list[Found], dict[Path, str], str]:
    """Returns the images below `root`, the files that cannot be used with the reasons, and a note.

    `classes` are the names of all classes if the user gave them: they tell which folders are meant.
    """
    folders, unusable = _class_folders(root, classes)
    if not classes:
        _require_classes(folders)
    found: list[Found] = []
    for folder in _with_parts_inside(folders):
        for entry in common.walk(folder.path):
            path = Path(entry.path)
            if reason := common.problem(entry, root):
                unusable[path] = reason
            elif path.parent.name.casefold() in _MASKS and path.parent != folder.path:
                unusable[path] = 'it lies in a folder of masks or annotations'
            else:
                found.append(Found(path, folder.label, part=folder.part))
    labels, parts = {image.label for image in found}, {image.part for image in found}
    for folder in folders:
        if folder.label not in labels:
            raise InputError(f'{folder.path} has no images; it needs at least one')
    if len(parts) == 1:  # nothing to tell apart
        return [image._replace(part='') for image in found], unusable, ''
    return found, unusable, f'{len(parts)} parts' if parts else ''


def _class_folders(root: Path, classes: Collection[str]) -> tuple[list[_Folder], dict[Path, str]]:
    """Returns the folders whose names are classes, and the images beside them."""
    above, beside = [_Folder(root)], {}
    while True:
        folders = []
        for folder in above:
            inner, images = _content(folder.path)
            if not inner:
                raise InputError(f'{folder.path} has no folders; {_ONE_EACH}')
            beside |= dict.fromkeys(images, 'it lies beside the folders of the classes')
            folders += [folder._replace(path=path, label=names.tidy(path.name)) for path in inner]
        for folder in folders:
            common.require_inside(folder.path, root)
            if folder.path.is_symlink():
                raise InputError(f'{folder.path} is a link to a folder; replace it by the folder')
        labels = {folder.label for folder in folders}
        parts = [names.part_of(folder.label, among_other_words=True) for folder in folders]
        is_above = not any(_content(folder.path)[1] for folder in folders)
        if not labels.isdisjoint(classes):
            return folders, beside
        if all(parts) and 'train' in parts and len(folders) > 1 and not above[0].part:
            if len(set(parts)) < len(parts):
                raise InputError(f'{root} has {_shown(labels)}; keep one folder of each part')
            above = [f._replace(part=part) for f, part in zip(folders, parts, strict=True)]
        elif is_above and (classes or len(folders) == len(above)):  # folders around others
            above = folders
        else:
            return folders, beside


def _require_classes(folders: Sequence[_Folder]) -> None:
    """Refuses folders that look like anything but classes."""
    where = folders[0].path.parent
    labels = {folder.label for folder in folders}
    doubtful = {label for label in labels if _is_doubtful(label) or _copied(label) in labels}
    if doubtful:
        raise InputError(
            f'{where} has the folders {_shown(doubtful)}, which look like parts, copies, pieces of '
            f'a download or a missing name; {_ONE_EACH}, or name all classes with --classes'
        )
    inner = [_content(folder.path) for folder in folders]
    same = {frozenset(path.name for path in inside) - _MASKS for inside, _ in inner}
    (shared,) = same if len(same) == 1 else ((),)
    has_images = any(images for _, images in inner)
    told_apart = any(names.part_of(name) or name.isdigit() for name in shared)  # parts or years
    if len(labels) > 1 and len(shared) > 1 and not has_images and not told_apart:
        raise InputError(
            f'{where} has {_shown(labels)}, each with the folders {_shown(shared)}; name those '
            'that are the classes with --classes'
        )


def _with_parts_inside(folders: Sequence[_Folder]) -> Iterator[_Folder]:
    """Yields class folders, or the folders of the parts that are in each."""
    inner = {folder: _content(folder.path) for folder in folders}
    parts = {folder: [names.part_of(path.name) for path in inner[folder][0]] for folder in folders}
    if not any(any(found) for found in parts.values()):
        yield from folders
        return
    for folder, found in parts.items():
        inside, images = inner[folder]
        if folder.part or images or not found or not all(found) or len(set(found)) < len(found):
            raise InputError(
                f'{folder.path} must have one folder per part only, as others have; {_ONE_EACH}'
            )
        for path, part in zip(inside, found, strict=True):
            yield folder._replace(path=path, part=part)


def _is_doubtful(name: str) -> bool:
    return bool(
        names.is_missing(name)
        or names.part_of(name)
        or names.part_of(name, among_other_words=True) == 'train'
        or _PIECES.fullmatch(name)
        or name.casefold() in _CONTENTS | _MASKS
    )


def _copied(name: str) -> str | None:
    """Returns the folder of which this one is a copy by its name."""
    copy = _COPY.fullmatch(name)
    return copy and (copy[1] or copy[2])


def _content(folder: Path) -> tuple[list[Path], list[Path]]:
    """Returns the visible folders and the images in a folder, sorted."""
    entries = {Path(entry.path): common.is_folder(entry) for entry in common.visible(folder)}
    folders = [path for path, is_folder in entries.items() if is_folder]
    files = [path for path, is_folder in entries.items() if not is_folder]
    return folders, [path for path in files if path.suffix.lower() in common.SUFFIXES]


def _shown(labels: Collection[str], most: int = 6) -> str:
    shown = sorted(labels)
    return ', '.join(shown[:most]) + (', ...' if len(shown) > most else '')
