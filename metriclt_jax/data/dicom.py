"""DICOM files to pictures, with pydicom."""

from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from metriclt_jax.data.formats import require_size
from metriclt_jax.errors import InputError

_COLOR = ('RGB', 'YBR_FULL', 'YBR_FULL_422', 'YBR_ICT', 'YBR_RCT')  # decoded to RGB
_REQUIRED = ('PixelData', 'Rows', 'Columns', 'BitsStored', 'PhotometricInterpretation')
_PADDING = ('PixelPaddingValue', 'PixelPaddingRangeLimit')
_OPTIONAL = ('RescaleSlope', 'RescaleIntercept', 'VOILUTFunction', *_PADDING)
_GRAY = ('MONOCHROME1', 'MONOCHROME2')


def is_dicom(file: BinaryIO) -> bool:
    """Whether a file has DICOM's preamble; others cannot be told from files of no format."""
    return file.read(132)[128:] == b'DICM'


def open_picture(file: BinaryIO) -> Image.Image:
    """Decodes a file to 8 bits, gray or RGB, as viewers show it at first.

    - Gray: the modality's rescaling or table, then the first table or window of interest. Without
      one, 8 bits are as they are, and of more bits the smallest value is black, the largest white.
    - MONOCHROME1, where the largest value is black, is inverted.
    - Overlays, annotations and color profiles are not drawn.
    """
    try:
        import pydicom
        from pydicom.pixels import apply_color_lut, pixel_array
    except ImportError:
        raise InputError('it is a DICOM file; to read it, run: pip install pydicom') from None

    file.seek(0)
    header = pydicom.dcmread(file)
    for name in (*_REQUIRED, *_OPTIONAL):
        if name in header and header[name].is_empty:
            del header[name]
    for name in _REQUIRED:
        if name not in header:
            what = f'DICOM file (modality {header.get("Modality")})'
            raise InputError(f'it is a {what} without {name}, so that it has no picture')
    if (frames := int(header.get('NumberOfFrames') or 1)) > 1:
        raise InputError(f'it is a DICOM file of {frames} frames; save the one to use by itself')
    require_size(header.Columns, header.Rows)
    kind, bits = header.PhotometricInterpretation, header.BitsStored
    if kind not in (*_GRAY, *_COLOR, 'PALETTE COLOR'):
        raise InputError(f'its DICOM colors are {kind}; convert them to RGB')
    samples = 3 if kind in _COLOR else 1
    if header.get('SamplesPerPixel', samples) != samples:
        raise InputError(f'it has {header.SamplesPerPixel} samples a pixel; {kind} has {samples}')
    if kind in _COLOR and header.get('PixelRepresentation'):
        raise InputError('its colors have a sign; convert them to unsigned integers')
    if header.get('HighBit', bits - 1) != bits - 1:
        raise InputError(f'its {bits} bits end at bit {header.HighBit}; it must be {bits - 1}')
    pixels = pixel_array(header, decoding_plugin=_plugin(header.file_meta.TransferSyntaxUID))
    if kind in _GRAY:
        return Image.fromarray(_gray(pixels, header))
    if kind == 'PALETTE COLOR':
        pixels = apply_color_lut(pixels, header)[..., :3]
        bits = 8 * pixels.dtype.itemsize
    return Image.fromarray(_scaled(pixels, 0, 2**bits - 1))


def _plugin(syntax: Any) -> str:
    """Returns the name of pydicom's plugin that decodes pixels, or '' if they are plain."""
    from pydicom.pixels import get_decoder

    if not syntax.is_encapsulated:
        return ''
    # GDCM ends the process at a damaged file.
    plugins = [name for name in get_decoder(syntax).available_plugins if name != 'gdcm']
    if not plugins:
        raise InputError(
            f'its pixels are {syntax.name}; to read them, run: pip install pylibjpeg '
            'pylibjpeg-libjpeg pylibjpeg-openjpeg'
        )
    return plugins[-1]  # pylibjpeg rather than Pillow, which misreads deep colors


def _gray(pixels: np.ndarray, header: Any) -> np.ndarray:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    if 'RescaleSlope' in header or 'RescaleIntercept' in header:  # pydicom uses both or none
        header.setdefault('RescaleSlope', 1)
        header.setdefault('RescaleIntercept', 0)
    values = apply_modality_lut(pixels, header)
    table = header.get('VOILUTSequence')
    width = np.ravel(header.get('WindowWidth') or 0)[0]  # zero stands for unset, too
    if table:
        values = apply_voi_lut(np.rint(values).astype(np.int32), header)
        ends = 0, 2 ** table[0].LUTDescriptor[2] - 1
    elif width > 0 and header.get('WindowCenter') is not None:
        with np.errstate(over='ignore'):  # a sigmoid of what is far below its window
            ends = apply_voi_lut(np.array([-1e9, 1e9]), header)
            values = apply_voi_lut(values, header)
    else:
        ends = _ends(pixels, values, header)
    shown = _scaled(values, *ends)
    return 255 - shown if header.PhotometricInterpretation == 'MONOCHROME1' else shown


def _ends(pixels: np.ndarray, values: np.ndarray, header: Any) -> tuple[float, float]:
    """Returns the values that are black and white if the file does not say."""
    from pydicom.pixels import apply_modality_lut

    if header.BitsStored <= 8:
        lowest = -(2 ** (header.BitsStored - 1)) if header.PixelRepresentation else 0
        stored = np.array([lowest, lowest + 2**header.BitsStored - 1])
        return tuple(sorted(apply_modality_lut(stored, header)))
    padding = [header[name].value for name in _PADDING if name in header]
    seen = values[(pixels < min(padding)) | (pixels > max(padding))] if padding else values
    return (seen.min(), seen.max()) if seen.size else (0, 1)


def _scaled(values: np.ndarray, black: float, white: float) -> np.ndarray:
    share = (values.astype(np.float64) - black) / ((white - black) or 1)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)
