import dataclasses
import errno
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import zlib
from pathlib import Path

import jax
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


def picture(index, size=(12, 9)):
    pixels = np.random.default_rng(index).integers(0, 256, (size[1], size[0], 3), np.uint8)
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
    """A complete cache, with the count of reads back at 0."""
    open_cache(source, 8, tmp_path)
    source.source.reads = 0
    return tmp_path / 'cache' / 'fake_8x8'


def expected(size=8):
    resized = [picture(i).resize((size, size), Image.Resampling.BILINEAR) for i in range(COUNT)]
    return np.stack([np.asarray(image) for image in resized])


def everything(cache):
    return cache.images.read(np.arange(COUNT))


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
    assert cache.parts.tolist() == (['', 'train', 'test'] * COUNT)[:COUNT]
    assert cache.labels.dtype == np.int32
    assert cache.labels.tolist() == [i % 3 for i in range(COUNT)]
    assert cache.aspects.dtype == np.float32
    np.testing.assert_allclose(cache.aspects, 12 / 9)


def test_indices_are_those_of_python(source, built, tmp_path):
    images = open_cache(source, 8, tmp_path).images
    np.testing.assert_array_equal(images.read([-1, 0]), expected()[[-1, 0]])
    for index in (COUNT, -COUNT - 1):
        with pytest.raises(IndexError):
            images.read([index])


def test_a_batch_goes_to_a_cpu_device_without_a_copy(source, built, tmp_path):
    images = open_cache(source, 8, tmp_path).images
    batches = [images.read(np.arange(count)) for count in range(1, COUNT)]  # all at once in memory
    for batch in batches:
        array = jax.device_put(batch, jax.devices('cpu')[0])
        assert array.unsafe_buffer_pointer() == batch.ctypes.data


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


def flip(path, position):
    with path.open('r+b') as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def test_damaged_pixels_are_decoded_again(source, built, tmp_path, caplog):
    for index in (4, 7):
        flip(built / 'images', index * IMAGE_BYTES + 50)
    before = (built / 'images').read_bytes()
    cache = open_cache(source, 8, tmp_path)
    with caplog.at_level(logging.WARNING):
        np.testing.assert_array_equal(cache.images.read([1, 2, 3]), expected()[1:4])
        assert not caplog.messages
        for _ in range(2):
            np.testing.assert_array_equal(everything(cache), expected())
        np.testing.assert_array_equal(cache.images.read([7, 0, 7]), expected()[[7, 0, 7]])
    assert len(caplog.messages) == 2
    assert 'image 4 is damaged' in caplog.messages[0]
    assert (built / 'images').read_bytes() == before  # it may be read-only, or mapped by others
    assert source.source.reads == 6  # each time: what was repaired is not kept in memory


@pytest.mark.parametrize(
    'damage',
    [
        lambda folder: (folder / 'images').write_bytes(b'123'),
        lambda folder: (folder / 'images').unlink(),
        lambda folder: (folder / 'index.jsonl').write_text(''),
        lambda folder: (folder / 'index.jsonl').write_bytes(b'\xff\xfe\n\n'),
        lambda folder: (folder / 'index.jsonl').unlink(),
        lambda folder: (folder / 'index.jsonl').write_bytes(
            (folder / 'index.jsonl').read_bytes().removesuffix(b'\n')
        ),
        lambda folder: (folder / 'index.jsonl').write_text(
            # A label that has flipped leaves valid JSON.
            (folder / 'index.jsonl').read_text().replace('"labels": [0, 1', '"labels": [0, 2')
        ),
        lambda folder: shutil.copytree(folder, folder.with_name('fake_8x8.incomplete')),
    ],
    ids=[
        'truncated',
        'no images',
        'empty index',
        'garbage index',
        'no index',
        'half a line',
        'label',
        'leftover',
    ],
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
    usage = types.SimpleNamespace(free=COUNT * IMAGE_BYTES - 1)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(InputError, match=r'decoded images of fake needs .* MiB in .* are free'):
        open_cache(source, 8, tmp_path)
    assert source.source.reads == 0
    usage.free += 1
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())


