"""What the command shows of a set that it has prepared."""

import subprocess
import sys
from pathlib import Path

from PIL import Image

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'prepare_data.py'


def command(*arguments):
    result = subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *arguments],
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
