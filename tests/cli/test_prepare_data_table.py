"""What the command shows of a set that it has prepared."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'prepare_data.py'


# The command on a disk that has no space for a text, however it is written.
FULL_DISK = """
import errno, os, pathlib
from metriclt_jax.cli import prepare_data

open_file = pathlib.Path.open

def full(path, mode='r', *args, **kwargs):
    file = open_file(path, mode, *args, **kwargs)
    if 'w' in mode and 'classes.txt' in path.name:
        file.close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return file

pathlib.Path.open = full
prepare_data.main()
"""


def command(*arguments, program=None):
    start = ['-c', program] if program else [str(SCRIPT)]
    result = subprocess.run(
        [sys.executable, '-W', 'error', *start, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (result.returncode, result.stderr) == (0, '')
    return result.stdout.splitlines()


def test_table_1_is_printed_every_time_and_the_picture_drawn_once(tmp_path):
    folder = tmp_path / 'digits_lt' / '2.0.0'
    lines = command('--dataset=digits_lt', f'--data_dir={tmp_path}')
    start = lines.index(f'digits_lt is prepared in {folder}') + 1
    shown = lines[start:]
    assert shown[0] == 'digits_lt: N min 5, N max 104, ratio 20.80 (training part)'
    assert ['9', '5', '18', '54', 'minor'] in [line.split() for line in shown]
    assert shown[-1] == f'its classes and some of their images: {folder}/classes.png'
    with Image.open(folder / 'classes.png') as picture:
        assert min(picture.size) > 500

    (folder / 'classes.png').write_bytes(b'not drawn again')
    already, *again = command('--dataset=digits_lt', f'--data_dir={tmp_path}')
    assert 'was already prepared' in already
    assert again == shown
    assert (folder / 'classes.png').read_bytes() == b'not drawn again'


def test_a_set_that_the_default_cannot_divide_is_prepared_all_the_same(tmp_path):
    for number in range(3):
        path = tmp_path / 'images' / 'ab'[number % 2] / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (9, 9), number).save(path)
    lines = command(
        '--dataset=folder', '--name=few', f'--source={tmp_path}/images', f'--data_dir={tmp_path}'
    )
    assert f'few is prepared in {tmp_path}/few/2.0.0' in lines
    assert lines[-1].startswith('It cannot be shown as the config divides it by default: class a')
    assert lines[-1].endswith('(no other data.split would work)')


def test_a_table_that_cannot_be_kept_is_shown_again_by_the_next_call(tmp_path):
    folder = tmp_path / 'digits_lt' / '2.0.0'
    full = command('--dataset=digits_lt', f'--data_dir={tmp_path}', program=FULL_DISK)
    assert full[-1] == (
        'Its table and picture cannot be kept, so the next call makes them again: [Errno 28] '
        'No space left on device'
    )
    assert not (folder / 'classes.txt').exists()
    _, *shown = command('--dataset=digits_lt', f'--data_dir={tmp_path}')
    assert shown[0] == 'digits_lt: N min 5, N max 104, ratio 20.80 (training part)'
    assert (folder / 'classes.txt').read_text().splitlines() == shown[:-1]


def own(tmp_path, rows, header):
    (tmp_path / 'images').mkdir()
    for number in range(len(rows)):
        Image.new('L', (9, 9), number).save(tmp_path / 'images' / f'{number}.png')
    table = [header, *(f'{number}.png,{row}' for number, row in enumerate(rows))]
    (tmp_path / 'labels.csv').write_text('\n'.join(table))
    return command(
        '--dataset=folder', '--name=few', f'--source={tmp_path}/images', f'--data_dir={tmp_path}',
        f'--labels={tmp_path}/labels.csv',
    )  # fmt: skip


def test_parts_of_ones_own_are_shown(tmp_path):
    rows = ['a,train', 'a,train', 'a,test', 'b,train', 'b,test']
    lines = own(tmp_path, rows, 'path,label,split')
    assert 'By the parts of the source (data.split=official, data.validation_parts=()):' in lines
    assert ['a', '2', '0', '1', 'major'] in [line.split() for line in lines]
    assert lines[-1].startswith('its classes and some of their images: ')


def test_the_splits_that_work_are_named(tmp_path):
    rows = [f'{label},{label}{n},train' for label in 'ab' for n in range(39)]
    rows += ['a,a39,validation', 'b,b39,validation']
    lines = own(tmp_path, rows, 'path,label,group,split')
    assert "data.test_parts has 'test', which the data set does not" in lines[-1]
    assert lines[-1].endswith('(data.split=paper and data.split=grouped would work)')
