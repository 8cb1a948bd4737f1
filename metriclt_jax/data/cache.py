"""Decoded images on disk: a memory map that is decoded once and gathered from in training.

The cache of a data set at size R is a folder with `images`, uint8 `[N, R, R, 3]` without any
header, and `index.json`, which says what `images` must be: shape, fingerprint of the records and,
for each image, its id, label, group, aspect ratio and the CRC-32 of its pixels. It is checked, not
trusted: a cache that does not fit is built again, and an image whose pixels do not fit its CRC-32
is decoded again.
"""

import dataclasses
import errno
import json
import logging
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from metriclt_jax.data.decoding import decode, in_order
from metriclt_jax.data.locking import exclusive
from metriclt_jax.data.progress import progress
from metriclt_jax.data.records import Example, Records
from metriclt_jax.errors import InputError

_FORMAT = 1
_COLUMNS = ('ids', 'labels', 'groups', 'aspects', 'crc32')
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Images:
    """Random access to the pixels of all images of a data set.

    Attributes:
        pixels: uint8 `[N, R, R, 3]`, a copy-on-write memory map.
        crc32: uint32 `[N]`.
        decode_again: from an index to the pixels, out of the record.
        checked: bool `[N]`, which images were compared with their CRC-32 in this process.
    """

    pixels: np.ndarray
    crc32: np.ndarray
    decode_again: Callable[[int], np.ndarray] = dataclasses.field(repr=False)
    checked: np.ndarray = dataclasses.field(repr=False)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of `indices` `[n]` as uint8 `[n, R, R, 3]`; safe in threads."""
        indices = np.asarray(indices)
        for index in np.unique(indices[~self.checked[indices]]):
            self._check(int(index))
        return self.pixels.take(indices, axis=0)  # unlike [], does not hold up other threads

    def _check(self, index: int) -> None:
        if zlib.crc32(self.pixels[index]) != self.crc32[index]:
            _log.warning('Cached image %d is damaged; it is decoded again.', index)
            self.pixels[index] = self.decode_again(index)
        self.checked[index] = True


@dataclasses.dataclass(frozen=True)
class Cache:
    """All images of a data set, and what is known of each, in the order of the records."""

    images: Images
    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    aspects: np.ndarray


def open_cache(source: Records, size: int, data_dir: str) -> Cache:
    """Opens the decoded images of a data set, and builds them first where that is needed.

    Args:
        source: the records.
        size: R, images are stored as R x R.
        data_dir: the cache lies in its folder `cache`; several processes may share it.

    Raises:
        InputError: an impossible size, a folder that cannot be written to, no space.
    """
    if size < 1:
        raise InputError(f'data.resize is {size}; allowed: 1 or more')
    folder = Path(data_dir).expanduser() / 'cache'
    path = folder / f'{source.name}_{size}x{size}'
    header = {
        'format': _FORMAT,
        'fingerprint': source.fingerprint,
        'shape': [len(source), size, size, 3],
    }
    try:
        columns = _read_index(path, header)
        if columns is None:
            folder.mkdir(parents=True, exist_ok=True)
            with exclusive(folder / f'{path.name}.lock'):
                columns = _read_index(path, header)  # someone may have built it meanwhile
                if columns is None:
                    columns = _build(source, path, header)
    except OSError as error:
        raise InputError(
            f'the decoded images ({math.prod(header["shape"]) / 2**20:.0f} MiB) cannot be kept in '
            f'{path}: {error}'
        ) from error
    # Copy-on-write: repaired images stay in memory, and a read-only folder will do.
    shape = tuple(header['shape'])
    pixels = np.memmap(path / 'images', dtype=np.uint8, mode='c', shape=shape)
    images = Images(
        pixels=np.asarray(pixels),
        crc32=np.array(columns['crc32'], np.uint32),
        decode_again=lambda index: _decode(source.read([index])[0], size)[1],
        checked=np.zeros(len(source), bool),
    )
    return Cache(
        images=images,
        ids=np.array(columns['ids']),
        labels=np.array(columns['labels'], np.int32),
        groups=np.array(columns['groups']),
        aspects=np.array(columns['aspects'], np.float32),
    )


def _build(source: Records, path: Path, header: dict[str, Any]) -> dict[str, list]:
    """Decodes every image into a folder aside and moves it to its place when complete."""
    count, size = header['shape'][:2]
    aside = path.with_name(f'{path.name}.incomplete')
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed: we hold the lock
    shutil.rmtree(path, ignore_errors=True)
    columns: dict[str, list] = {column: [] for column in _COLUMNS}
    aside.mkdir()
    try:
        needed = math.prod(header['shape'])
        if shutil.disk_usage(aside).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(aside.parent))
        with (aside / 'images').open('wb') as file, ThreadPoolExecutor() as pool:
            decoded = in_order(pool, lambda example: _decode(example, size), _examples(source))
            for example, pixels, aspect in progress(decoded, f'Decoding {source.name}', count):
                file.write(pixels)
                columns['ids'].append(example.image_id)
                columns['labels'].append(example.label)
                columns['groups'].append(example.group)
                columns['aspects'].append(aspect)
                columns['crc32'].append(zlib.crc32(pixels))
        _write_index(aside, header | columns)
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _log.info('Decoded %d images of %s to %s.', count, source.name, path)
    return columns


def _examples(source: Records, chunk: int = 256) -> Iterator[Example]:
    for start in range(0, len(source), chunk):
        yield from source.read(range(start, min(start + chunk, len(source))))


def _decode(example: Example, size: int) -> tuple[Example, np.ndarray, float]:
    return example, *decode(example.image, size, example.image_id)


def _write_index(path: Path, index: dict[str, Any]) -> None:
    text = json.dumps(index)
    (path / 'index.json').write_text(f'{zlib.crc32(text.encode())}\n{text}\n')


def _read_index(path: Path, header: dict[str, Any]) -> dict[str, list] | None:
    """Returns the columns of a cache's index; None where the cache does not fit `header`."""
    try:
        crc32, text = (path / 'index.json').read_text().splitlines()
        index = json.loads(text)
        complete = (
            int(crc32) == zlib.crc32(text.encode())
            and {name: index[name] for name in header} == header
            and (path / 'images').stat().st_size == math.prod(header['shape'])
        )
    except FileNotFoundError:
        return None
    except (ValueError, KeyError):
        complete = False
    if not complete:
        _log.warning('The decoded images in %s are outdated or damaged.', path)
    return {column: index[column] for column in _COLUMNS} if complete else None
