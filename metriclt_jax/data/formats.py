"""Pictures as their files mean them, where Pillow hands over something else or nothing."""

import io
import struct
import zlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImagePalette, TiffImagePlugin, TiffTags, UnidentifiedImageError

from metriclt_jax.errors import InputError

FORMATS = ('BMP', 'GIF', 'JPEG', 'JPEG2000', 'PNG', 'PPM', 'TIFF', 'WEBP')
"""Formats that Pillow reads for us. Its others may start programs or read further files."""

# Pillow's names of the pixel types that have one obvious conversion to RGB.
_MODES = ('1', 'L', 'LA', 'La', 'P', 'PA', 'RGB', 'RGBA', 'RGBa', 'RGBX', 'YCbCr')
_SIXTEEN_BIT_MODES = ('I;16', 'I;16L', 'I;16B', 'I;16N')
_OTHER_MODES = {'F': ' (floating point)', 'I': ' (integers of 32 bits or with a sign)'}
_ADVICE = 'convert it to RGB or palette of 8 bits, or unsigned gray of 8 or 16 bits'

_PNG = b'\x89PNG\r\n\x1a\n'
_SIZ = b'\xff\x4f\xff\x51'  # the first two markers of JPEG 2000's pixels
# Tags of TIFF.
_SUBFILE, _BITS, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 258, 259, 262, 266
_PLANES, _COLORMAP, _EXTRA, _SIGN, _SUBSAMPLING = 284, 320, 338, 339, 530
_LAYOUT = (_BITS, _COMPRESSION, _PHOTOMETRIC, _PLANES, _EXTRA, _SIGN)


def open_picture(file: BinaryIO) -> Image.Image:
    """Opens the picture in a file: the first frame, or the first full-size page of a TIFF."""
    if file.read(len(_PNG)) != _PNG:
        return _identified(file)
    try:
        picture = _identified(file)
        _correct(picture)
        picture.load()  # text may follow the pixels
        return picture
    except MemoryError:
        raise
    except Exception:  # the fault may be in text, a color profile or EXIF, which are not needed
        file.seek(0)
        return _identified(io.BytesIO(_pixels_alone(file.read())))


def require_size(width: int, height: int) -> None:
    """Raises `InputError` unless a picture may be decoded."""
    if not width * height:
        raise InputError(f'it has {width} x {height} pixels; it must have at least one')
    if width * height > Image.MAX_IMAGE_PIXELS:
        raise InputError(
            f'it has {width} x {height} pixels; it must have at most {Image.MAX_IMAGE_PIXELS}, '
            'as decoding more may be an attack'
        )


def to_rgb(picture: Image.Image) -> Image.Image:
    """Decodes a picture to RGB of 8 bits, with transparent parts over black."""
    require_size(*picture.size)
    sixteen_bits = (*_SIXTEEN_BIT_MODES, *(('I',) if picture.format == 'PPM' else ()))
    if picture.mode not in _MODES + sixteen_bits:
        what = _OTHER_MODES.get(picture.mode, '')
        raise InputError(f'its pixels are of type {picture.mode}{what}; {_ADVICE}')
    _correct(picture)
    picture.load()
    if picture.mode in sixteen_bits:  # `convert` would clip it to 255
        return _from_16_bits(picture)
    if picture.has_transparency_data:
        if picture.format in ('BMP', 'TIFF') and _alpha_is_unfilled(picture):
            return picture.convert('RGB')
        straight = picture.convert('LA') if picture.mode == 'La' else picture
        rgba = straight.convert('RGBA')
        picture = Image.alpha_composite(Image.new('RGBA', rgba.size, 'black'), rgba)
    return picture if picture.mode == 'RGB' else picture.convert('RGB')  # which would copy it


