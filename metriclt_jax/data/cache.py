"""Decoded images on disk: a memory map that is decoded once and gathered from in training.

The cache of a data set at size R is a folder with two files: `images`, uint8 `[N, R, R, 3]` without
a header, and `index.npz`, the arrays of `Cache`. The folder is written aside and renamed when it is
complete. It is built again if it does not fit the records, has another size than it should, or has
a damaged index. The pixels of an image are compared with their checksum when it is first read.
"""

import dataclasses
import json
import logging
import math
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from metriclt_jax.data import storage
from metriclt_jax.data.decoding import decode, in_order
from metriclt_jax.data.records import Records
from metriclt_jax.data.sources.common import Example
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.progress import say, track

FORMAT = 5  # of the files, and of what `decoding` makes of an image
_ALIGNMENT = 64  # bytes
_COLUMNS = ('ids', 'labels', 'group_ids', 'parts', 'aspects', 'crc32')
_TYPES = (str, np.int32, str, str, np.float32, np.uint32)  # of the columns
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cache:
    """All images of a data set with their labels, in the order of the records."""

    pixels: np.ndarray  # uint8 [N, R, R, 3], a read-only memory map
    ids: np.ndarray  # str [N]
    labels: np.ndarray  # int32 [N]
    group_ids: np.ndarray  # str [N], the lesion or patient; '' if unknown
    parts: np.ndarray  # str [N], the official part; '' if there is none
    aspects: np.ndarray  # float32 [N], width / height of the original image
    crc32: np.ndarray  # uint32 [N], of the pixels
    intact: np.ndarray  # bool [N], whether this process has compared them with crc32
    path: Path

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of `indices` `[n]` as uint8 `[n, R, R, 3]`; safe in threads."""
        indices = np.asarray(indices)
        if np.any((indices < 0) | (indices >= len(self.pixels))):
            raise IndexError(f'indices {indices} must be 0 to {len(self.pixels) - 1}')
        images = _empty((len(indices), *self.pixels.shape[1:]))
        # Unlike [], take does not hold up other threads; with 'raise' it would copy twice.
        self.pixels.take(indices, axis=0, out=images, mode='clip')
        for row in np.flatnonzero(~self.intact[indices]):
            if zlib.crc32(images[row]) != self.crc32[indices[row]]:
                raise InputError(
                    f'image {self.ids[indices[row]]} is damaged in {self.path}; delete that folder '
                    'and start again'
                )
            self.intact[indices[row]] = True
        return images


def cache_path(name: str, size: int, data_dir: str) -> Path:
    """Returns the folder of the images of a data set at size R; see `open_cache`."""
    return storage.local_folder(data_dir) / 'cache' / f'{name}_{size}x{size}'


def open_cache(source: Records, size: int, data_dir: str) -> Cache:
    """Opens the images of a data set at `size` x `size`; one process builds them if needed."""
    path = cache_path(source.name, size, data_dir)
    shape = (len(source), size, size, 3)
    try:
        if (cache := _read(source, path, shape)) is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f'{path.name}.lock')):
                if _read(source, path, shape) is None:  # no other process has built it meanwhile
                    _build(source, path, shape)
                cache = _read(source, path, shape)
    except OSError as error:
        raise InputError(
            f'the decoded images of {source.name} ({_mib(shape)}) cannot be kept in {path}: {error}'
        ) from error
    return cache


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uninitialised uint8, aligned such that JAX on a CPU does not copy it."""
    count = math.prod(shape)
    memory = np.empty(count + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count].reshape(shape)


def _build(source: Records, path: Path, shape: tuple[int, ...]) -> None:
    """Decodes every image into a folder aside and moves it to `path` when complete."""
    count, size, *_ = shape
    if path.exists():
        _log.warning('The decoded images in %s are outdated or damaged.', path)
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    shutil.rmtree(path.with_name(f'{path.name}.incomplete'), ignore_errors=True)  # of 0.1.0
    what = f'the cache of the decoded images of {source.name}'
    storage.require_space(path.parent, math.prod(shape), what)
    say(
        f'decoding {count} images of {source.name} to {size} x {size} pixels, once: '
        f'{_mib(shape)} in {path}'
    )

    def decoded(example: Example) -> tuple[np.ndarray, tuple]:
        pixels, aspect = decode(example.image, size, example.image_id)
        image_id, label, group, _, part = example
        return pixels, (image_id, label, group, part, aspect, zlib.crc32(pixels))

    rows = []
    with (
        storage.written_aside(path) as aside,
        (aside / 'images').open('wb') as images,
        ThreadPoolExecutor() as pool,
    ):
        results = in_order(pool, decoded, source.read_all())
        for pixels, row in track(results, f'Decoding {source.name}', count):
            images.write(pixels)
            rows.append(row)
        images.flush()
        columns = zip(_COLUMNS, _TYPES, zip(*rows, strict=True), strict=True)
        index = {name: np.array(column, kind) for name, kind, column in columns}
        np.savez(aside / 'index.npz', header=_header(source, shape), **index)


def _header(source: Records, shape: tuple[int, ...]) -> str:
    return json.dumps([FORMAT, source.fingerprint, shape])


def _read(source: Records, path: Path, shape: tuple[int, ...]) -> Cache | None:
    """Returns the cache in `path` if it is complete and up to date."""
    images = path / 'images'
    try:
        num_bytes = images.stat().st_size
        with (path / 'index.npz').open('rb') as file:
            index = dict(np.load(file, allow_pickle=False))  # zipfile compares its checksums
    except PermissionError:
        raise
    except Exception:  # a damaged archive fails in many ways, and is built again
        return None
    fits = num_bytes == math.prod(shape) and str(index.pop('header', '')) == _header(source, shape)
    if not fits or set(index) != set(_COLUMNS):
        return None
    # Read-only, not copy-on-write, which would reserve memory for the whole file.
    pixels = np.asarray(np.memmap(images, np.uint8, mode='r', shape=shape))
    return Cache(pixels, intact=np.zeros(len(pixels), bool), path=path, **index)


def _mib(shape: tuple[int, ...]) -> str:
    return f'{math.ceil(math.prod(shape) / 2**20)} MiB'
