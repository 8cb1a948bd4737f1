"""Own images from a table to an evaluation elsewhere: their parts, their copies."""

import shutil

import numpy as np
import pytest
from commands import ROOT, assert_refused, call, succeed
from PIL import Image

TINY = {
    'data.resize': 8,
    'augment.crop': 8,
    'model.name': 'resnet18',
    'model.options.width': 8,
    'model.options.stem': 'small',
    'model.options.stage_sizes': '(1,)',
    'stage1.epochs': 1,
    'stage1.warmup_epochs': 0,
    'stage1.batch_size': 8,
    'figures': False,
}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Trains on 40 images of the classes 1, 02 and True; returns the folder and what was said."""
    folder = tmp_path_factory.mktemp('own')
    (folder / 'images').mkdir()
    rows, rng = ['path,label,split'], np.random.default_rng(0)
    for number in range(60):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(folder / 'images' / f'{number}.png')
        label, part = ('02', '1', 'True')[number % 3], ('train', 'train', 'test')[number // 3 % 3]
        rows.append(f'{number}.png,{label},{part}')
    (folder / 'labels.csv').write_text('\n'.join(rows))
    prepare(folder, 'own')
    fields = [f'--config.{field}={value}' for field, value in TINY.items()]
    said = succeed(
        'train',
        f'--config={ROOT}/configs/folder.py:ce',
        '--config.data.name=own',
        f'--config.data.data_dir={folder}',
        f'--workdir={folder}/run',
        '--config.data.classes=True,1,02',
        *fields,
    )
    return folder, said


def prepare(folder, name):
    table = [f'--source={folder}/images', f'--labels={folder}/labels.csv']
    flags = ['--dataset=folder', f'--name={name}', *table, f'--data_dir={folder}']
    return succeed('prepare_data', *flags)


@pytest.mark.slow
def test_training_takes_the_parts_of_the_table_and_says_so(trained):
    folder, said = trained
    (line,) = [line for line in said.splitlines() if 'data.split=auto' in line]
    assert '42 train, 0 validation, 18 test images; divided by the parts of the source' in line
    with np.load(folder / 'run' / 'predictions.npz') as predictions:
        numbers = [int(name.removesuffix('.png')) for name in predictions['ids']]
        assert {number // 3 % 3 for number in numbers} == {2}
        assert [('True', '1', '02')[label] for label in predictions['labels']] == [
            ('02', '1', 'True')[number % 3] for number in numbers
        ]


@pytest.mark.slow
def test_images_of_the_training_are_found_under_another_name(trained):
    folder, _ = trained
    prepare(folder, 'elsewhere')
    said = succeed('evaluate', f'--workdir={folder}/run', '--dataset=elsewhere')
    assert 'of the 60 images of elsewhere, the training part of the run has 42 ' in said
    assert '(by their pixels)' in said
    test = [f'--workdir={folder}/run', '--dataset=elsewhere', '--part=test', '--split=official']
    assert 'of the 18 images of elsewhere, the training part of the run has 0 ' in succeed(
        'evaluate', *test
    )
    shutil.rmtree(folder / 'cache' / 'own_8x8')
    assert 'has 42 and its validation part 0 (by their checksums)' in succeed(
        'evaluate', f'--workdir={folder}/run', '--dataset=elsewhere'
    )
    (folder / 'run' / 'seen_images.npz').rename(folder / 'aside')
    said = succeed('evaluate', f'--workdir={folder}/run', '--dataset=elsewhere')
    (folder / 'aside').rename(folder / 'run' / 'seen_images.npz')
    assert 'is not known' in said


@pytest.mark.slow
def test_a_class_that_does_not_exist_is_named(trained):
    folder, _ = trained
    result = call(
        'train', f'--config={ROOT}/configs/folder.py:ce', '--config.data.name=own',
        f'--config.data.data_dir={folder}', f'--workdir={folder}/new', '--config.data.classes=1,2',
    )  # fmt: skip
    assert_refused(result, "data.classes has '2'", '02, 1, True')