def test_what_it_takes_is_said_before_decoding(source, tmp_path, capfd):
    source.source[0]['image'] = b'no image'
    with pytest.raises(InputError):
        open_cache(source, 600, tmp_path)
    mib = 21  # 20 x 600 x 600 x 3 bytes are 20.6 MiB
    assert capfd.readouterr().err == (
        f'decoding 20 images of fake to 600 x 600 pixels, once: {mib} MiB in '
        f'{tmp_path}/cache/fake_600x600\n'
    )
    open_cache(source_without_first(source), 8, tmp_path)
    capfd.readouterr()
    open_cache(source_without_first(source), 8, tmp_path)
    assert capfd.readouterr().err == ''


def source_without_first(source):
    return dataclasses.replace(source, source=Source(source.source[1:]))


@pytest.fixture
def small_lines(monkeypatch):
    """Four images in a line of the index."""
    monkeypatch.setattr(cache_module, '_CHUNK', 4)


def decodes_until(count, error):
    """`decode`, which raises `error` when it is called for the image `count`."""
    decode = cache_module.decode

    def limited(image, size, name):
        if name == f'i{count}':
            raise error
        return decode(image, size, name)

    return limited


@pytest.mark.parametrize(
    'error', [OSError(errno.ENOSPC, 'No space left'), KeyboardInterrupt(), InputError('bad image')]
)
def test_a_build_that_is_cut_off_goes_on(error, source, tmp_path, monkeypatch, small_lines, capfd):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, 'decode', decodes_until(14, error))
        with pytest.raises((InputError, KeyboardInterrupt)) as raised:
            open_cache(source, 8, tmp_path)
    if isinstance(error, OSError):
        assert 'stopped after 12 of 20 images' in str(raised.value)
        assert 'No space left' in str(raised.value)
        assert 'the same command goes on' in str(raised.value)
    assert not (tmp_path / 'cache' / 'fake_8x8').exists()
    source.source.reads = 0
    capfd.readouterr()
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())
    assert source.source.reads == COUNT - 12
    assert '12 of them are there already' in capfd.readouterr().err
    assert_only_the_cache_is_left(tmp_path)


