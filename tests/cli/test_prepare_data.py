"""The command that prepares data sets, and what it shows of them."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import call
from PIL import Image

from metriclt_jax.data import records

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'prepare_data.py'


def command(*arguments, **options):
    return call('prepare_data', *arguments, **options)


def fill_disk():
    """Has the command fail to write its table."""
    from metriclt_jax.cli import prepare_data

    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    prepare_data.write_atomically = full


@pytest.fixture
def images(tmp_path):
    """Twenty images in each of two folders."""
    for blue, label in enumerate(('mole', 'wart')):
        (tmp_path / 'images' / label).mkdir(parents=True)
        for number in range(20):
            picture = Image.new('RGB', (8, 6), (number, number, blue))
            picture.save(tmp_path / 'images' / label / f'{number:02d}.png')
    return tmp_path / 'images'


@pytest.mark.slow
def test_the_script_shows_table_1_every_time_and_draws_the_picture_once(tmp_path):
    arguments = ('--dataset=digits_lt', f'--data_dir={tmp_path}')
    result = subprocess.run(
        [sys.executable, '-W', 'error', SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
    )
    folder = tmp_path / 'digits_lt' / '2.0.0'
    assert (result.returncode, result.stderr) == (0, '')
    need, where, *shown = result.stdout.splitlines()
    assert need.startswith('digits_lt: 1,797 images of 10 classes; writes up to 2 MiB to ')
    assert where == f'digits_lt is prepared in {folder}'
    assert (folder / 'dataset_info.json').exists()
    assert shown[0] == 'digits_lt: N min 5, N max 104, ratio 20.80 (training part)'
    assert ['9', '5', '18', '54', 'minor'] in [line.split() for line in shown]
    assert str(folder / 'classes.png') in shown[-1]
    with Image.open(folder / 'classes.png') as picture:
        assert min(picture.size) > 500

    (folder / 'classes.png').write_bytes(b'not drawn again')
    _, output, _ = command(*arguments)
    already, *again = output.splitlines()
    assert 'was already prepared' in already
    assert again == shown
    assert (folder / 'classes.png').read_bytes() == b'not drawn again'


def test_your_own_images(images, tmp_path):
    arguments = ('--dataset=folder', '--name=mine', f'--source={images}', f'--data_dir={tmp_path}')
    code, output, error = command(*arguments, '--classes=wart,mole', before=fill_disk)
    assert (code, error) == (0, '')
    assert 'No space left' in output.splitlines()[-1]
    assert records.open_records('mine', tmp_path).class_names == ('wart', 'mole')
    _, output, _ = command(*arguments)
    assert f'already prepared in {tmp_path}/mine/2.0.0' in output
    assert 'classes.png' in output.splitlines()[-1]


@pytest.mark.parametrize(
    ('arguments', 'words'),
    [
        (['--dataset=skin7', '--source={}'], 'ISIC2018'),
        (['--dataset=skin8'], 'skin7|xray9|pathmnist_lt|flower_lt|dogs_lt|digits_lt|folder|dermam'),
        (['--dataset=folder', '--source={}'], '--name=NAME'),
        (['--dataset=digits_lt', '--labels=x.csv'], 'digits_lt has no option labels'),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, words, tmp_path):
    arguments = [argument.format(tmp_path) for argument in arguments]
    code, output, error = command(*arguments, f'--data_dir={tmp_path}/data')
    assert (code, output) == (2, '')
    assert error.startswith('error: ')
    assert words in error
    assert error.count('\n') == 1


def own(tmp_path, rows, header):
    (tmp_path / 'images').mkdir()
    for number in range(len(rows)):
        Image.new('L', (9, 9), number).save(tmp_path / 'images' / f'{number}.png')
    table = [header, *(f'{number}.png,{row}' for number, row in enumerate(rows))]
    (tmp_path / 'labels.csv').write_text('\n'.join(table))
    code, output, error = command(
        '--dataset=folder', '--name=few', f'--source={tmp_path}/images', f'--data_dir={tmp_path}',
        f'--labels={tmp_path}/labels.csv',
    )  # fmt: skip
    assert (code, error) == (0, '')
    return output.splitlines()


def test_official_parts_are_shown(tmp_path):
    rows = ['a,train', 'a,train', 'a,test', 'b,train', 'b,test']
    lines = own(tmp_path, rows, 'path,label,split')
    assert any('3 train, 0 validation, 2 test images' in line for line in lines)
    assert ['a', '2', '0', '1', 'major'] in [line.split() for line in lines]


def test_what_the_default_cannot_divide_is_prepared(tmp_path):
    (tmp_path / 'few').mkdir()
    lines = own(tmp_path / 'few', ['a', 'b', 'a'], 'path,label')
    assert f'few is prepared in {tmp_path}/few/few/2.0.0' in lines
    assert 'class a' in lines[-1]
    assert 'no other data.split can' in lines[-1]

    rows = [f'{label},{label}{n},train' for label in 'ab' for n in range(39)]
    rows += ['a,a39,validation', 'b,b39,validation']
    lines = own(tmp_path, rows, 'path,label,group,split')
    assert 'data.test_parts' in lines[-1]
    assert 'data.split=grouped and data.split=paper can divide it' in lines[-1]


def test_files_that_cannot_be_used_are_left_out_on_request(images, tmp_path):
    arguments = ('--dataset=folder', '--name=mine', f'--source={images}', f'--data_dir={tmp_path}')
    (images / 'mole' / '07.png').write_bytes(b'')
    (images / 'wart' / 'again.png').write_bytes((images / 'mole' / '08.png').read_bytes())
    code, _, error = command(*arguments)
    assert code == 2
    for word in ('3 of the 41 files', '07.png', 'again.png', '08.png', '--skip_bad_files'):
        assert word in error
    code, output, _ = command(*arguments, '--skip_bad_files')
    assert code == 0
    assert 'left out: 3 of the 41 files' in output
    assert len(records.open_records('mine', tmp_path)) == 38
    code, output, _ = command(*arguments)
    assert code == 0
    assert '3 of its files' in output.splitlines()[0]
    (images / 'mole' / '09.png').unlink()
    code, _, error = command(*arguments)
    assert code == 2
    assert 'gone: 1 (mole/09.png)' in error


def test_columns_may_be_named_and_are_said(tmp_path):
    (tmp_path / 'images').mkdir()
    table = ['photo;finding;doctor;where']
    for number in range(12):
        Image.new('L', (9, 9), number).save(tmp_path / 'images' / f'{number}.png')
        table.append(
            f'{number};{"ab"[number % 2]};Dr {number % 3};{"train" if number < 8 else "Test"}'
        )
    (tmp_path / 'labels.csv').write_text('\n'.join(table))
    columns = {'path': 'photo', 'label': 'finding', 'group': 'doctor', 'split': 'where'}
    flags = [f'--{kind}_column={name}' for kind, name in columns.items()]
    arguments = [
        '--dataset=folder', '--name=own', f'--source={tmp_path}/images', f'--data_dir={tmp_path}',
        f'--labels={tmp_path}/labels.csv',
    ]  # fmt: skip
    code, _, error = command(*arguments)
    assert code == 2
    assert '--path_column' in error
    code, output, _ = command(*arguments, *flags)
    assert code == 0
    assert 'own: 12 images of 2 classes, 3 groups, 2 parts' in output


def test_the_folds_of_a_cross_validation_are_shown(images, tmp_path):
    arguments = ('--dataset=folder', '--name=mine', f'--source={images}', f'--data_dir={tmp_path}')
    shown = command(*arguments, '--folds=4', '--split=paper')
    assert shown.returncode == 0
    rows = [line.split() for line in shown.stdout.splitlines()]
    assert ['mole', '5', '5', '5', '5', '20'] in rows
    assert ['images', '10', '10', '10', '10', '40'] in rows
    assert 'fold 0' not in command(*arguments, '--folds=0').stdout
    for wrong in ('--folds=1', '--split=paper'):
        refused = command(*arguments, wrong)
        assert refused.returncode == 2
        assert 'folds' in refused.stderr
