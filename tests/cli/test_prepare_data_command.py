import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import records

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'prepare_data.py'


def command(*arguments):
    return subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def images(tmp_path):
    """Twenty images in each of two folders."""
    for label in ('mole', 'wart'):
        (tmp_path / 'images' / label).mkdir(parents=True)
        for number in range(20):
            picture = Image.new('RGB', (8, 6), (number, number, number))
            picture.save(tmp_path / 'images' / label / f'{number:02d}.png')
    return tmp_path / 'images'


def test_prepares_and_says_where(tmp_path):
    result = command('--dataset=digits_lt', f'--data_dir={tmp_path}')
    folder = tmp_path / 'digits_lt' / '2.0.0'
    assert (result.returncode, result.stderr) == (0, '')
    need, where = result.stdout.splitlines()[:2]
    assert need.startswith('digits_lt: 1,797 images of 10 classes; writes up to 2 MiB to ')
    assert where == f'digits_lt is prepared in {folder}'
    assert (folder / 'dataset_info.json').exists()


def test_images_of_ones_own(images, tmp_path):
    arguments = ('--dataset=folder', '--name=mine', f'--source={images}', f'--data_dir={tmp_path}')
    result = command(*arguments, '--classes=wart,mole')
    assert (result.returncode, result.stderr) == (0, '')
    assert records.open_records('mine', tmp_path).class_names == ('wart', 'mole')
    again = command(*arguments)
    assert (again.returncode, again.stderr) == (0, '')
    already = f'mine was already prepared in {tmp_path}/mine/2.0.0; delete that folder to'
    assert again.stdout.startswith(already)


def test_images_that_a_table_lists(images, tmp_path):
    rows = [f'{label}/{n:02d}.png,{label},p{n}' for label in ('mole', 'wart') for n in range(20)]
    (tmp_path / 'labels.csv').write_text('\n'.join(['path,label,group', *rows]))
    result = command(
        '--dataset=folder', '--name=mine', f'--source={images}', f'--data_dir={tmp_path}',
        f'--labels={tmp_path}/labels.csv',
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, '')
    (example,) = records.open_records('mine', tmp_path).read([25])
    assert example[:3] == ('wart/05.png', 1, 'p5')


def test_a_checksum_that_is_not_published(tmp_path):
    content = {}
    for part in ('train', 'val', 'test'):
        content[f'{part}_images'] = np.zeros((90, 28, 28, 3), np.uint8)
        content[f'{part}_labels'] = np.arange(90, dtype=np.uint8)[:, None] % 9
    np.savez_compressed(tmp_path / 'pathmnist.npz', **content)
    arguments = ('--dataset=pathmnist_lt', f'--source={tmp_path}', f'--data_dir={tmp_path}/data')
    result = command(*arguments)
    assert result.returncode == 2
    assert 'a8b06965200029087d5bd730944a56c1' in result.stderr
    assert '--allow_unknown_checksum' in result.stderr
    result = command(*arguments, '--allow_unknown_checksum')
    assert result.returncode == 0, result.stderr
    assert len(records.open_records('pathmnist_lt', tmp_path / 'data')) == 270


def test_bad_input_is_one_line_and_exit_code_2(tmp_path):
    result = command('--dataset=skin7', f'--source={tmp_path}', f'--data_dir={tmp_path}/data')
    assert result.returncode == 2
    assert result.stdout == ''
    assert result.stderr.startswith(f'error: there is no folder {tmp_path}/ISIC2018')
    assert result.stderr.count('\n') == 1
    result = command('--dataset=skin8')
    assert result.returncode == 2
    assert result.stderr.startswith('error: ')
    assert 'skin7|xray9|pathmnist_lt|flower_lt|dogs_lt|digits_lt|folder|dermamnist' in result.stderr
    result = command('--dataset=folder', f'--source={tmp_path}', f'--data_dir={tmp_path}/data')
    assert result.returncode == 2
    assert result.stderr == 'error: --dataset=folder needs a name for your data set: --name=NAME\n'
    result = command('--dataset=digits_lt', '--labels=x.csv', f'--data_dir={tmp_path}/data')
    assert result.returncode == 2
    assert result.stderr == 'error: digits_lt has no option labels; allowed: without it\n'
