"""A picture is what its file means, also where Pillow hands over something else."""

import io
import re
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import prepare, records
from metriclt_jax.data.decoding import check_images, decode, to_storage
from metriclt_jax.errors import InputError

GRAY = np.array([[0, 40, 200, 255], [7, 90, 91, 128]] * 2, np.uint8)
COLOR = np.full((4, 4, 3), (180, 90, 30), np.uint8)
RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (9, 12, 3), np.uint8)


def encoded(picture, form, **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


def tiff(planes, bits, photometric, order='<', compressed=False, **tags):
    """A TIFF of 4 x 4 pixels (TIFF 6.0): Pillow cannot write most of them."""
    data = [zlib.compress(plane) if compressed else plane for plane in planes]
    fields = {256: 4, 257: 4, 258: bits, 259: 8 if compressed else 1, 262: photometric}
    fields |= {273: [0] * len(data), 277: len(np.ravel(bits)), 278: 4, 279: [*map(len, data)]}
    fields |= {int(name[1:]): value for name, value in tags.items()}
    extra, start = b''.join(data), 8 + 2 + 12 * len(fields) + 4
    fields[273] = [start + sum(map(len, data[:i])) for i in range(len(data))]
    entries = b''
    for tag, value in sorted(fields.items()):
        values = np.ravel(value).tolist()
        packed = struct.pack(f'{order}{len(values)}I', *values)
        kind = 4
        if tag not in (273, 279):
            packed, kind = struct.pack(f'{order}{len(values)}H', *values), 3
        if len(packed) > 4:
            extra, packed = extra + packed, struct.pack(f'{order}I', start + len(extra))
        entries += struct.pack(f'{order}HHI', tag, kind, len(values)) + packed.ljust(4, b'\0')
    head = {'<': b'II', '>': b'MM'}[order] + struct.pack(f'{order}HIH', 42, 8, len(fields))
    return head + entries + bytes(4) + extra


def packed(values, bits):
    """Rows of samples, most significant bit first, each row in full bytes."""
    digits = values[..., None].astype(np.uint32) >> np.arange(bits)[::-1] & 1
    return np.packbits(digits.reshape(*values.shape[:-1], -1), axis=-1).tobytes()


def samples(values, order='<'):
    return values.astype(values.dtype.newbyteorder(order)).tobytes()


def bmp(size, masks, pixels, bits=32, palette=b''):
    body = pixels.tobytes()
    compression = 3 if masks else 0
    header = struct.pack('<IiiHHIIiiII', size, 4, 4, 1, bits, compression, len(body), 0, 0, 0, 0)
    if palette:
        header = header[:32] + struct.pack('<I', len(palette) // 4) + header[36:]
    header += b''.join(struct.pack('<I', mask) for mask in masks)
    header = header.ljust(size, b'\0')
    start = 14 + len(header) + len(palette)
    return b'BM' + struct.pack('<IHHI', start + len(body), 0, 0, start) + header + palette + body


def png(bits, kind, rows, *chunks, after=()):
    def chunk(name, data):
        crc = struct.pack('>I', zlib.crc32(name + data))
        return struct.pack('>I', len(data)) + name + data + crc

    header = (b'IHDR', struct.pack('>IIBBBBB', 4, 4, bits, kind, 0, 0, 0))
    pixels = (b'IDAT', zlib.compress(b''.join(b'\0' + row for row in rows)))
    parts = [header, *chunks, pixels, *after, (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*part) for part in parts)


def pixels(image, size=4):
    return decode(image, size, 'x')[0]


def assert_gray(image, expected):
    np.testing.assert_array_equal(pixels(image), np.repeat(np.array(expected)[..., None], 3, 2))


def assert_refused(image, words, tmp_path):
    """Decoding and checking agree on what is refused."""
    with pytest.raises(InputError, match=words):
        decode(image, 4, 'x')
    path = tmp_path / 'file'
    path.write_bytes(image)
    ((problem, _),) = check_images([path])
    assert re.search(words, problem)


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('white_is_zero', [False, True])
@pytest.mark.parametrize('bits', [1, 4, 8, 12, 16])
def test_gray_tiff(bits, white_is_zero, order, compressed, tmp_path):
    top = 2**bits - 1
    levels = np.rint(GRAY / 255 * top).astype(np.uint16)
    stored = top - levels if white_is_zero else levels
    data = samples(stored, order) if bits == 16 else packed(stored, bits)
    image = tiff([data], bits, 0 if white_is_zero else 1, order, compressed)
    read = not white_is_zero or bits <= 8 or (bits, order) == (16, '<')
    if not read or (bits, order) == (12, '>'):
        assert_refused(image, f'kind of TIFF .*BitsPerSample .{bits}', tmp_path)
    else:
        assert_gray(image, np.rint(levels / top * 255))


@pytest.mark.parametrize('compressed', [False, True])
@pytest.mark.parametrize(
    ('bits', 'kind', 'sample_format', 'words'),
    [
        (8, 'i1', 2, 'sign'),
        (16, 'i2', 2, 'sign'),
        (32, 'u4', 1, 'type I'),
        (32, 'f4', 3, 'floating point'),
        (16, 'f2', 3, 'SampleFormat'),
        (64, 'f8', 3, 'SampleFormat'),
    ],
)
def test_samples_without_a_known_range_are_refused(
    bits, kind, sample_format, words, compressed, tmp_path
):
    data = np.arange(16).astype(kind).tobytes()
    assert_refused(tiff([data], bits, 1, '<', compressed, t339=sample_format), words, tmp_path)


@pytest.mark.parametrize('compressed', [False, True])
def test_the_fourth_sample_of_a_tiff(compressed, tmp_path):
    def image(alpha, extra, color=COLOR):
        data = np.dstack([color, np.full((4, 4), alpha, np.uint8)])
        return tiff([data.tobytes()], [8] * 4, 2, '<', compressed, t338=extra)

    for extra in (0, 2):  # unspecified, or not multiplied
        np.testing.assert_array_equal(pixels(image(0, extra)), COLOR)
        np.testing.assert_array_equal(pixels(image(255, extra)), COLOR)
    np.testing.assert_array_equal(pixels(image(77, 0)), COLOR)
    np.testing.assert_allclose(pixels(image(128, 2)), COLOR / 2, atol=1)
    half = COLOR // 2  # multiplied, as it lies over black
    np.testing.assert_allclose(pixels(image(128, 1, half)), half, atol=1)
    assert_refused(image(0, 1), 'alpha', tmp_path)
    gray = np.dstack([GRAY // 2, np.full((4, 4), 128, np.uint8)]).tobytes()
    stored = pixels(tiff([gray], [8, 8], 1, '<', compressed, t338=1))
    np.testing.assert_allclose(stored[..., 0], GRAY // 2, atol=1)


def test_separate_planes_of_a_tiff(tmp_path):
    planes = [np.ascontiguousarray(COLOR[..., c]) for c in range(3)]
    for compressed in (False, True):
        image = tiff([p.tobytes() for p in planes], [8] * 3, 2, '<', compressed, t284=2)
        np.testing.assert_array_equal(pixels(image), COLOR)
    deep = [(plane.astype('<u2') * 257).tobytes() for plane in planes]
    np.testing.assert_array_equal(pixels(tiff(deep, [16] * 3, 2, '<', True, t284=2)), COLOR)
    assert_refused(tiff(deep, [16] * 3, 2, t284=2), 'PlanarConfiguration', tmp_path)
    assert_gray(tiff([GRAY.tobytes()], 8, 1, t284=2), GRAY)
    assert_gray(tiff([(255 - GRAY).tobytes()], 8, 0, '<', True, t284=2), GRAY)
    assert_refused(tiff([(255 - GRAY).tobytes()], 8, 0, t284=2), 'PlanarConfiguration', tmp_path)


@pytest.mark.parametrize('factor', [1, 257])
def test_palette_of_a_tiff_in_8_or_16_bits(factor):
    colors = np.zeros((3, 256), int)
    colors[:, 1] = COLOR[0, 0]
    image = tiff([bytes([1] * 16)], 8, 3, t320=colors * factor)
    np.testing.assert_array_equal(pixels(image), COLOR)


def test_subsampled_colors_of_a_tiff(tmp_path):
    blocks = bytes([100, 100, 100, 100, 128, 128] * 4) + bytes(64)
    assert_refused(tiff([blocks], [8] * 3, 6, t530=[2, 2]), 'YCbCr', tmp_path)
    assert_gray(tiff([bytes([100, 128, 128] * 16)], [8] * 3, 6, t530=[1, 1]), np.full((4, 4), 100))


def test_a_tiff_that_does_not_say_what_zero_is(tmp_path):
    image = tiff([GRAY.tobytes()], 8, 1)
    at = image.index(struct.pack('<HH', 262, 3))
    unknown = image[:at] + struct.pack('<H', 261) + image[at + 2 :]
    assert_refused(unknown, 'Photometric', tmp_path)


def test_a_thumbnail_is_not_the_picture():
    def pages(*kinds):
        file = io.BytesIO()
        pictures = [Image.new('L', (size, size), size) for _, size in kinds]
        for picture, (kind, _) in zip(pictures, kinds, strict=True):
            picture.encoderinfo = {'tiffinfo': {254: kind}}
        pictures[0].save(
            file, 'TIFF', save_all=True, append_images=pictures[1:], tiffinfo={254: kinds[0][0]}
        )
        return file.getvalue()

    for kinds, size in [
        ([(1, 8), (0, 64)], 64),
        ([(1, 8), (4, 64), (0, 32)], 32),
        ([(2, 8), (2, 64)], 8),
        ([(1, 8)], 8),
    ]:
        assert_gray(pages(*kinds), np.full((4, 4), size))


@pytest.mark.parametrize('size', [40, 108, 124])
def test_bmp_with_an_alpha_that_nobody_filled(size):
    masks = (0xFF0000, 0xFF00, 0xFF, 0xFF000000) if size > 40 else ()
    alpha = np.zeros((4, 4), np.uint8)
    image = bmp(size, masks, np.dstack([COLOR[..., ::-1], alpha]))
    np.testing.assert_array_equal(pixels(image), COLOR)
    np.testing.assert_array_equal(to_storage(Image.open(io.BytesIO(image)), 4), COLOR)
    if masks:
        alpha[0, 0] = 255
        expected = np.where(alpha[..., None], COLOR, 0)
        image = bmp(size, masks, np.dstack([COLOR[..., ::-1], alpha]))
        np.testing.assert_array_equal(pixels(image), expected[::-1])  # BMP is upside down


def test_bmp_of_few_grays(tmp_path):
    black, white = bytes(4), b'\xff\xff\xff\0'
    assert_refused(bmp(40, (), GRAY % 2, 8, black + white), 'BMP of 8 bits', tmp_path)
    image = bmp(40, (), GRAY % 2, 8, white + black)
    assert_gray(image, np.where(GRAY % 2, 0, 255)[::-1])


def test_nothing_shows_where_alpha_is_zero():
    clear = Image.fromarray(np.dstack([COLOR, np.zeros((4, 4), np.uint8)]))
    for form, options in (('PNG', {}), ('WEBP', {'lossless': True, 'exact': True})):
        assert_gray(encoded(clear, form, **options), np.zeros((4, 4)))


@pytest.mark.parametrize('maxval', [1, 100, 255, 1000, 4095, 65535])
@pytest.mark.parametrize('magic', [b'P2', b'P5', b'P6'])
def test_portable_maps(magic, maxval):
    levels = np.rint(GRAY / 255 * maxval).astype(np.uint16)
    samples_each = 3 if magic == b'P6' else 1
    data = np.repeat(levels.ravel(), samples_each).astype('>u2' if maxval > 255 else 'u1')
    text = ' '.join(map(str, levels.ravel())).encode()
    image = magic + b' 4 4 %d\n' % maxval + (text if magic == b'P2' else data.tobytes())
    assert_gray(image, np.rint(levels / maxval * 255))


def test_floating_point_map(tmp_path):
    assert_refused(b'Pf 4 4 -1.0\n' + bytes(64), 'floating point', tmp_path)


@pytest.mark.parametrize('bits', [2, 4, 8, 16])
def test_a_gray_that_stands_for_transparent(bits):
    levels = np.array([[0, 1, 2, 3]] * 4, np.uint16)
    rows = [samples(row, '>') if bits == 16 else packed(row, bits) for row in levels]
    expected = np.rint(np.where(levels == 2, 0, levels) * 255 / (2**bits - 1))
    transparent = (b'tRNS', struct.pack('>H', 2))
    image = png(bits, 0, rows, transparent)
    assert_gray(image, expected)
    picture = Image.open(io.BytesIO(image))
    for _ in range(2):
        np.testing.assert_array_equal(to_storage(picture, 4)[..., 0], expected)


def test_a_color_of_16_bits_that_stands_for_transparent(tmp_path):
    rows = [samples(np.full(12, 25700, np.uint16), '>')] * 4
    assert_refused(png(16, 2, rows, (b'tRNS', bytes(6))), '16 bits', tmp_path)


BEYOND = zlib.compress(bytes(3_000_000))
ROWS = [row.tobytes() for row in GRAY]


@pytest.mark.parametrize(
    'chunk',
    [
        (b'zTXt', b'Comment\0\0' + BEYOND),
        (b'iTXt', b'Comment\0\1\0\0\0' + BEYOND),
        (b'iCCP', b'profile\0\0' + BEYOND),
        (b'iTXt', b'damaged'),
        (b'eXIf', b'damaged'),
        (b'eXIf', b'MM\0*\0\0\0\x08\xff\xff'),
        (b'pHYs', b''),
        (b'acTL', b'\0'),
    ],
    ids=lambda chunk: chunk[0].decode(),
)
@pytest.mark.parametrize('after', [False, True])
def test_what_a_png_has_beside_its_pixels_does_not_matter(chunk, after, tmp_path):
    image = png(8, 0, ROWS, *([] if after else [chunk]), after=[chunk] if after else [])
    wrong_checksum = image.replace(chunk[0], chunk[0][:-1] + b'x')
    path = tmp_path / 'x.png'
    for content in (image, wrong_checksum):
        assert_gray(content, GRAY)
        path.write_bytes(content)
        assert check_images([path])[0][0] == ''
    start = image.index(b'IDAT')
    assert_refused(image[: start + 10], 'truncated|broken', tmp_path)
    assert_refused(image[: start + 6] + b'\1' + image[start + 7 :], 'broken|truncated', tmp_path)


def test_metadata_beyond_all_limits_leaves_orientation_and_transparency():
    exif = Image.Exif()
    exif[0x0112] = 3
    chunks = (b'zTXt', b'a\0\0' + BEYOND), (b'eXIf', exif.tobytes()[6:]), (b'tRNS', bytes([0, 200]))
    expected = np.where(GRAY == 200, 0, GRAY)
    assert_gray(png(8, 0, ROWS, *chunks), expected[::-1, ::-1])


@pytest.mark.filterwarnings('ignore::UserWarning')  # Pillow's, of what it leaves out
@pytest.mark.parametrize('form', ['JPEG', 'PNG', 'WEBP'])
def test_damaged_exif_does_not_matter(form):
    picture = Image.fromarray(NOISE)
    options = {'lossless': True} if form == 'WEBP' else {}
    expected = pixels(encoded(picture, form, **options))
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 1, 'maker' * 9
    intact = exif.tobytes()
    for seed in range(60):
        random = np.random.default_rng(seed)
        damaged = bytearray(intact[: random.integers(8, len(intact))])
        damaged[random.integers(6, len(damaged))] ^= random.integers(1, 256)
        damaged[random.integers(len(damaged))] ^= random.integers(1, 256)
        stored = pixels(encoded(picture, form, exif=bytes(damaged), **options))
        turned = {
            np.rot90(stored, k)[:: flip or None].tobytes() for k in range(4) for flip in (1, -1)
        }
        assert expected.tobytes() in turned


def test_a_photograph_of_several_frames_is_its_first():
    first = Image.fromarray(np.kron(COLOR, np.ones((8, 8, 1), np.uint8)))
    other = Image.new('RGB', first.size)
    image = encoded(first, 'MPO', save_all=True, append_images=[other])
    np.testing.assert_allclose(pixels(image), COLOR, atol=2)
    for form in ('PNG', 'GIF', 'WEBP'):
        image = encoded(first, form, save_all=True, append_images=[other])
        np.testing.assert_allclose(pixels(image), COLOR, atol=3)


def test_jpeg_of_12_bits_says_so(tmp_path):
    image = bytearray(encoded(Image.fromarray(NOISE), 'JPEG'))
    image[image.index(b'\xff\xc0') + 4] = 12
    assert_refused(bytes(image), '12-bit', tmp_path)


@pytest.mark.parametrize('bits', [8, 12])
@pytest.mark.parametrize('form', ['boxes', 'stream'])
def test_color_of_more_than_8_bits_in_jpeg_2000_is_refused(bits, form, tmp_path):
    smooth = np.kron(COLOR, np.ones((8, 8, 1), np.uint8))
    picture = Image.fromarray(smooth)
    image = encoded(picture, 'JPEG2000', no_jp2=form == 'stream', irreversible=False)
    np.testing.assert_array_equal(pixels(image), COLOR)
    path = tmp_path / 'x.jp2'
    path.write_bytes(image)
    assert check_images([path])[0][0] == ''
    if bits > 8:  # says so, at least
        at = image.index(b'\xff\x4f\xff\x51') + 42
        assert_refused(image[:at] + bytes([bits - 1]) + image[at + 1 :], '12 bits', tmp_path)


def test_the_endings_that_programs_give_to_images(tmp_path):
    picture = Image.fromarray(NOISE)
    endings = {'.jfif': 'JPEG', '.JPE': 'JPEG', '.dib': 'BMP', '.pbm': 'PPM', '.j2k': 'JPEG2000'}
    for number, (ending, form) in enumerate(endings.items()):
        path = tmp_path / 'source' / 'ab'[number % 2] / f'x{ending}'
        path.parent.mkdir(parents=True, exist_ok=True)
        turned = picture.rotate(90 * number)  # the same file in two classes would be refused
        turned.convert('1' if ending == '.pbm' else 'RGB').save(path, form)
    prepare('folder', str(tmp_path / 'source'), str(tmp_path / 'data'), 'odd')
    assert len(records.open_records('odd', str(tmp_path / 'data'))) == len(endings)


def test_a_file_of_another_kind_is_of_unknown_format(tmp_path):
    for content in (b'Python', b'P7\nWIDTH 4\n'):
        assert_refused(content, 'unknown format; use .*DICOM', tmp_path)


@pytest.mark.parametrize('size', [(0, 4), (4, 0)])
def test_a_picture_without_pixels(size):
    with pytest.raises(InputError, match='at least one'):
        to_storage(Image.new('RGB', size), 4)
