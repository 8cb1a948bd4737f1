"""What preparing has in common for all data sets, shown on folders of a few images."""

import csv
import dataclasses
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import prepare, records
from metriclt_jax.errors import InputError

COUNT = 12


@pytest.fixture
def source(tmp_path):
    """Twelve noisy images (about 3 kB each) in two folders."""
    for number in range(COUNT):
        path = tmp_path / 'source' / 'ab'[number % 2] / f'{number:02d}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return tmp_path / 'source'


def prepare_mine(source, data_dir, **options):
    return Path(prepare('folder', str(source), str(data_dir), 'mine', **options))


def content(data_dir):
    opened = records.open_records('mine', str(data_dir))
    return opened.read(range(len(opened)))


def test_the_second_time_nothing_is_read_or_written(source, tmp_path):
    path = prepare_mine(source, tmp_path)
    before = {file: file.stat().st_mtime_ns for file in path.iterdir()}
    shutil.rmtree(source)
    assert prepare_mine(source, tmp_path) == path
    assert {file: file.stat().st_mtime_ns for file in path.iterdir()} == before
    assert sorted(p.name for p in path.parent.iterdir()) == ['.lock', records.VERSION]


def test_the_need_of_space_is_said_before_and_is_enough(source, tmp_path):
    said = []
    path = prepare_mine(source, tmp_path, announce=said.append)
    (sentence,) = said
    assert sentence.startswith('mine: 12 images of 2 classes; writes up to 1 MiB to ')
    assert 'MiB are free' in sentence
    written = sum(file.stat().st_size for file in path.iterdir())
    images = sum(file.stat().st_size for file in source.rglob('*.png'))
    assert images < written < images + 512 * COUNT + 2**20


def test_too_little_space_is_refused_before_anything_is_written(source, tmp_path, monkeypatch):
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 50_000, 50_000)
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
    with pytest.raises(InputError, match=r'mine needs 1 MiB in .*, where 0 MiB are free'):
        prepare_mine(source, tmp_path / 'data')
    assert [path.name for path in (tmp_path / 'data').rglob('*')] == ['mine', '.lock']


def test_a_disk_that_fills_up_leaves_nothing_that_is_trusted(source, tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # writing more is an error
    try:
        with pytest.raises(InputError, match=r'mine cannot be prepared in .*File too large'):
            prepare_mine(source, tmp_path / 'data')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    left = {path.name for path in (tmp_path / 'data').rglob('*') if path.is_file()}
    assert left == {'.lock'}


def test_a_killed_process_leaves_nothing_that_is_trusted(source, tmp_path):
    program = (
        'import os, signal, sys; from metriclt_jax.data import prepare, records\n'
        'update = records._update\n'
        'def stop(digest, example):\n'
        "    if example.image_id == 'b/05.png': os.kill(os.getpid(), signal.SIGKILL)\n"
        '    update(digest, example)\n'
        'records._update = stop\n'
        "prepare('folder', sys.argv[1], sys.argv[2], 'mine')"
    )
    data_dir = tmp_path / 'data'
    process = subprocess.run([sys.executable, '-c', program, source, data_dir], check=False)
    assert process.returncode == -signal.SIGKILL
    assert (data_dir / 'mine' / f'.{records.VERSION}.incomplete').exists()
    with pytest.raises(InputError, match='mine is not prepared'):
        content(data_dir)
    prepare_mine(source, data_dir)
    assert len(content(data_dir)) == COUNT


def test_of_two_at_once_one_writes(source, tmp_path):
    said = []
    with ThreadPoolExecutor(2) as pool:
        paths = pool.map(
            lambda _: prepare_mine(source, tmp_path / 'data', announce=said.append), range(2)
        )
    assert set(paths) == {tmp_path / 'data' / 'mine' / records.VERSION}
    assert len(said) == 1
    assert len(content(tmp_path / 'data')) == COUNT


def test_something_else_in_the_way_is_not_deleted(source, tmp_path):
    precious = tmp_path / 'mine' / records.VERSION / 'precious'
    precious.mkdir(parents=True)
    with pytest.raises(InputError, match='is in the way'):
        prepare_mine(source, tmp_path)
    assert precious.exists()


def test_records_inside_the_folders_of_classes_are_refused(source):
    before = sorted(source.rglob('*'))
    with pytest.raises(InputError, match=r'inside the source'):
        prepare('folder', str(source), source / 'data', name='moles')
    assert sorted(source.rglob('*')) == before


@pytest.mark.parametrize('name', ['../mine', 'my images', '7', 'münze', '.', 'skin7'])
def test_a_name_is_a_word(source, tmp_path, name):
    with pytest.raises(InputError, match='the name of the data set is'):
        prepare('folder', str(source), str(tmp_path / 'data'), name)
    assert not (tmp_path / 'data').exists()


def changed(source, data_dir, **options):
    """What is said of a source that is not what was prepared, and nothing is written."""
    before = content(data_dir)
    with pytest.raises(InputError) as raised:
        prepare_mine(source, data_dir, **options)
    assert content(data_dir) == before
    assert '\n' not in str(raised.value)
    return str(raised.value)


def test_the_same_source_in_other_words_or_elsewhere(source, tmp_path, monkeypatch):
    path = prepare_mine(source, tmp_path, classes=['a', 'b'])
    monkeypatch.chdir(tmp_path)
    assert prepare_mine('source', tmp_path) == path
    assert prepare_mine('source', tmp_path, classes=('a', 'b')) == path
    assert Path(prepare('folder', None, str(tmp_path), 'mine')) == path
    shutil.copytree(source, tmp_path / 'moved')
    shutil.rmtree(source)
    said = []
    assert prepare_mine(tmp_path / 'moved', tmp_path, announce=said.append) == path
    assert said == []


def rename_class(source):
    (source / 'a').rename(source / 'mole')


def change_pixels(source):
    """One image gets other pixels in as many bytes, as does its time of change."""
    path = source / 'a' / '00.png'
    stat, size = path.stat(), path.stat().st_size
    for seed in range(100, 200):
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        Image.fromarray(pixels).save(path)
        if path.stat().st_size == size:
            break
    assert path.stat().st_size == size
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        (lambda s: (s / 'a/02.png').unlink(), ['gone: 1 (a/02.png)']),
        (lambda s: shutil.copy(s / 'a/02.png', s / 'a/new.png'), ['new images: 1 (a/new.png)']),
        (lambda s: (s / 'a/02.png').rename(s / 'b/02.png'), ['new', 'b/02.png', 'gone', 'a/02']),
        (rename_class, ['new images: 6 (', 'gone: 6 (a/00.png, ', 'classes are now b, mole']),
        (change_pixels, ['another content: 1 (a/00.png)']),
    ],
)
def test_a_folder_that_changed_is_noticed(change, words, source, tmp_path):
    prepare_mine(source, tmp_path)
    change(source)
    text = changed(source, tmp_path)
    for word in (*words, 'delete that folder', '--name'):
        assert word in text