@pytest.mark.parametrize(
    ('damage', 'kept'),
    [
        (lambda folder: flip(folder / 'images', 5 * IMAGE_BYTES), 4),
        (lambda folder: os.truncate(folder / 'images', 9 * IMAGE_BYTES), 8),
        (lambda folder: (folder / 'images').unlink(), 0),
        (lambda folder: flip(folder / 'index.jsonl', 10), 0),
        (lambda folder: flip(folder / 'index.jsonl', -1 + size_of(folder / 'index.jsonl')), 8),
        (lambda folder: os.truncate(folder / 'index.jsonl', 0), 0),
        (lambda folder: os.truncate(folder / 'images', 13 * IMAGE_BYTES), 12),
    ],
    ids=['pixel', 'pixels end', 'no pixels', 'header', 'last line', 'no index', 'more pixels'],
)
def test_what_a_killed_build_left_is_checked(
    damage, kept, source, tmp_path, monkeypatch, small_lines
):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, 'decode', decodes_until(12, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            open_cache(source, 8, tmp_path)
    damage(tmp_path / 'cache' / 'fake_8x8.incomplete')
    source.source.reads = 0
    cache = open_cache(source, 8, tmp_path)
    np.testing.assert_array_equal(everything(cache), expected())
    assert cache.ids.tolist() == [f'i{i}' for i in range(COUNT)]
    assert source.source.reads == COUNT - kept
    assert_only_the_cache_is_left(tmp_path)


def test_what_is_left_of_other_records_is_not_used(source, tmp_path, monkeypatch, small_lines):
    with monkeypatch.context() as patch:
        patch.setattr(cache_module, 'decode', decodes_until(12, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            open_cache(source, 8, tmp_path)
    source.source.reads = 0
    other = dataclasses.replace(source, fingerprint='other')
    np.testing.assert_array_equal(everything(open_cache(other, 8, tmp_path)), expected())
    assert source.source.reads == COUNT


def size_of(path):
    return path.stat().st_size


def assert_only_the_cache_is_left(folder):
    left = sorted(path.name for path in (folder / 'cache').iterdir())
    assert left == ['fake_8x8', 'fake_8x8.lock']


# Builds the cache of 400 images of noise, 64 in a line of the index, in a process of its own; the
# third argument may be a file without which no image is read.
PROGRAM = """
import io, sys, time
import numpy as np
from pathlib import Path
from PIL import Image
from metriclt_jax.data import cache
from metriclt_jax.data.records import Records

folder, slow, start = Path(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])

class Source:
    def __len__(self):
        return 400
    def __getitems__(self, keys):
        return [self.record(key) for key in keys]
    def record(self, key):
        while not start.exists():
            time.sleep(0.01)
        time.sleep(slow)
        print(key, flush=True)
        pixels = np.random.default_rng(key).integers(0, 256, (8, 8, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, 'PNG')
        fields = {'image_id': b'i%d' % key, 'group': b'', 'part': b''}
        return {'image': file.getvalue(), 'label': 0, **fields}

opened = cache.open_cache(Records('fake', folder, ('a',), 'fingerprint', Source()), 8, folder)
"""


def start(folder, slow=0.0, after='/'):
    command = [sys.executable, '-c', PROGRAM, str(folder), str(slow), str(after)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1
    )


def noise(count):
    return np.stack(
        [np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8) for i in range(count)]
    )


def built_pixels(folder):
    pixels = np.fromfile(folder / 'cache' / 'fake_8x8' / 'images', np.uint8)
    return pixels.reshape(-1, 8, 8, 3)


@pytest.mark.slow
def test_a_killed_process_is_continued_by_another(tmp_path):
    index = tmp_path / 'cache' / 'fake_8x8.incomplete' / 'index.jsonl'
    process = start(tmp_path, slow=0.005)
    while not (index.exists() and len(index.read_bytes().splitlines()) >= 4):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    whole_lines = len(index.read_bytes().splitlines()) - 1
    assert 3 <= whole_lines < 6
    process = start(tmp_path)
    read, said = process.communicate()
    assert process.returncode == 0, said
    assert f'{64 * whole_lines} of them are there already' in said
    assert [int(word) for word in read.split()] == list(range(64 * whole_lines, 400))
    np.testing.assert_array_equal(built_pixels(tmp_path), noise(400))


@pytest.mark.slow
def test_of_two_processes_one_decodes_and_the_other_waits(tmp_path):
    the_second_waits = tmp_path / 'the second waits'
    index = tmp_path / 'cache' / 'fake_8x8.incomplete' / 'index.jsonl'
    first = start(tmp_path, after=the_second_waits)
    try:
        while not index.exists():
            assert first.poll() is None, first.communicate()
            time.sleep(0.01)
        second = start(tmp_path)
        said = next((line for line in second.stderr if 'Waiting for another' in line), 'no word')
    finally:
        the_second_waits.touch()  # even if the test fails, so that no process is left
    outputs = [process.communicate() for process in (first, second)]
    assert 'Waiting for another process that is preparing the same data' in said, outputs
    assert [first.returncode, second.returncode] == [0, 0], outputs
    assert [len(read.split()) for read, _ in outputs] == [400, 0]
    np.testing.assert_array_equal(built_pixels(tmp_path), noise(400))


@pytest.mark.skipif(not Path('/dev/full').exists(), reason='the system has no /dev/full')
def test_a_disk_that_fills_up_while_decoding_is_one_sentence(source, tmp_path, monkeypatch):
    # /dev/full refuses every byte as a full disk does, when the buffer is written out.
    aside = tmp_path / 'cache' / 'fake_8x8.incomplete'
    resume = cache_module._resume

    def onto_a_full_disk(aside, header):
        chunks = resume(aside, header)
        (aside / 'images').unlink(missing_ok=True)
        (aside / 'images').symlink_to('/dev/full')
        return chunks

    with monkeypatch.context() as patch:
        patch.setattr(cache_module, '_resume', onto_a_full_disk)
        with pytest.raises(InputError, match=r'stopped after 0 of 20.*No space left on device'):
            open_cache(source, 8, tmp_path)
    assert not (tmp_path / 'cache' / 'fake_8x8').exists()
    (aside / 'images').unlink()
    np.testing.assert_array_equal(everything(open_cache(source, 8, tmp_path)), expected())


def test_building_takes_no_memory_for_the_whole_set(tmp_path):
    count, size = 600, 64
    image = record(0, picture(0))['image']

    class Many:
        def __len__(self):
            return count

        def __getitems__(self, keys):
            return [record(key, picture(0)) | {'image': image} for key in keys]

    tracemalloc.start()
    cache = open_cache(Records('many', tmp_path, ('a',), 'fingerprint', Many()), size, tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    total = count * size * size * 3
    assert (tmp_path / 'cache' / 'many_64x64' / 'images').stat().st_size == total
    assert peak < total / 2  # two windows of 64 images, and what is known of all
    assert len(cache.ids) == count


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the system is not Linux')
def test_a_set_larger_than_the_memory_can_be_read(source, built, tmp_path):
    size = 2000
    image_bytes = size * size * 3
    memory = os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE')
    count = 2 * memory // image_bytes
    path = tmp_path / 'cache' / f'fake_{size}x{size}'
    path.mkdir()
    with (path / 'images').open('wb') as file:
        file.truncate(count * image_bytes)  # sparse: zeros that take no disk
    black = zlib.crc32(bytes(image_bytes))
    header = {
        'format': cache_module._FORMAT,
        'fingerprint': source.fingerprint,
        'shape': [count, size, size, 3],
    }
    columns = {name: [0] * count for name in cache_module._COLUMNS} | {'crc32': [black] * count}
    lines = [cache_module._line(header), cache_module._line(columns)]
    (path / 'index.jsonl').write_text(''.join(lines))

    large = dataclasses.replace(source, source=range(count))
    before = private_memory()
    cache = open_cache(large, size, tmp_path)
    for index in np.linspace(0, count - 1, 30).astype(int):
        assert not cache.images.read([index]).any()
    assert private_memory() - before < 5 * image_bytes


def private_memory():
    """Bytes of the process that are no copy of a file."""
    for line in Path('/proc/self/status').read_text().splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    raise AssertionError


def test_a_remote_data_folder_has_its_cache_on_this_machine(source, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.chdir(tmp_path)
    cache = open_cache(source, 8, 'gs://bucket/data')
    np.testing.assert_array_equal(everything(cache), expected())
    images = list(tmp_path.rglob('images'))
    assert len(images) == 1
    assert images[0].is_relative_to(tmp_path / '.cache' / 'metriclt_jax' / 'data')


def test_a_folder_that_cannot_be_written_to(source, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot be kept in'):
        open_cache(source, 8, tmp_path / 'file')


def test_an_image_that_cannot_be_decoded_is_named(source, tmp_path):
    source.source[3]['image'] = b'no image'
    with pytest.raises(InputError, match='image i3 cannot be decoded: unknown format'):
        open_cache(source, 8, tmp_path)


def test_size_must_be_positive(source, tmp_path):
    with pytest.raises(InputError, match=r'data\.resize is 0'):
        open_cache(source, 0, tmp_path)


def test_the_index_is_lines_of_json_with_their_checksums(built):
    for line in (built / 'index.jsonl').read_text().splitlines():
        checksum, text = line.split(' ', 1)
        assert int(checksum) == zlib.crc32(text.encode())
        assert isinstance(json.loads(text), dict)
