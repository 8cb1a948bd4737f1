import dataclasses
import errno
import io
import os
import shutil
import tracemalloc
import types
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import cache as cache_module
from metriclt_jax.data.cache import open_cache
from metriclt_jax.data.records import Records
from metriclt_jax.errors import InputError

COUNT = 20
IMAGE_BYTES = 8 * 8 * 3


class Source(list):
    """Records in memory; `reads` counts how often one was read."""

    reads = 0

    def __getitems__(self, keys):
        self.reads += len(keys)
        return [self[key] for key in keys]


def picture(index):
    pixels = np.random.default_rng(index).integers(0, 256, (9, 12, 3), np.uint8)
    return Image.fromarray(pixels)


def record(index, image):
    file = io.BytesIO()
    image.save(file, 'PNG')
    return {
        'image': file.getvalue(),
        'label': index % 3,
        'image_id': f'i{index}'.encode(),
        'group': b'g' * (index % 2),
        'part': (b'', b'train', b'test')[index % 3],
    }


@pytest.fixture
def source(tmp_path):
    records = Source(record(index, picture(index)) for index in range(COUNT))
    return Records('fake', tmp_path / 'fake', ('a', 'b', 'c'), 'fingerprint', records)


@pytest.fixture
def built(source, tmp_path):
    """The folder of a complete cache, with the count of reads back at 0."""
    open_cache(source, 8, tmp_path)
    source.source.reads = 0
    return tmp_path / 'cache' / 'fake_8x8'


def expected(size=8):
    resized = [picture(i).resize((size, size), Image.Resampling.BILINEAR) for i in range(COUNT)]
    return np.stack([np.asarray(image) for image in resized])


def everything(cache):
    return cache.read(np.arange(COUNT))


def test_contents(source, tmp_path):
    for reads in (COUNT, COUNT):  # the second time, nothing is decoded
        cache = open_cache(source, 8, tmp_path)
        assert source.source.reads == reads
        np.testing.assert_array_equal(everything(cache), expected())
        assert cache.ids.tolist() == [f'i{i}' for i in range(COUNT)]
        assert cache.group_ids.tolist() == ['', 'g'] * (COUNT // 2)
        assert cache.parts.tolist() == (['', 'train', 'test'] * COUNT)[:COUNT]
        assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
        np.testing.assert_allclose(cache.aspects, 12 / 9)

    indices = np.array([3, 0, 3, 19])
    images = cache.read(indices)
    np.testing.assert_array_equal(images, expected()[indices])
    images[:] = 0  # the caller's own copy
    np.testing.assert_array_equal(everything(cache), expected())
    for index in (-1, COUNT):
        with pytest.raises(IndexError):
            cache.read([0, index])


def test_a_batch_goes_to_a_cpu_device_without_a_copy(source, built, tmp_path):
    import jax

    cache = open_cache(source, 8, tmp_path)
    batches = [cache.read(np.arange(count)) for count in range(1, COUNT)]  # all at once in memory
    for batch in batches:
        array = jax.device_put(batch, jax.devices('cpu')[0])
        assert array.unsafe_buffer_pointer() == batch.ctypes.data


def flip(path, position):
    with path.open('r+b') as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 1]))


DAMAGE = {
    'truncated': lambda folder: os.truncate(folder / 'images', 123),
    'no images': lambda folder: (folder / 'images').unlink(),
    'index': lambda folder: flip(folder / 'index.npz', 900),
    'half an index': lambda folder: os.truncate(folder / 'index.npz', 900),
    'no index, as in version 0.1.0': lambda folder: (folder / 'index.npz').unlink(),
    'leftover of 0.1.0': lambda folder: folder.rename(f'{folder}.incomplete'),
    'leftover': lambda folder: shutil.copytree(folder, folder.with_name('.fake_8x8.incomplete')),
}


@pytest.mark.parametrize('case', DAMAGE)
def test_a_cache_that_does_not_fit_is_built_again(case, source, built, tmp_path):
    DAMAGE[case](built)
    for reads in (0 if case == 'leftover' else COUNT, 0):
        source.source.reads = 0
        cache = open_cache(source, 8, tmp_path)
        np.testing.assert_array_equal(everything(cache), expected())
        assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
        assert source.source.reads == reads
    assert not built.with_name('fake_8x8.incomplete').exists()


