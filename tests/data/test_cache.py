import dataclasses
import errno
import io
import json
import logging
import shutil
import threading
import types
import zlib

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import cache as cache_module
from metriclt_jax.data.cache import open_cache
from metriclt_jax.data.records import Records
from metriclt_jax.errors import InputError

COUNT = 20


class Source(list):
    """Records in memory; `reads` counts how often one was read."""

    reads = 0

    def __getitems__(self, keys):
        self.reads += len(keys)
        return [self[key] for key in keys]


def picture(index, size=(12, 9)):
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels)


def record(index, image):
    file = io.BytesIO()
    image.save(file, 'PNG')
    fields = {'label': index % 3, 'image_id': f'i{index}'.encode(), 'group': b'g' * (index % 2)}
    return {'image': file.getvalue()} | fields


@pytest.fixture
def source(tmp_path):
    records = Source(record(index, picture(index)) for index in range(COUNT))
    return Records('fake', tmp_path / 'fake', ('a', 'b', 'c'), 'fingerprint', records)


@pytest.fixture
def built(source, tmp_path):
    """A complete cache, with the count of reads back at 0."""
    open_cache(source, 8, tmp_path)
    source.source.reads = 0
    return tmp_path / 'cache' / 'fake_8x8'


def expected(size=8):
    resized = [picture(i).resize((size, size), Image.Resampling.BILINEAR) for i in range(COUNT)]
    return np.stack([np.asarray(image) for image in resized])


def everything(cache):
    return cache.images.read(np.arange(COUNT))


def no_leftovers(folder):
    return [path.name for path in folder.glob('cache/*') if path.suffix != '.lock'] == []


def test_contents(source, tmp_path):
    cache = open_cache(source, 8, tmp_path)
    np.testing.assert_array_equal(everything(cache), expected())
    indices = np.array([3, 0, 3, 19])
    images = cache.images.read(indices)
    assert images.shape == (4, 8, 8, 3)
    assert images.dtype == np.uint8
    np.testing.assert_array_equal(images, expected()[indices])
    images[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(everything(cache), expected())
    assert cache.ids.tolist() == [f'i{i}' for i in range(COUNT)]
    assert cache.groups.tolist() == ['', 'g'] * (COUNT // 2)
    assert cache.labels.dtype == np.int32
    assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert cache.aspects.dtype == np.float32
    np.testing.assert_allclose(cache.aspects, 12 / 9)


def test_an_image_of_the_right_size_is_not_touched(source, tmp_path):
    source.source[5] = record(5, picture(5, size=(8, 8)))
    cache = open_cache(source, 8, tmp_path)
    np.testing.assert_array_equal(cache.images.read([5])[0], np.asarray(picture(5, size=(8, 8))))


def test_grey_and_transparent_images_become_rgb(source, tmp_path):
    source.source[0] = record(0, picture(0).convert('L'))
    source.source[1] = record(1, picture(1).convert('RGBA'))
    images = everything(open_cache(source, 8, tmp_path))
    np.testing.assert_array_equal(images[1], expected()[1])
    assert np.all(images[0] == images[0][..., :1])


def test_downscaling_is_antialiased(source, tmp_path):
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255  # a chessboard of pixels
    source.source[0] = record(0, Image.fromarray(board.astype(np.uint8)))
    image = open_cache(source, 8, tmp_path).images.read([0])[0]
    np.testing.assert_allclose(image, 127.5, atol=4)


def test_a_complete_cache_is_used_without_reading_records(source, built, tmp_path):
    cache = open_cache(source, 8, tmp_path)
    np.testing.assert_array_equal(everything(cache), expected())
    assert cache.ids.tolist() == [f'i{i}' for i in range(COUNT)]
    assert source.source.reads == 0


def test_each_image_is_checked_once(source, built, tmp_path, monkeypatch):
    cache = open_cache(source, 8, tmp_path)
    checked = []
    crc32 = zlib.crc32
    monkeypatch.setattr(zlib, 'crc32', lambda data: checked.append(1) or crc32(data))
    for count in (5, 5, 12):
        cache.images.read(np.arange(12) % count)
    assert len(checked) == 12


def test_each_size_has_its_own(source, built, tmp_path):
    np.testing.assert_array_equal(everything(open_cache(source, 5, tmp_path)), expected(5))
    assert source.source.reads == COUNT
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())
    assert source.source.reads == COUNT


def test_damaged_pixels_are_decoded_again(source, built, tmp_path, caplog):
    size = 8 * 8 * 3
    with (built / 'images').open('r+b') as file:
        for index in (4, 7):
            file.seek(index * size + 50)
            byte = file.read(1)[0]
            file.seek(-1, 1)
            file.write(bytes([byte ^ 1]))
    before = (built / 'images').read_bytes()
    cache = open_cache(source, 8, tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cache.images.read([1, 2, 3]), expected()[1:4])
        assert not caplog.messages
        for _ in range(2):
            np.testing.assert_array_equal(everything(cache), expected())
    assert len(caplog.messages) == 2
    assert 'image 4 is damaged' in caplog.messages[0]
    assert source.source.reads == 2
    assert (built / 'images').read_bytes() == before  # it may be read-only, or mapped by others


@pytest.mark.parametrize(
    'damage',
    [
        lambda folder: (folder / 'images').write_bytes(b'123'),
        lambda folder: (folder / 'images').unlink(),
        lambda folder: (folder / 'index.json').write_text(''),
        lambda folder: (folder / 'index.json').write_bytes(b'\xff\xfe\n\n'),
        lambda folder: (folder / 'index.json').unlink(),
        lambda folder: (folder / 'index.json').write_text(
            # A label that has flipped leaves valid JSON.
            (folder / 'index.json').read_text().replace('"labels": [0, 1', '"labels": [0, 2')
        ),
        lambda folder: shutil.copytree(folder, folder.with_name('fake_8x8.incomplete')),
    ],
    ids=['truncated', 'no images', 'empty index', 'garbage index', 'no index', 'label', 'leftover'],
)
def test_a_cache_that_does_not_fit_is_built_again(damage, source, built, tmp_path):
    damage(built)
    cache = open_cache(source, 8, tmp_path)
    np.testing.assert_array_equal(everything(cache), expected())
    assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
    source.source.reads = 0
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())
    assert source.source.reads == 0


