"""Image files to pixels, on the host."""

import collections
import contextlib
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from metriclt_jax.data import dicom, formats
from metriclt_jax.errors import InputError, explained
from metriclt_jax.progress import track

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
    - Gray: three equal channels; more than 8 bits are scaled.
    - Transparency (RGBA, LA, palette): blended over black, unless a BMP or TIFF has it everywhere.
    - Several frames: the first.
    - Resizing: bilinear and antialiased, without keeping the aspect ratio.
    - Color profiles are not applied; CMYK, which is undefined without one, is refused.
    """
    return _resized(_upright(picture), size)


def decode(image: bytes, size: int, name: str) -> tuple[np.ndarray, float]:
    """Decodes an image file, `name` in messages, as `to_storage` does; also its width / height."""
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
        read = dicom.open_picture if dicom.is_dicom(file) else formats.open_picture
        file.seek(0)
        with read(file) as picture:
            yield picture
    except MemoryError:
        raise
    except Exception as error:  # Pillow and pydicom fail in many ways on damaged files
        raise InputError(f'{problem}: {" ".join(str(error).split())}') from error


def _upright(picture: Image.Image) -> Image.Image:
    rgb = formats.to_rgb(picture)  # some formats have their EXIF data behind the pixels
    try:
        turn = _UPRIGHT.get(picture.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged in many ways, which does not matter to the pixels
        turn = None
    return rgb if turn is None else rgb.transpose(turn)  # TIFF turns by itself


def _resized(upright: Image.Image, size: int) -> np.ndarray:
    if upright.size != (size, size):
        upright = upright.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(upright)