def _identified(file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        raise InputError(_why_unknown(file)) from None
    if picture.format == 'TIFF':
        _seek_full_size(picture)
    require_size(*picture.size)
    return picture


def _why_unknown(file: BinaryIO) -> str:
    """Says why Pillow takes a file for none of its formats."""
    file.seek(0)
    start = file.read(16)
    for name in ('GIF', 'JPEG', 'JPEG2000', 'PNG', 'TIFF', 'WEBP'):
        factory, accept = Image.OPEN[name]
        if accept(start) is not True:
            continue
        file.seek(0)
        try:
            factory(file)
        except Exception as error:
            layout = _tiff_layout(file, start) if name == 'TIFF' else ''
            return f'Pillow cannot read this kind of {name} ({error}{layout}); {_ADVICE}'
    return f'unknown format; use {", ".join(FORMATS)} or DICOM'


def _tiff_layout(file: BinaryIO, start: bytes) -> str:
    big = 43 in start[2:4]
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(start if big else start[:8])
        file.seek(tags.next)
        tags.load(file)
        known = [tag for tag in _LAYOUT if tag in tags]
        return ''.join(f', {TiffTags.lookup(tag).name} {tags[tag]}' for tag in known)
    except Exception:  # damaged
        return ''


def _pixels_alone(png: bytes) -> bytes:
    """Drops what a PNG has beside its pixels, but for transparency and intact EXIF."""
    kept, at = [_PNG], len(_PNG)
    while at + 8 <= len(png):
        length, name = struct.unpack_from('>I4s', png, at)
        chunk, at = png[at : at + length + 12], at + length + 12
        intact = zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if name[:1].isupper() or name == b'tRNS' or (name == b'eXIf' and intact):
            kept.append(chunk)
    return b''.join(kept)


def _seek_full_size(tiff: Image.Image) -> None:
    """Goes to the first page that is neither a thumbnail nor a mask, if there is one."""
    try:
        while tiff.tag_v2.get(_SUBFILE, 0) & 0b101:
            tiff.seek(tiff.tell() + 1)
    except EOFError:
        tiff.seek(0)


def _correct(picture: Image.Image) -> None:
    """Refuses what Pillow would misread, or tells it better, before the pixels are decoded."""
    if picture.format in _CORRECTIONS:
        _CORRECTIONS[picture.format](picture)


def _correct_bmp(picture: Image.Image) -> None:
    # Pillow takes pixels with a palette of grays for pixels of one or eight bits.
    if picture.mode in ('1', 'L') and picture.tile:
        picture.fp.seek(14)
        header = picture.fp.read(16)
        bits = header[10] if header[0] == 12 else header[14]
        if bits != {'1': 1, 'L': 8}[picture.mode]:
            raise InputError(f'it is a BMP of {bits} bits with few grays; save it as PNG')


def _correct_jpeg2000(picture: Image.Image) -> None:
    if picture.mode in ('L', 'P', *_SIXTEEN_BIT_MODES) or not picture.tile:
        return
    position = picture.fp.tell()
    picture.fp.seek(0)
    _, _, sizes = picture.fp.read().partition(_SIZ)
    picture.fp.seek(position)
    of_each = sizes[38 : 38 + 3 * len(picture.getbands()) : 3]
    bits = max((1 + (byte & 0x7F) for byte in of_each), default=0)
    if bits > 8:  # Pillow lets the brightest values overflow
        raise InputError(f'it is a color JPEG 2000 of {bits} bits; {_ADVICE}')


def _correct_png(picture: Image.Image) -> None:
    # Pillow scales the pixels, but not the value among them that stands for transparent.
    if 'transparency' in picture.info and picture.tile:
        kind = picture.tile[0][3]
        if kind == 'RGB;16B':
            raise InputError('a color of 16 bits stands for transparent; save it with 8 bits')
        if kind in ('L;2', 'L;4'):
            picture.info['transparency'] *= {'L;2': 85, 'L;4': 17}[kind]


def _correct_tiff(picture: Image.Image) -> None:
    tags = picture.tag_v2
    raw = tags.get(_COMPRESSION, 1) == 1
    if _PHOTOMETRIC not in tags:
        raise InputError('it is a TIFF without PhotometricInterpretation: is zero black or white?')
    if 2 in tags.get(_SIGN, ()):
        raise InputError(f'its pixels have a sign (TIFF SampleFormat 2); {_ADVICE}')
    if raw and tags[_PHOTOMETRIC] == 6 and tags.get(_SUBSAMPLING, (1, 1)) != (1, 1):
        raise InputError(f'it is an uncompressed TIFF with subsampled colors (YCbCr); {_ADVICE}')
    plain = (
        set(tags.get(_BITS, (1,))) == {8}
        and tags[_PHOTOMETRIC] in (1, 2, 3)
        and tags.get(_FILL_ORDER, 1) == 1
        and 1 not in tags.get(_EXTRA, ())
        and picture.mode in ('L', 'P', 'RGB', 'RGBA')
    )
    if raw and tags.get(_PLANES) == 2 and not plain:
        raise InputError(
            'it is an uncompressed TIFF of PlanarConfiguration 2, which Pillow misreads; save it '
            'compressed or with PlanarConfiguration 1'
        )
    colors = tags.get(_COLORMAP, (0,))
    if picture.mode in ('P', 'PA') and picture.tile and max(colors) < 256:  # of 16 bits by the book
        picture.palette = ImagePalette.raw('RGB;L', bytes(colors))


_CORRECTIONS = {
    'BMP': _correct_bmp,
    'JPEG2000': _correct_jpeg2000,
    'PNG': _correct_png,
    'TIFF': _correct_tiff,
}


def _from_16_bits(picture: Image.Image) -> Image.Image:
    tags = picture.tag_v2 if picture.format == 'TIFF' else {}
    values = np.asarray(picture, np.uint32)
    top = 2 ** tags.get(_BITS, (16,))[0] - 1
    gray = (values * 255 + top // 2) // top
    if tags.get(_PHOTOMETRIC) == 0:  # which is white then
        gray = 255 - gray
    if 'transparency' in picture.info:
        gray[values == picture.info['transparency']] = 0
    return Image.fromarray(gray.astype(np.uint8)).convert('RGB')


def _alpha_is_unfilled(picture: Image.Image) -> bool:
    """Whether alpha is zero everywhere, as programs write it that do not know of it."""
    if picture.mode not in ('LA', 'La', 'PA', 'RGBA') or picture.getextrema()[-1][1]:
        return False
    if picture.format == 'TIFF' and 1 in picture.tag_v2.get(_EXTRA, ()):
        raise InputError('its colors are multiplied by an alpha of zero; save it without alpha')
    return True
