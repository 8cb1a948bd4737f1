"""DICOM files are what viewers show at first; what cannot be one picture is refused."""

import contextlib
import io
import re
import sys

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import decoding, prepare, records
from metriclt_jax.errors import InputError

pydicom = pytest.importorskip('pydicom')

RAMP = np.array([[0, 100, 200, 300], [400, 500, 600, 700]] * 2, np.uint16)


def encoded(dataset):
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def dicom(pixels=RAMP, kind='MONOCHROME2', bits=None, **fields):
    """A file of pixels `[4, 4]` or `[4, 4, 3]` as they are stored."""
    dataset = pydicom.Dataset()
    dataset.file_meta = pydicom.dataset.FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = '1.2.840.10008.5.1.4.1.1.7'
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = '1.2.3'
    dataset.PatientName, dataset.PatientID, dataset.Modality = 'Doe^Jane', 'P1', 'CR'
    dataset.Rows, dataset.Columns = pixels.shape[:2]
    dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
    if pixels.ndim == 3:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = kind
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == 'i')
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    return dataset


def lookup_table(values, first=0, bits=8):
    table = pydicom.Dataset()
    table.LUTDescriptor = [len(values), first, bits]
    table.LUTData = np.array(values, np.uint16).tobytes()
    return [table]


def gray(dataset):
    image = encoded(dataset) if not isinstance(dataset, bytes) else dataset
    rgb, aspect = decoding.decode(image, 4, 'x')
    assert aspect == 1
    np.testing.assert_array_equal(rgb, rgb[..., :1].repeat(3, 2))
    return rgb[..., 0].astype(int)


def shown(values, black, white):
    return np.rint(255 * np.clip((values - black) / (white - black), 0, 1))


def test_without_a_window_the_values_that_occur_are_spread():
    np.testing.assert_array_equal(gray(dicom()), shown(RAMP, 0, 700))
    np.testing.assert_array_equal(gray(dicom(bits=12)), shown(RAMP, 0, 700))
    signed = RAMP.astype(np.int16) - 350
    np.testing.assert_array_equal(gray(dicom(signed)), shown(signed, -350, 350))
    padded = np.where(RAMP == 0, -2000, signed).astype(np.int16)
    expected = shown(padded, -250, 350)
    np.testing.assert_array_equal(gray(dicom(padded, PixelPaddingValue=-2000)), expected)
    np.testing.assert_array_equal(gray(dicom(RAMP * 0 + 7)), RAMP * 0)