def test_any_damage_to_the_index_is_noticed(source, built, tmp_path):
    for position in range(0, (built / 'index.npz').stat().st_size, 97):
        flip(built / 'index.npz', position)
        cache = open_cache(source, 8, tmp_path)
        assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
        np.testing.assert_array_equal(everything(cache), expected())


def test_a_damaged_image_is_noticed_when_it_is_first_read(source, built, tmp_path):
    flip(built / 'images', 7 * IMAGE_BYTES + 50)
    cache = open_cache(source, 8, tmp_path)
    cache.read(np.delete(np.arange(COUNT), 7))
    for _ in range(2):
        with pytest.raises(InputError, match=f'image i7 is damaged in {built}; delete'):
            cache.read([3, 7])
    assert np.flatnonzero(~cache.intact).tolist() == [7]
    shutil.rmtree(built)
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())


def test_other_records_or_another_format_are_noticed(source, built, tmp_path, monkeypatch):
    other = dataclasses.replace(source, fingerprint='other')
    other.source[0] = record(1, picture(1))
    np.testing.assert_array_equal(open_cache(other, 8, tmp_path).read([0])[0], expected()[1])
    assert source.source.reads == COUNT
    monkeypatch.setattr(cache_module, 'FORMAT', 99)
    open_cache(other, 8, tmp_path)
    assert source.source.reads == 2 * COUNT


def test_no_space_is_said_before_decoding(source, tmp_path, monkeypatch, capfd):
    usage = types.SimpleNamespace(free=COUNT * IMAGE_BYTES - 1)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(InputError, match=r'decoded images of fake needs .* MiB in .* are free'):
        open_cache(source, 8, tmp_path)
    assert source.source.reads == 0
    assert capfd.readouterr().err == ''
    usage.free += 1
    open_cache(source, 8, tmp_path)
    assert f'1 MiB in {tmp_path}/cache/fake_8x8' in capfd.readouterr().err


def assert_only_the_cache_is_left(folder):
    left = sorted(path.name for path in (folder / 'cache').iterdir())
    assert left == ['fake_8x8', 'fake_8x8.lock']


@pytest.mark.parametrize(
    'error', [OSError(errno.ENOSPC, 'No space left'), KeyboardInterrupt(), InputError('bad image')]
)
def test_a_build_that_is_cut_off_starts_over(error, source, tmp_path, monkeypatch):
    decode = cache_module.decode

    def limited(image, size, name):
        if name == 'i14':
            raise error
        return decode(image, size, name)

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, 'decode', limited)
        with pytest.raises((InputError, KeyboardInterrupt)) as raised:
            open_cache(source, 8, tmp_path)
    assert not isinstance(error, OSError) or 'No space left' in str(raised.value)
    assert not (tmp_path / 'cache' / 'fake_8x8').exists()
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())
    assert_only_the_cache_is_left(tmp_path)


def test_of_several_that_build_at_once_one_builds(source, tmp_path):
    with ThreadPoolExecutor(4) as pool:
        caches = list(pool.map(lambda _: open_cache(source, 8, tmp_path), range(4)))
    assert source.source.reads == COUNT
    for cache in caches:
        np.testing.assert_array_equal(everything(cache), expected())


def test_building_takes_no_memory_for_the_whole_set(tmp_path):
    count, size = 400, 64
    image = record(0, picture(0))['image']

    class Many:
        def __len__(self):
            return count

        def __getitems__(self, keys):
            fields = {'label': 0, 'group': b'', 'part': b'', 'image': image}
            return [fields | {'image_id': b'i%d' % key} for key in keys]

    tracemalloc.start()
    cache = open_cache(Records('many', tmp_path, ('a',), 'fingerprint', Many()), size, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cache.ids) == count
    assert cache.pixels.base.mode == 'r'  # copy-on-write would reserve memory
    assert peak < count * size * size * 3 * 2 / 3  # two windows of 64 images


def test_bad_input_is_one_sentence(source, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be kept in'):
        open_cache(source, 8, tmp_path / 'file')
    source.source[3]['image'] = b'no image'
    with pytest.raises(InputError, match='image i3 '):
        open_cache(source, 8, tmp_path)