@pytest.mark.parametrize(
    ('old', 'new', 'words'),
    [
        ('02.png,a', '02.png,b', "another label: 1 (a/02.png: 'a' became 'b')"),
        ('02.png,a,p2', '02.png,a,p3', "another group: 1 (a/02.png: 'p2' became 'p3')"),
        ('p2,test', 'p2,train', "another part: 1 (a/02.png: 'test' became 'train')"),
        (',b,', ',c,', "another label: 6 (b/01.png: 'b' became 'c', "),
    ],
)
def test_a_table_that_was_corrected_is_noticed(old, new, words, source, tmp_path):
    parts = ('train', 'validation', 'test')
    rows = [f'{"ab"[n % 2]}/{n:02d}.png,{"ab"[n % 2]},p{n},{parts[n % 3]}' for n in range(COUNT)]
    table = tmp_path / 'labels.csv'
    table.write_text('\n'.join(['path,label,group,split', *rows]))
    prepare_mine(source, tmp_path, labels=str(table))
    prepare_mine(source, tmp_path)  # the table is known
    text = table.read_text()
    assert old in text
    table.write_text('\n'.join([text.splitlines()[0], *reversed(rows)]))
    prepare_mine(source, tmp_path, labels=str(table))  # their order does not matter
    table.write_text(text.replace(old, new))
    assert words in changed(source, tmp_path, labels=str(table))


def test_the_order_of_classes_is_that_of_the_records(source, tmp_path):
    prepare_mine(source, tmp_path)
    assert 'the classes are now b, a' in changed(source, tmp_path, classes=['b', 'a'])


def test_a_source_that_is_not_there(source, tmp_path):
    path, said = prepare_mine(source, tmp_path), []
    for other in ({'source': tmp_path / 'typo'}, {'source': source, 'labels': 'x.csv'}):
        with pytest.raises(InputError, match=r'cannot be compared: there is no .*(typo|x.csv)'):
            prepare_mine(data_dir=tmp_path, **other)
    (source / 'a').rename(tmp_path / 'a')
    (source / 'b').rename(tmp_path / 'b')
    with pytest.raises(InputError, match=r'its source can no longer be read: .* no folders'):
        prepare_mine(source, tmp_path)
    source.rmdir()
    assert prepare_mine(source, tmp_path, announce=said.append) == path
    assert said == [f'mine was not compared with its source: {source} is gone']


