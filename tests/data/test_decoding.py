"""Each kind of image file becomes what its owner sees in it, or is refused in one sentence."""

import hashlib
import io
import re
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data.decoding import check_images, decode, in_order, to_storage
from metriclt_jax.errors import InputError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (6, 8, 3), np.uint8)


def encoded(picture, form='PNG', **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def png(width, height, bits, kind, rows, *chunks):
    """A PNG file written by hand (RFC 2083): Pillow cannot write them all."""

    def chunk(name, data):
        return (
            struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        )

    header = struct.pack('>IIBBBBB', width, height, bits, kind, 0, 0, 0)
    parts = [(b'IHDR', header), *chunks, (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def pixels(image, size=2):
    return decode(image, size, 'x')[0]


def test_16_bit_grey_is_scaled_not_clipped():
    values = [0, 255, 257, 32896, 65280, 65535, 128, 129, 40000]
    rows = b''.join(b'\0' + struct.pack('>3H', *values[i : i + 3]) for i in (0, 3, 6))
    expected = np.array([round(value * 255 / 65535) for value in values]).reshape(3, 3)
    assert expected.tolist() == [[0, 1, 1], [128, 254, 255], [0, 1, 156]]
    grey16 = png(3, 3, 16, 0, rows)
    tiff = encoded(Image.fromarray(np.array(values, np.uint16).reshape(3, 3)), 'TIFF')
    for image in (grey16, tiff):
        np.testing.assert_array_equal(pixels(image, 3), np.repeat(expected[..., None], 3, axis=2))


@pytest.mark.parametrize('mode', ['1', 'L', 'LA'])
def test_grey_has_three_equal_channels(mode):
    grey = np.array([[0, 255], [255, 0]], np.uint8)
    picture = Image.fromarray(grey).convert(mode)
    np.testing.assert_array_equal(pixels(encoded(picture)), np.repeat(grey[..., None], 3, axis=2))


def test_what_is_transparent_lies_over_black():
    rgba = np.array([[[200, 100, 50, 255], [200, 100, 50, 0]]] * 2, np.uint8)
    rgba[1, 1, 3] = 51  # a fifth
    picture = Image.fromarray(rgba)
    expected = [[[200, 100, 50], [0, 0, 0]], [[200, 100, 50], [40, 20, 10]]]
    np.testing.assert_allclose(pixels(encoded(picture)), expected, atol=1)
    np.testing.assert_allclose(to_storage(picture, 2), expected, atol=1)
    grey = Image.fromarray(np.dstack([np.full((2, 2), 90, np.uint8), rgba[..., 3]]), 'LA')
    np.testing.assert_allclose(pixels(encoded(grey))[..., 0], [[90, 0], [90, 18]], atol=1)


def test_palette():
    palette = (b'PLTE', bytes([10, 20, 30, 200, 100, 50]))
    rows = b'\0\0\1' * 2
    expected = [[[10, 20, 30], [200, 100, 50]]] * 2
    np.testing.assert_array_equal(pixels(png(2, 2, 8, 3, rows, palette)), expected)
    second_is_transparent = (b'tRNS', bytes([255, 0]))
    np.testing.assert_array_equal(
        pixels(png(2, 2, 8, 3, rows, palette, second_is_transparent)),
        [[[10, 20, 30], [0, 0, 0]]] * 2,
    )


def test_a_colour_that_stands_for_transparent():
    rows = b'\0' + bytes([1, 2, 3, 9, 8, 7])
    transparent = (b'tRNS', struct.pack('>3H', 1, 2, 3))
    np.testing.assert_array_equal(
        pixels(png(2, 2, 8, 2, rows * 2, transparent)), [[[0, 0, 0], [9, 8, 7]]] * 2
    )


@pytest.mark.parametrize(
    ('orientation', 'upright'),
    # EXIF 2.3, tag 274: where the first row and the first column of the file belong.
    [
        (1, [[1, 2], [3, 4], [5, 6]]),
        (2, [[2, 1], [4, 3], [6, 5]]),
        (3, [[6, 5], [4, 3], [2, 1]]),
        (4, [[5, 6], [3, 4], [1, 2]]),
        (5, [[1, 3, 5], [2, 4, 6]]),
        (6, [[5, 3, 1], [6, 4, 2]]),
        (7, [[6, 4, 2], [5, 3, 1]]),
        (8, [[2, 4, 6], [1, 3, 5]]),
    ],
)
@pytest.mark.parametrize('form', ['PNG', 'TIFF', 'JPEG', 'WEBP'])
def test_the_exif_orientation_is_carried_out(form, orientation, upright):
    values = np.array([[1, 2], [3, 4], [5, 6]], np.uint8) * 40
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {'JPEG': {'quality': 100}, 'WEBP': {'lossless': True}}.get(form, {})
    picture = Image.fromarray(np.kron(values, np.ones((16, 16), np.uint8)))  # JPEG's blocks
    image = encoded(picture, form, exif=exif.tobytes(), **options)
    stored, aspect = decode(image, 96, 'x')
    in_memory = Image.open(io.BytesIO(image))
    for _ in range(2):  # it stays as it was
        np.testing.assert_array_equal(to_storage(in_memory, 96), stored)
    expected = np.array(upright) * 40
    assert aspect == expected.shape[1] / expected.shape[0]
    rows, columns = 96 // expected.shape[0], 96 // expected.shape[1]
    centers = stored[rows // 2 :: rows, columns // 2 :: columns, 0]
    np.testing.assert_allclose(centers, expected, atol=1)


def test_resizing_is_antialiased():
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255  # a chessboard of pixels
    image = pixels(encoded(Image.fromarray(board.astype(np.uint8))), 8)
    np.testing.assert_allclose(image, 127.5, atol=4)


JPEG = encoded(Image.fromarray(RNG.integers(0, 256, (90, 120, 3), np.uint8)), 'JPEG')
CMYK = Image.fromarray(RNG.integers(0, 256, (9, 12, 4), np.uint8), 'CMYK')
HUGE = png(20_000, 20_000, 8, 0, b'')  # 77 bytes that ask for 400 million
BAD = {
    'empty': (b'', 'the file is empty'),
    'no image': (b'no image', 'unknown format'),
    'truncated JPEG': (JPEG[: len(JPEG) // 2], 'truncated'),
    'truncated PNG': (encoded(Image.fromarray(RGB))[:-40], 'truncated|broken'),
    'CMYK JPEG': (encoded(CMYK, 'JPEG'), 'CMYK'),
    'float TIFF': (encoded(Image.fromarray(np.ones((4, 4), np.float32)), 'TIFF'), 'of type F'),
    'bomb': (HUGE, '400000000 pixels|20000 x 20000 pixels'),
    'small bomb': (png(10_000, 10_000, 8, 0, b''), '100000000 pixels|10000 x 10000 pixels'),
    # Ghostscript would be started for this one.
    'PostScript': (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'unknown format'),
}


@pytest.mark.parametrize(('image', 'words'), BAD.values(), ids=BAD)
def test_a_file_that_cannot_be_used_is_one_sentence(image, words, tmp_path):
    with pytest.raises(InputError, match=f'^image x7 cannot be decoded: .*({words})') as raised:
        decode(image, 8, 'x7')
    assert '\n' not in str(raised.value)
    path = tmp_path / 'file.jpg'
    path.write_bytes(image)
    ((problem, _),) = check_images([path])
    assert re.search(f'^not a readable image: .*({words})', problem)


def test_in_order_keeps_the_order_and_does_not_run_ahead():
    started, lock = [], threading.Lock()

    def double(x):
        with lock:
            started.append(x)
        return 2 * x

    with ThreadPoolExecutor(3) as pool:
        results = in_order(pool, double, iter(range(1000)), window=8)
        for x in range(20):
            assert next(results) == 2 * x
            assert max(started) < x + 8
        assert list(results) == [2 * x for x in range(20, 1000)]


def test_files_are_checked_in_order_with_their_checksums(tmp_path):
    paths = [tmp_path / f'{number}.png' for number in range(5)]
    for path in paths:
        path.write_bytes(encoded(Image.fromarray(RGB)))
    paths[3].write_bytes(b'')
    paths[4].unlink()
    *good, (empty, _), (missing, _) = check_images(paths)
    assert good == [('', hashlib.sha256(paths[0].read_bytes()).digest())] * 3
    assert 'the file is empty' in empty
    assert 'No such file' in missing
