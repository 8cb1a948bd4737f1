"""Image files to pixels, on the host, with Pillow."""

import collections
import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from metriclt_jax.errors import InputError, explained
from metriclt_jax.progress import track

FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Formats that are read. Pillow's others may start programs or read further files."""

# Pillow's names of the pixel types that have one obvious conversion to RGB.
_MODES = ('1', 'L', 'LA', 'P', 'PA', 'RGB', 'RGBA', 'RGBX', 'YCbCr')
_SIXTEEN_BIT_MODES = ('I;16', 'I;16L', 'I;16B', 'I;16N')

# Turns a picture upright, by the value of its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def to_storage(picture: Image.Image, size: int) -> np.ndarray:
    """Converts a picture to what is cached and trained on: upright RGB, uint8 `[size, size, 3]`.

    - Orientation: as the EXIF tag says.
    - Gray: three equal channels; 16 bits are divided by 257.
    - Transparency (RGBA, LA, palette): blended over black.
    - Several frames: the first.
    - Resizing: bilinear and antialiased, without keeping the aspect ratio.
    - Color profiles are not applied; CMYK, which is undefined without one, is refused.
    """
    return _resized(_upright(picture), size)


def decode(image: bytes, size: int, name: str) -> tuple[np.ndarray, float]:
    """Decodes an image file, called `name` in messages, as `to_storage` does.

    Returns the pixels, and width / height of the upright original.
    """
    with _opened(io.BytesIO(image), f'image {name} cannot be decoded') as picture:
        upright = _upright(picture)
        return _resized(upright, size), upright.width / upright.height


def check_images(paths: Sequence[Path]) -> list[tuple[str, bytes]]:
    """Returns why `decode` would refuse each file ('' if not), and the SHA-256 of its bytes."""
    with ThreadPoolExecutor() as pool:
        return list(track(in_order(pool, _checked, paths), 'Checking images', len(paths)))


def in_order(
    pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable, window: int = 64
) -> Iterator[Any]:
    """Yields `function(item)` in order, like `pool.map`, but never far ahead of the consumer."""
    waiting = collections.deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _checked(path: Path) -> tuple[str, bytes]:
    problem = 'not a readable image'
    try:
        with explained(problem):
            content = path.read_bytes()
        with _opened(io.BytesIO(content), problem) as picture:
            _require_known_mode(picture)
            # A JPEG is read to its end, but its pixels are computed at an eighth of its size.
            picture.draft('RGB', (1, 1))
            _upright(picture)
    except InputError as error:
        return str(error), b''
    return '', hashlib.sha256(content).digest()


@contextlib.contextmanager
def _opened(file: io.IOBase, problem: str) -> Iterator[Image.Image]:
    """Yields the picture in a file; failures become an `InputError` that starts with `problem`."""
    try:
        if not file.read(1):
            raise InputError('the file is empty')
        file.seek(0)
        with Image.open(file, formats=FORMATS) as picture:
            if picture.width * picture.height > Image.MAX_IMAGE_PIXELS:
                raise InputError(
                    f'it has {picture.width} x {picture.height} pixels; it must have at most '
                    f'{Image.MAX_IMAGE_PIXELS}, as decoding more may be an attack'
                )
            yield picture
    except UnidentifiedImageError as error:
        raise InputError(f'{problem}: unknown format; use {", ".join(FORMATS)}') from error
    except Exception as error:  # Pillow fails in many ways on damaged files
        raise InputError(f'{problem}: {error}') from error


def _upright(picture: Image.Image) -> Image.Image:
    picture.load()  # some formats have their EXIF data behind the pixels, and TIFF turns by itself
    turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation))
    return picture if turn is None else picture.transpose(turn)


def _resized(upright: Image.Image, size: int) -> np.ndarray:
    rgb = _to_rgb(upright)
    if rgb.size != (size, size):
        rgb = rgb.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(rgb)


def _to_rgb(picture: Image.Image) -> Image.Image:
    _require_known_mode(picture)
    if picture.mode in _SIXTEEN_BIT_MODES:  # `convert` would clip it to 255
        values = (np.asarray(picture, np.uint32) + 128) // 257
        return Image.fromarray(values.astype(np.uint8)).convert('RGB')
    if picture.has_transparency_data:
        rgba = picture.convert('RGBA')
        picture = Image.alpha_composite(Image.new('RGBA', rgba.size, 'black'), rgba)
    return picture if picture.mode == 'RGB' else picture.convert('RGB')  # which would copy it


def _require_known_mode(picture: Image.Image) -> None:
    if picture.mode not in _MODES + _SIXTEEN_BIT_MODES:
        raise InputError(
            f'its pixels are of type {picture.mode}; convert it to RGB or palette of 8 bits, or '
            'gray of 8 or 16 bits'
        )
