"""Image files to pixels, on the host, with Pillow."""

import io
import itertools
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from metriclt_jax.data.progress import progress
from metriclt_jax.errors import InputError

# What Pillow raises on damaged files, depending on the format and on what is damaged.
_DAMAGE = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)

T = TypeVar('T')
U = TypeVar('U')


def to_storage(picture: Image.Image, size: int) -> np.ndarray:
    """Converts a picture to RGB, resized to `size` x `size`: what is cached and trained on.

    The resizing is bilinear and antialiased and does not keep the aspect ratio; a picture that has
    the size already is left as it is.

    Returns:
        uint8 `[size, size, 3]`.
    """
    rgb = picture.convert('RGB')
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def decode(image: bytes, size: int, name: str) -> tuple[np.ndarray, float]:
    """Decodes an image file.

    Args:
        image: the file's content.
        size: side of the result, see `to_storage`.
        name: of the image, for messages.

    Returns:
        Pixels, uint8 `[size, size, 3]`, and width / height of the original.

    Raises:
        InputError: the image cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(image)) as picture:
            return to_storage(picture, size), picture.width / picture.height
    except _DAMAGE as error:
        raise InputError(f'image {name} cannot be decoded: {_reason(error)}') from error


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
    """Yields `function(item)` in order, like `pool.map`, but never far ahead of the consumer."""
    items = iter(items)
    while chunk := list(itertools.islice(items, window)):
        yield from pool.map(function, chunk)


def _check(path: Path) -> None:
    try:
        with Image.open(path) as picture:
            # A JPEG is read to its end, but its pixels are computed at an eighth of its size.
            picture.draft('RGB', (1, 1))
            picture.load()
    except _DAMAGE as error:
        raise InputError(f'{path} is not a readable image: {_reason(error)}') from error


def _reason(error: Exception) -> str:
    return 'unknown format' if isinstance(error, UnidentifiedImageError) else str(error)