def test_eight_bits_are_as_they_are():
    values = (RAMP // 4).astype(np.uint8)
    np.testing.assert_array_equal(gray(dicom(values)), values)
    rescaled = dicom(values, RescaleSlope=2, RescaleIntercept=-100)
    np.testing.assert_array_equal(gray(rescaled), values)
    np.testing.assert_array_equal(gray(dicom(values, 'MONOCHROME1')), 255 - values)


def test_bits_beyond_those_stored_do_not_count():
    overlay = (RAMP | 0x8000).astype(np.uint16)
    np.testing.assert_array_equal(gray(dicom(overlay, bits=12)), shown(RAMP, 0, 700))


@pytest.mark.parametrize('kind', ['MONOCHROME1', 'MONOCHROME2'])
@pytest.mark.parametrize('slope', [1, 2, -1])
@pytest.mark.parametrize('function', ['LINEAR_EXACT', 'LINEAR', 'SIGMOID'])
def test_the_first_window_after_the_rescaling(kind, slope, function):
    center, width = slope * 350 - 1000, 400
    image = dicom(
        kind=kind,
        bits=12,
        RescaleSlope=slope,
        RescaleIntercept=-1000,
        WindowCenter=[center, 0],
        WindowWidth=[width, 10],
        VOILUTFunction=function,
    )
    values = slope * RAMP.astype(float) - 1000
    expected = {  # PS3.3 C.11.2.1
        'LINEAR_EXACT': shown(values, center - width / 2, center + width / 2),
        'LINEAR': shown(values, center - width / 2, center + width / 2 - 1),
        'SIGMOID': np.rint(255 / (1 + np.exp(-4 * (values - center) / width))),
    }[function]
    inverted = 255 - expected if kind == 'MONOCHROME1' else expected
    np.testing.assert_allclose(gray(image), inverted, atol=1)


@pytest.mark.parametrize('unset', [(None, None), (40, 0), (0, 0), (40, None), (None, 80)])
def test_a_window_that_is_not_set(unset):
    center, width = unset
    image = dicom(WindowCenter=center, WindowWidth=width)
    np.testing.assert_array_equal(gray(image), shown(RAMP, 0, 700))


@pytest.mark.parametrize('limit', [{}, {'PixelPaddingRangeLimit': -1500}])
def test_padding_does_not_count_for_what_is_black(limit):
    signed = np.where(RAMP == 0, -2000, RAMP.astype(np.int16) - 300).astype(np.int16)
    if limit:
        signed[RAMP == 100] = -1600
    lowest = 200 if limit else 100
    image = dicom(signed, PixelPaddingValue=-2000, **limit)
    np.testing.assert_array_equal(gray(image), shown(RAMP.astype(float), lowest, 700))


def test_fields_that_are_there_but_empty_are_as_if_left_out():
    window = {'WindowCenter': 700, 'WindowWidth': 1400}
    empty = dicom(RescaleIntercept=None, RescaleSlope=None, VOILUTFunction='', **window)
    np.testing.assert_array_equal(gray(empty), gray(dicom(**window)))
    twice = dicom(RescaleSlope=2, RescaleIntercept=None, **window)
    np.testing.assert_array_equal(gray(twice), gray(dicom(2 * RAMP, **window)))
    np.testing.assert_array_equal(gray(dicom(RescaleSlope=2, **window)), gray(twice))


@pytest.mark.filterwarnings('error')
def test_tables():
    index = RAMP // 100
    falling = lookup_table([70, 60, 50, 40, 30, 20, 10, 0])
    np.testing.assert_array_equal(gray(dicom(index, VOILUTSequence=falling)), 70 - 10 * index)
    rescaled = dicom(
        index, VOILUTSequence=lookup_table(range(0, 80, 10)), RescaleSlope=1, RescaleIntercept=0
    )
    np.testing.assert_array_equal(gray(rescaled), 10 * index)
    modality = lookup_table(range(1000, 1800, 100), bits=16)
    windowed = dicom(
        index,
        ModalityLUTSequence=modality,
        WindowCenter=1400,
        WindowWidth=800,
        VOILUTFunction='LINEAR_EXACT',
    )
    np.testing.assert_array_equal(gray(windowed), shown(RAMP + 1000.0, 1000, 1800))


def test_colors():
    rgb = np.stack([RAMP // 4, RAMP // 5, RAMP // 7], axis=-1)
    pixels, _ = decoding.decode(encoded(dicom(rgb.astype(np.uint8), 'RGB')), 4, 'x')
    np.testing.assert_array_equal(pixels, rgb)
    deep = dicom((rgb * 257).astype(np.uint16), 'RGB')
    np.testing.assert_array_equal(decoding.decode(encoded(deep), 4, 'x')[0], rgb)
    ycbcr = np.asarray(Image.fromarray(rgb.astype(np.uint8)).convert('YCbCr'))
    pixels, _ = decoding.decode(encoded(dicom(ycbcr, 'YBR_FULL')), 4, 'x')
    np.testing.assert_allclose(pixels, rgb, atol=2)


@pytest.mark.parametrize('bits', [8, 16])
def test_palette(bits):
    colors = np.array([[0, 10, 20], [200, 100, 50], [255, 255, 255], [3, 2, 1]])
    image = dicom((RAMP // 100 % 4).astype(np.uint8), 'PALETTE COLOR')
    stored = (colors * (257 if bits == 16 else 1)).astype(f'u{bits // 8}')
    for number, name in enumerate(('Red', 'Green', 'Blue')):
        setattr(image, f'{name}PaletteColorLookupTableDescriptor', [4, 0, bits])
        setattr(image, f'{name}PaletteColorLookupTableData', stored[:, number].tobytes())
    expected = colors[RAMP // 100 % 4]
    np.testing.assert_array_equal(decoding.decode(encoded(image), 4, 'x')[0], expected)


# What pydicom ships, by the compression of its pixels and the plugin that reads it.
@pytest.mark.parametrize(
    ('name', 'same_as'),
    [
        ('MR_small_RLE.dcm', 'MR_small.dcm'),
        ('MR_small_bigendian.dcm', 'MR_small.dcm'),
        ('MR_small_implicit.dcm', 'MR_small.dcm'),
        ('MR_small_jp2klossless.dcm', 'MR_small.dcm'),
        ('MR_small_jpeg_ls_lossless.dcm', 'MR_small.dcm'),
        ('SC_rgb_gdcm_KY.dcm', 'SC_rgb_rle.dcm'),
        ('SC_rgb_jpeg_dcmtk.dcm', 'SC_rgb_rle.dcm'),
        ('SC_ybr_full_422_uncompressed.dcm', 'SC_rgb_rle.dcm'),
        ('SC_rgb_rle_16bit.dcm', 'SC_rgb_rle.dcm'),
    ],
)
def test_compressed_pixels(name, same_as):
    pytest.importorskip('openjpeg')
    pytest.importorskip('jpeg_ls')
    images = [decoding.decode(shipped(file), 64, file)[0] for file in (name, same_as)]
    lossy = 'dcmtk' in name or '422' in name or 'KY' in name
    np.testing.assert_allclose(*(image.astype(int) for image in images), atol=80 if lossy else 1)
    assert np.abs(images[0].astype(int) - images[1]).mean() < (8 if lossy else 0.1)
    assert images[0].std() > 10


def test_lossless_jpeg():
    pytest.importorskip('libjpeg')
    read, expected = (
        decoding.decode(shipped(name), 64, name)[0]
        for name in ('SC_rgb_jpeg_gdcm.dcm', 'SC_rgb_rle.dcm')
    )
    np.testing.assert_array_equal(read, expected)


def shipped(name):
    from pydicom.data import get_testdata_file

    with open(get_testdata_file(name, download=False), 'rb') as file:
        return file.read()


def multi_frame():
    image = dicom(np.concatenate([RAMP, RAMP]))
    image.Rows, image.NumberOfFrames = 4, 2
    return image


def without_pixels():
    image = dicom(Modality='SR')
    del image.PixelData
    return image


def huge():
    image = dicom()
    image.Rows = image.Columns = 60_000
    return image


BAD = {
    'frames': (multi_frame, '2 frames'),
    'no pixels': (without_pixels, 'SR.* without PixelData'),
    'too large': (huge, '60000 x 60000'),
    'empty': (lambda: dicom(RAMP[:0]), 'no picture'),
    'colors': (lambda: dicom(np.zeros((4, 4, 3), np.uint8), 'HSV'), 'HSV'),
    'gray in three samples': (lambda: dicom(np.zeros((4, 4, 3), np.uint8)), '3 samples'),
    'colors in one sample': (lambda: dicom(kind='RGB'), '1 samples'),
    'colors with a sign': (lambda: dicom(np.zeros((4, 4, 3), np.int8), 'RGB'), 'sign'),
    'empty fields': (lambda: dicom(Rows=None), 'without Rows'),
    'high bit': (lambda: dicom(bits=12, HighBit=15), 'bit 15'),
    'float': (lambda: shipped('rtplan.dcm'), 'RTPLAN'),
    'truncated': (lambda: encoded(dicom())[:-9], 'expected'),
    'truncated header': (lambda: encoded(dicom())[:400], ''),
    'damaged': (lambda: encoded(dicom())[:132] + bytes(range(256)), ''),
}


@pytest.mark.filterwarnings('ignore::UserWarning')  # pydicom's, of odd values
@pytest.mark.parametrize(('make', 'words'), BAD.values(), ids=BAD)
def test_what_is_refused(make, words, tmp_path):
    made = make()
    image = made if isinstance(made, bytes) else encoded(made)
    path = tmp_path / 'x.dcm'
    path.write_bytes(image)
    with pytest.raises(InputError, match=words) as raised:
        decoding.decode(image, 4, 'x')
    ((problem, _),) = decoding.check_images([path])
    for text in (str(raised.value), problem):
        assert re.search(words, text)
        assert '\n' not in text


def test_without_the_package_a_sentence_says_what_to_install(monkeypatch):
    image = encoded(dicom())
    monkeypatch.setitem(sys.modules, 'pydicom', None)
    with pytest.raises(InputError, match=r'DICOM.*pip install'):
        decoding.decode(image, 4, 'x')


def test_without_a_decoder_a_sentence_says_what_to_install(monkeypatch):
    lossless = pydicom.pixels.get_decoder(pydicom.uid.JPEGLosslessSV1)
    monkeypatch.setattr(lossless, '_available', {'gdcm': None})
    with pytest.raises(InputError, match=r'JPEG Lossless.*pip install'):
        decoding.decode(shipped('SC_rgb_jpeg_gdcm.dcm'), 4, 'x')


@pytest.mark.filterwarnings('ignore::UserWarning')
@pytest.mark.parametrize(
    'name', ['MR_small_RLE.dcm', 'MR_small_jp2klossless.dcm', 'MR_small_jpeg_ls_lossless.dcm']
)
def test_damaged_pixels_never_end_the_process(name):
    original = shipped(name)
    pixels = original.rindex(b'\xe0\x7f\x10\0')
    for seed in range(40):
        random = np.random.default_rng(seed)
        image = bytearray(original)
        for _ in range(4):
            image[random.integers(pixels, pixels + 200)] = random.integers(256)
        with contextlib.suppress(InputError):
            assert decoding.decode(bytes(image), 4, 'x')[0].shape == (4, 4, 3)


def test_a_folder_is_prepared_without_a_word_of_the_patient(tmp_path):
    for index, label in enumerate('ab'):
        for number in range(3):
            path = tmp_path / 'source' / label / f'{number}.dcm'
            path.parent.mkdir(parents=True, exist_ok=True)
            dicom(RAMP + np.uint16(3 * index + number)).save_as(path, enforce_file_format=True)
    prepare('folder', str(tmp_path / 'source'), str(tmp_path / 'data'), 'xrays')
    opened = records.open_records('xrays', str(tmp_path / 'data'))
    for example in opened.read(range(6)):
        assert example.image == (tmp_path / 'source' / example.image_id).read_bytes()
        assert 'Doe' not in example.image_id + example.group
        np.testing.assert_array_equal(gray(example.image), shown(RAMP, 0, 700))
