"""What preparing has in common for all data sets, shown on folders of a few images."""

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


@pytest.mark.parametrize('name', ['../mine', 'my images', '7', 'münze', '.', 'skin7'])
def test_a_name_is_a_word(source, tmp_path, name):
    with pytest.raises(InputError, match='the name of the data set is'):
        prepare('folder', str(source), str(tmp_path / 'data'), name)
    assert not (tmp_path / 'data').exists()


def test_another_source_under_the_same_name_is_refused(source, tmp_path, monkeypatch):
    path = prepare_mine(source, tmp_path, classes=['a', 'b'])
    monkeypatch.chdir(tmp_path)
    assert prepare_mine('source', tmp_path) == path  # the same in other words
    assert Path(prepare('folder', None, str(tmp_path), 'mine')) == path
    for arguments, named in (
        ({'source': tmp_path / 'typo'}, f'source {tmp_path}/typo'),
        ({'source': source, 'labels': 'x.csv'}, f'labels {tmp_path}/x.csv'),
        ({'source': source, 'classes': ['b', 'a']}, "classes ['b', 'a']"),
    ):
        with pytest.raises(InputError, match=r'from source .*, not from ') as raised:
            prepare_mine(data_dir=tmp_path, **arguments)
        assert named in str(raised.value)


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
