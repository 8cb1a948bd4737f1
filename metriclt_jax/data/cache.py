"""Decoded images on disk: a memory map that is decoded once and gathered from in training.

The cache of a data set at size R is a folder with two files. `images` is uint8 `[N, R, R, 3]`
without any header. `index.jsonl` says in its first line what `images` must be (shape and
fingerprint of the records), and in each further line what is known of the next 64 images: id,
label, group, part, aspect ratio and the CRC-32 of the pixels. Each line starts with its own CRC-32.

Nothing is trusted unchecked: a cache that does not fit is built again, and an image whose pixels do
not fit their CRC-32 is decoded again. Both files are written from beginning to end, into a folder
aside that is renamed when it is complete; a process that is killed leaves it for the next, which
goes on after the last line whose pixels fit. Neither writing nor reading needs memory for more than
a few images, so a set may be larger than the memory.
"""

import dataclasses
import itertools
import json
import logging
import math
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from metriclt_jax.data import remote
from metriclt_jax.data.decoding import decode, in_order
from metriclt_jax.data.records import Example, Records
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.progress import say, track

_FORMAT = 3  # of the files, and of what `decoding` makes of an image
_COLUMNS = ('ids', 'labels', 'groups', 'parts', 'aspects', 'crc32')
IMAGES = 'images'
_INDEX = 'index.jsonl'
_CHUNK = 64  # images in a line of the index
_ALIGNMENT = 64  # bytes
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Images:
    """Random access to the pixels of all images of a data set.

    Attributes:
        pixels: uint8 `[N, R, R, 3]`, a memory map. It is read-only: the system can give its memory
            back at any time, and does not count it as the process's own.
        crc32: uint32 `[N]`.
        decode_again: from an index to the pixels, out of the record.
        checked: bool `[N]`, which images were compared with their CRC-32 in this process.
        damaged: bool `[N]`, for which of them it did not fit.
    """

    pixels: np.ndarray
    crc32: np.ndarray
    decode_again: Callable[[int], np.ndarray] = dataclasses.field(repr=False)
    checked: np.ndarray = dataclasses.field(repr=False)
    damaged: np.ndarray = dataclasses.field(repr=False)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Returns the images of `indices` `[n]` as uint8 `[n, R, R, 3]`; safe in threads."""
        indices = np.asarray(indices)
        for index in np.unique(indices[~self.checked[indices]]):  # IndexError if out of range
            self._check(int(index))
        images = _empty((len(indices), *self.pixels.shape[1:]))
        # Unlike [], take does not hold up other threads; with 'raise' it would copy twice.
        self.pixels.take(indices, axis=0, out=images, mode='wrap')
        for position in np.flatnonzero(self.damaged[indices]):
            images[position] = self.decode_again(int(indices[position]))
        return images

    def _check(self, index: int) -> None:
        if zlib.crc32(self.pixels[index]) != self.crc32[index]:
            _log.warning('Cached image %d is damaged; it is decoded anew each time.', index)
            self.damaged[index] = True
        self.checked[index] = True


@dataclasses.dataclass(frozen=True)
class Cache:
    """All images of a data set, and what is known of each, in the order of the records.

    Attributes:
        images: their pixels.
        ids: str `[N]`.
        labels: int32 `[N]`.
        groups: str `[N]`, the lesion or patient; '' where there is none.
        parts: str `[N]`, the part that the source names; '' where it names none.
        aspects: float32 `[N]`, width / height of the original image.
    """

    images: Images
    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    parts: np.ndarray
    aspects: np.ndarray


def cache_path(name: str, size: int, data_dir: str) -> Path:
    """Returns the folder of the images of a data set at size R; see `open_cache`."""
    return remote.local_folder(data_dir) / 'cache' / f'{name}_{size}x{size}'


def open_cache(source: Records, size: int, data_dir: str) -> Cache:
    """Opens the decoded images of a data set, and builds them first where that is needed.

    Several processes may do so at once: one builds, and says on stderr what it will take of the
    disk, the others wait for it.

    Args:
        source: the records.
        size: R, images are stored as R x R.
        data_dir: the cache lies in its folder `cache`, which may be a link to another disk; that of
            a remote `data_dir` in `remote.local_folder(data_dir)`, since files have to be on this
            machine to be mapped.

    Raises:
        InputError: an impossible size, an image that cannot be decoded, a folder that cannot be
            written to, not enough space.
    """
    if size < 1:
        raise InputError(f'data.resize is {size}; allowed: 1 or more')
    path = cache_path(source.name, size, data_dir)
    header = {
        'format': _FORMAT,
        'fingerprint': source.fingerprint,
        'shape': [len(source), size, size, 3],
    }
    try:
        columns = _read_complete(path, header)
        if columns is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f'{path.name}.lock')):
                columns = _read_complete(path, header)  # someone may have built it meanwhile
                if columns is None:
                    columns = _build(source, path, header)
        # Read-only, not copy-on-write: for that, the system would want memory for the whole file.
        pixels = np.memmap(path / IMAGES, np.uint8, mode='r', shape=tuple(header['shape']))
    except OSError as error:
        raise InputError(
            f'the decoded images of {source.name} ({_mib(math.prod(header["shape"]))}) cannot be '
            f'kept in {path}: {error}'
        ) from error
    images = Images(
        pixels=np.asarray(pixels),
        crc32=np.array(columns['crc32'], np.uint32),
        decode_again=lambda index: _decode(source.read([index])[0], size)[1],
        checked=np.zeros(len(source), bool),
        damaged=np.zeros(len(source), bool),
    )
    return Cache(
        images=images,
        ids=np.array(columns['ids'], str),
        labels=np.array(columns['labels'], np.int32),
        groups=np.array(columns['groups'], str),
        parts=np.array(columns['parts'], str),
        aspects=np.array(columns['aspects'], np.float32),
    )


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """Returns uninitialised uint8 in a place that JAX on a CPU takes over without copying."""
    count = math.prod(shape)
    memory = np.empty(count + _ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % _ALIGNMENT
    return memory[start : start + count].reshape(shape)


def _build(source: Records, path: Path, header: dict[str, Any]) -> dict[str, list]:
    """Decodes every image into a folder aside and moves it to its place when complete."""
    count, size, *_ = header['shape']
    image_bytes = size * size * 3
    aside = path.with_name(f'{path.name}.incomplete')
    if path.exists():
        _log.warning('The decoded images in %s are outdated or damaged.', path)
        shutil.rmtree(path, ignore_errors=True)
    chunks = _resume(aside, header)
    done = sum(len(chunk['ids']) for chunk in chunks)
    needed = (count - done) * image_bytes
    remote.require_space(path.parent, needed, f'the cache of the decoded images of {source.name}')
    there = f', {done} of them are there already' if done else ''
    say(
        f'decoding {count} images of {source.name} to {size} x {size} pixels, once: '
        f'{_mib(count * image_bytes)} in {path}{there}'
    )
    try:
        with (
            (aside / IMAGES).open('ab') as images,
            (aside / _INDEX).open('a') as index,
            ThreadPoolExecutor() as pool,
        ):
            decoded = in_order(pool, lambda it: _decode(it, size), _examples(source, done))
            decoded = iter(track(decoded, f'Decoding {source.name}', count, done))
            while some := list(itertools.islice(decoded, _CHUNK)):
                for _, pixels, _ in some:
                    images.write(pixels)
                images.flush()
                chunks.append(_describe(some))
                index.write(_line(chunks[-1]))
                index.flush()
        aside.rename(path)
    except OSError as error:
        done = sum(len(chunk['ids']) for chunk in chunks)
        raise InputError(
            f'decoding {source.name} stopped after {done} of {count} images, as {aside} cannot be '
            f'written to: {error}; the same command goes on from there when there is room for '
            f'{_mib((count - done) * image_bytes)} more'
        ) from error
    return _join(chunks)


def _resume(aside: Path, header: dict[str, Any]) -> list[dict[str, list]]:
    """Cuts what an earlier process left in `aside` down to what is right; returns its chunks."""
    lines = _read_lines(aside / _INDEX)
    chunks = []
    if next(lines, None) == header and (aside / IMAGES).exists():
        image_bytes = math.prod(header['shape'][1:])
        with (aside / IMAGES).open('rb') as file:

            def fits(chunk: dict[str, list]) -> bool:
                return all(zlib.crc32(file.read(image_bytes)) == crc32 for crc32 in chunk['crc32'])

            chunks = list(itertools.takewhile(fits, lines))
        with (aside / IMAGES).open('r+b') as file:
            file.truncate(sum(len(chunk['ids']) for chunk in chunks) * image_bytes)
    else:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    (aside / _INDEX).write_text(''.join(map(_line, [header, *chunks])))
    return chunks


def _examples(source: Records, start: int) -> Iterator[Example]:
    for first in range(start, len(source), _CHUNK):
        yield from source.read(range(first, min(first + _CHUNK, len(source))))


def _decode(example: Example, size: int) -> tuple[Example, np.ndarray, float]:
    return example, *decode(example.image, size, example.image_id)


def _describe(some: list[tuple[Example, np.ndarray, float]]) -> dict[str, list]:
    """Returns the columns of the index for some images."""
    rows = (
        (example.image_id, example.label, example.group, example.part, aspect, zlib.crc32(pixels))
        for example, pixels, aspect in some
    )
    return {
        name: list(column) for name, column in zip(_COLUMNS, zip(*rows, strict=True), strict=True)
    }


def _join(chunks: list[dict[str, list]]) -> dict[str, list]:
    return {name: [value for chunk in chunks for value in chunk[name]] for name in _COLUMNS}


def _read_complete(path: Path, header: dict[str, Any]) -> dict[str, list] | None:
    """Returns the columns of a cache's index; None where the cache is not all of `header`."""
    lines = _read_lines(path / _INDEX)
    if next(lines, None) == header:
        columns = _join(list(lines))
        complete = len(columns['ids']) == header['shape'][0]
        images = path / IMAGES
        if complete and images.exists() and images.stat().st_size == math.prod(header['shape']):
            return columns
    return None


def _line(value: dict[str, Any]) -> str:
    text = json.dumps(value)
    return f'{zlib.crc32(text.encode())} {text}\n'


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the values of an index up to the first line that is damaged."""
    try:
        file = path.open('rb')
    except FileNotFoundError:
        return
    with file:
        for line in file:
            crc32, _, text = line.rstrip(b'\n').partition(b' ')
            if not line.endswith(b'\n') or crc32 != b'%d' % zlib.crc32(text):
                return
            yield json.loads(text)


def _mib(count: int) -> str:
    return f'{math.ceil(count / 2**20)} MiB'