def test_other_records_or_another_format_are_noticed(source, built, tmp_path, monkeypatch):
    other = dataclasses.replace(source, fingerprint='other')
    other.source[0] = record(1, picture(1))
    np.testing.assert_array_equal(open_cache(other, 8, tmp_path).images.read([0])[0], expected()[1])
    assert source.source.reads == COUNT
    monkeypatch.setattr(cache_module, '_FORMAT', 99)
    open_cache(other, 8, tmp_path)
    assert source.source.reads == 2 * COUNT


def test_of_two_that_build_at_once_one_builds(source, tmp_path):
    results = []
    barrier = threading.Barrier(4)

    def work():
        barrier.wait()
        results.append(everything(open_cache(source, 8, tmp_path)))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.source.reads == COUNT
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected())


def test_no_space_is_said_before_decoding(source, tmp_path, monkeypatch):
    usage = types.SimpleNamespace(free=COUNT * 8 * 8 * 3 - 1)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(InputError, match=r'cannot be kept in .*No space left on device'):
        open_cache(source, 8, tmp_path)
    assert no_leftovers(tmp_path)
    assert source.source.reads == 0


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left'), KeyboardInterrupt()])
def test_a_build_that_is_cut_off_leaves_nothing(error, source, tmp_path, monkeypatch):
    def fail(path, index):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, '_write_index', fail)
        with pytest.raises((InputError, KeyboardInterrupt)) as raised:
            open_cache(source, 8, tmp_path)
    if isinstance(error, OSError):
        assert 'No space left' in str(raised.value)
    assert no_leftovers(tmp_path)
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())


def test_a_folder_that_cannot_be_written_to(source, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be kept in'):
        open_cache(source, 8, tmp_path / 'file')


def test_an_image_that_cannot_be_decoded_is_named(source, tmp_path):
    source.source[3]['image'] = b'no image'
    with pytest.raises(InputError, match='image i3 cannot be decoded: unknown format'):
        open_cache(source, 8, tmp_path)
    assert no_leftovers(tmp_path)


def test_size_must_be_positive(source, tmp_path):
    with pytest.raises(InputError, match=r'data\.resize is 0'):
        open_cache(source, 0, tmp_path)


def test_the_index_is_plain_json(built):
    checksum, text = (built / 'index.json').read_text().splitlines()
    assert int(checksum) >= 0
    assert json.loads(text)['shape'] == [COUNT, 8, 8, 3]