def test_images_that_a_reader_encodes_are_compared_by_their_pixels(tmp_path, monkeypatch):
    from metriclt_jax.data.sources import READERS, common

    pixels = {f'{n}': np.full((4, 4), n, np.uint8) for n in range(4)}

    def read_source(source, level=6):
        def png(image):
            file = io.BytesIO()
            Image.fromarray(image).save(file, 'PNG', compress_level=level)
            return file.getvalue()

        examples = [common.Example(name, 0, '', png(image)) for name, image in pixels.items()]
        return common.from_examples(['a'], examples)

    monkeypatch.setitem(READERS, 'mnist', read_source)
    prepare('mnist', str(tmp_path), tmp_path)
    prepare('mnist', str(tmp_path), tmp_path, level=0)
    pixels['2'][1, 1] = 9
    with pytest.raises(InputError, match=r'another content: 1 \(2\)'):
        prepare('mnist', str(tmp_path), tmp_path)


# Files that cannot be used


@pytest.fixture
def spoiled(source):
    """Cuts off one file, empties another, and puts a copy into another class."""
    for name, size in (('a/00.png', 500), ('b/01.png', 0)):
        os.truncate(source / name, size)
    shutil.copy(source / 'a/02.png', source / 'b/copy.png')
    return ['a/00.png', 'a/02.png', 'b/01.png', 'b/copy.png']


def test_all_bad_files_are_named_at_once(source, spoiled, tmp_path):
    with pytest.raises(InputError, match=r'4 of the 13 files .*--skip_bad_files') as raised:
        prepare_mine(source, tmp_path / 'data')
    for name in spoiled:
        assert f'{source / name} (' in str(raised.value)
    assert not records.are_complete(tmp_path / 'data' / 'mine' / records.VERSION)


def test_bad_files_can_be_left_out(source, spoiled, tmp_path):
    said = []
    path = prepare_mine(source, tmp_path, announce=said.append, skip_bad_files=True)
    assert 'left out: 4 of the 13 files' in said[1]
    left = {example.image_id for example in content(tmp_path)}
    assert left == {f'{"ab"[n % 2]}/{n:02d}.png' for n in range(3, COUNT)}
    table = csv.DictReader(io.StringIO((path / 'skipped.csv').read_text()))
    assert sorted(row['file'] for row in table) == spoiled

    shutil.copytree(source, tmp_path / 'moved')
    for options in ({}, {'skip_bad_files': True}):
        for folder in (source, tmp_path / 'moved'):
            said.clear()
            assert prepare_mine(folder, tmp_path, announce=said.append, **options) == path
            assert said == [f'mine was prepared without 4 of its files: {path}/skipped.csv']
    (source / 'b/03.png').unlink()
    assert 'gone: 1 (b/03.png)' in changed(source, tmp_path)


def test_files_that_the_reader_cannot_use_are_named_with_the_others(
    source, spoiled, tmp_path, monkeypatch
):
    from metriclt_jax.data import preparation

    read, notes = preparation.READERS['folder'], source / 'a' / 'notes.txt'

    def read_source(source, labels=None, classes=()):
        return dataclasses.replace(read(source, labels, classes), unusable={notes: 'no image'})

    monkeypatch.setitem(preparation.READERS, 'folder', read_source)
    with pytest.raises(InputError, match=r'5 of the 14 files .*notes.txt .no image.*a/00.png'):
        prepare_mine(source, tmp_path)
    path = prepare_mine(source, tmp_path, skip_bad_files=True)
    assert 'a/notes.txt,no image\n' in (path / 'skipped.csv').read_text()


def test_twenty_bad_files_are_named_and_the_others_counted(source, tmp_path):
    for number in range(25):
        (source / f'a/x{number:02d}.png').touch()
    with pytest.raises(InputError, match=r'25 of the 37 .*x19.png \(.*\) and 5 more$') as raised:
        prepare_mine(source, tmp_path)
    assert 'x20.png' not in str(raised.value)


def test_nothing_but_bad_files(source, tmp_path):
    for path in source.rglob('*.png'):
        path.write_bytes(b'')
    with pytest.raises(InputError, match='no images but those that cannot be used'):
        prepare_mine(source, tmp_path, skip_bad_files=True)


# Names


def test_names_that_cannot_be_used(source, tmp_path):
    prepare_mine(source, tmp_path / 'data')
    with pytest.raises(InputError, match='is a prepared folder, not digits_lt'):
        prepare('digits_lt', None, str(tmp_path / 'data'), 'mine')
    with pytest.raises(InputError, match=r"'skin8'.* skin7, xray9"):
        prepare('skin8', str(source), str(tmp_path / 'data'))
    with pytest.raises(InputError, match='digits_lt has no option labels'):
        prepare('digits_lt', None, str(tmp_path), labels='labels.csv')


def test_what_is_not_prepared_says_how_to(tmp_path):
    with pytest.raises(InputError) as raised:
        records.open_records('moles', str(tmp_path / 'my data'))
    assert str(raised.value).endswith(
        'metriclt-prepare-data --dataset=folder --name=moles --source=DIR '
        f"--data_dir='{tmp_path}/my data'"
    )
