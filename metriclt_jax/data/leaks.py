"""What makes a split too optimistic: groups and identical images in two of its parts.

Also images that have two labels. Near-duplicates (another crop, another compression) are not found.
"""

import dataclasses
import hashlib
import io
import itertools
from collections.abc import Mapping

import numpy as np

from metriclt_jax.data.cache import Cache
from metriclt_jax.data.splits import Array, Names

SEEN_IMAGES = 'seen_images.npz'  # in a work directory, what `checksums` returns
_NAMED = 20  # pairs of images in a message

Pair = tuple[str, str]  # of parts


@dataclasses.dataclass(frozen=True)
class Leaks:
    """What `find_leaks` finds; an image is its index."""

    groups: Mapping[Pair, np.ndarray]  # those that have images in both parts, if any
    images: Mapping[Pair, np.ndarray]  # of the first part, those that are in the second, if any
    copies: np.ndarray  # int64 [n, 2], an image and the first one that is identical
    conflicts: np.ndarray  # int64 [n, 2], those of them that have two labels


def find_leaks(
    labels: np.ndarray, groups: np.ndarray, contents: np.ndarray, parts: Mapping[str, np.ndarray]
) -> Leaks:
    """Compares the images that are in some part, whose indices are `parts`.

    Takes labels `[N]`, groups str `[N]` ('' if unknown) and contents `[N]`, equal for identical
    images.
    """
    used = np.sort(np.concatenate([*parts.values()]))
    _, first, inverse = np.unique(contents[used], return_index=True, return_inverse=True)
    pairs = np.stack([used, used[first][inverse]], axis=1)
    copies = pairs[pairs[:, 0] != pairs[:, 1]]
    shared, again = {}, {}
    for one, other in itertools.combinations(parts, 2):
        common = np.intersect1d(groups[parts[one]], groups[parts[other]])
        if len(common := common[common != '']):
            shared[one, other] = common
        found = np.isin(contents[parts[other]], contents[parts[one]])
        if found.any():
            again[other, one] = parts[other][found]
    conflicts = copies[labels[copies[:, 0]] != labels[copies[:, 1]]]
    return Leaks(shared, again, copies, conflicts)


def describe(leaks: Leaks, ids: Array, labels: Array, class_names: Names) -> list[str]:
    """Returns a sentence on each kind of leak that there is."""
    remarks = []
    groups = [f'{len(g)} in {a} and {b} (such as {g[0]})' for (a, b), g in leaks.groups.items()]
    if groups:
        remarks.append(
            f'groups (patients, lesions) in two parts: {", ".join(groups)}; data.split=grouped '
            'keeps each in one part'
        )
    images = [f'{len(i)} of {a} in {b} (such as {ids[i[0]]})' for (a, b), i in leaks.images.items()]
    if images:
        remarks.append(
            f'identical images in two parts: {", ".join(images)}; remove the copies, or give each '
            'image and its copies one group and use data.split=grouped'
        )
    elif len(leaks.copies):
        copy, original = ids[leaks.copies[0]]
        remarks.append(
            f'identical images: {len(leaks.copies)} copies, each in the part of its original (such '
            f'as {copy} of {original})'
        )
    if len(leaks.conflicts):
        remarks.append(
            f'identical images with different labels: {len(leaks.conflicts)}, '
            f'{name_conflicts(leaks.conflicts, ids, labels, class_names)}'
        )
    return remarks


def name_conflicts(conflicts: Array, ids: Array, labels: Array, class_names: Names) -> str:
    """Lists the first pairs of identical images with their labels."""
    pairs = [
        ' and '.join(f'{ids[index]} ({class_names[labels[index]]})' for index in pair[::-1])
        for pair in conflicts[:_NAMED]
    ]
    more = f'; and {len(conflicts) - _NAMED} more' if len(conflicts) > _NAMED else ''
    return '; '.join(pairs) + more


def contents_of(cache: Cache) -> np.ndarray:
    """Returns for each image the first one with the same pixels, int64 `[N]`.

    Only images with the same checksum, which may be by chance, are read and compared.
    """
    contents = np.arange(len(cache.crc32))
    _, inverse, counts = np.unique(cache.crc32, return_inverse=True, return_counts=True)
    first: dict[bytes, int] = {}
    for index in np.flatnonzero(counts[inverse] > 1):
        contents[index] = first.setdefault(_pixel_digest(cache, index), index)
    return contents


def _pixel_digest(cache: Cache, index: int) -> bytes:
    return hashlib.sha256(cache.read([index])).digest()


def checksums(cache: Cache, parts: Mapping[str, np.ndarray]) -> bytes:
    """Returns an .npz file with the checksums of the images that a run learns and chooses from."""
    file = io.BytesIO()
    np.savez(file, **{part: cache.crc32[parts[part]] for part in ('train', 'validation')})
    return file.getvalue()


def seen_images(
    known: bytes, cache: Cache, indices: np.ndarray, own: Cache | None = None
) -> dict[str, int]:
    """Counts by part the images of `indices` that a run has seen, which has these `checksums`.

    With the run's `own` images, pixels are compared, too: checksums may be equal by chance.
    """
    counts = {}
    with np.load(io.BytesIO(known), allow_pickle=False) as parts:
        for part in parts.files:
            found = indices[np.isin(cache.crc32[indices], parts[part])]
            if own is not None:
                same = np.flatnonzero(np.isin(own.crc32, cache.crc32[found]))
                pixels = {_pixel_digest(own, index) for index in same}
                found = [index for index in found if _pixel_digest(cache, index) in pixels]
            counts[part] = len(found)
    return counts
