"""Image files to pixels, on the host, with Pillow."""

import io
import itertools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image

from metriclt_jax.data.progress import progress
from metriclt_jax.errors import InputError

# What Pillow raises on damaged files, depending on the format and on what is damaged.
_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

T = TypeVar('T')
U = TypeVar('U')


def decode(image: bytes, size: int) -> tuple[np.ndarray, float]:
    """Decodes an image file to RGB and resizes it to `size` x `size`.

    The resizing is bilinear and antialiased and does not keep the aspect ratio; an image that has
    the size already is left as it is.

    Returns:
        Pixels, uint8 `[size, size, 3]`, and width / height of the original.

    Raises:
        InputError: the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(image)) as picture:
            width, height = picture.size
            rgb = picture.convert('RGB')
    except _DAMAGE as error:
        raise InputError(f'An image cannot be decoded: {error}.') from error
    if (width, height) != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb), width / height


def check_images(paths: Sequence[Path]) -> None:
    """Checks that every file is an image that can be decoded to its last pixel.

    Raises:
        InputError: names the first file that cannot.
    """
    with ThreadPoolExecutor() as pool:
        for _ in progress(in_order(pool, _check, paths), 'Checking images', len(paths)):
            pass


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[T], U], items: Iterable[T], window: int = 256
) -> Iterator[U]:
    """Yields `function(item)` in order, like `pool.map` but never far ahead of the consumer."""
    items = iter(items)
    while chunk := list(itertools.islice(items, window)):
        yield from pool.map(function, chunk)


def _check(path: Path) -> None:
    try:
        with Image.open(path) as picture:
            # A JPEG is decompressed completely, but its pixels are computed at 1/8 of the size.
            picture.draft('RGB', (1, 1))
            picture.load()
    except _DAMAGE as error:
        size = os.path.getsize(path) if path.exists() else 0
        raise InputError(
            f'{path} ({size} bytes) is not a readable image: {error}; copy it again.'
        ) from error
