import os
import shutil

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import load_dataset, prepare
from metriclt_jax.data.defaults import data_config
from metriclt_jax.data.records import open_records
from metriclt_jax.data.sources import xray9

# The first line of the official file, with its unquoted commas and the one at its end.
HEADER = (
    'Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,'
    'OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],'
)
ROWS = {
    '00000001_000.png': ('Cardiomegaly', 1),
    '00000001_001.png': ('Cardiomegaly|Emphysema', 1),
    '00000001_002.png': ('Cardiomegaly|Effusion', 1),
    '00000002_000.png': ('No Finding', 2),
    '00000003_000.png': ('Hernia', 3),
    '00000003_001.png': ('Hernia', 3),
    '00000003_002.png': ('Hernia|Infiltration', 3),
    '00000004_000.png': ('Pleural_Thickening', 4),
    '00000005_000.png': ('Mass', 5),
}
SINGLE = ['00000001_000', '00000003_000', '00000003_001', '00000004_000', '00000005_000']


def row(name, findings, patient):
    return f'{name},{findings},0,{patient},058Y,M,PA,2682,2749,0.143,0.143,\n'


def draw(path, number):
    """A grey PNG; every third is RGBA, as some of the official files are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new('L', (32, 32), 20 * number)
    picture = picture.convert('RGBA') if number % 3 == 1 else picture
    picture.save(path)


@pytest.fixture
def folder(tmp_path):
    """The official layout in miniature."""
    root = tmp_path / 'nih'
    for number, name in enumerate(ROWS):
        draw(root / f'images_{1 + number // 3:03d}' / 'images' / name, number)
    text = HEADER + '\n' + ''.join(row(name, *fields) for name, fields in ROWS.items())
    (root / 'Data_Entry_2017.csv').write_text(text)
    (root / 'README_CHESTXRAY.pdf').write_bytes(b'%PDF')
    (root / 'images_001' / 'images' / '.DS_Store').write_bytes(b'')
    return root


def test_missing_images_may_be_left_out(folder, tmp_path):
    shutil.rmtree(folder / 'images_002')
    path = prepare('xray9', str(folder), tmp_path / 'data', skip_bad_files=True)
    assert [
        example.image_id for example in open_records('xray9', tmp_path / 'data').read_all()
    ] == [name for name in SINGLE if not name.startswith('00000003')]
    assert (path / 'skipped.csv').read_text().count('does not exist') == 2


def test_one_folder_and_the_later_table(folder):
    (folder / 'images_001' / 'images' / '00000001_001.png').unlink()  # two findings: not needed
    (folder / 'images').mkdir()
    for path in folder.glob('images_*/images/*.png'):
        path.rename(folder / 'images' / path.name)
    table = folder / 'Data_Entry_2017.csv'
    table.write_text(table.read_text().replace('y],\n', 'y]\n').replace(',\n', '\n'))
    table.rename(folder / 'Data_Entry_2017_v2020.csv')
    source = xray9.read_source(str(folder))
    assert [example.image_id for example in source.examples] == SINGLE


def test_from_the_official_files_to_the_parts(tmp_path):
    """Nine classes of 21 images, of which one is too many, and five further classes."""
    random = np.random.default_rng(0)
    pixels, findings, table = {}, {}, [HEADER + '\n']
    for number in range(14 * 21):
        name = f'{number:08d}_000'
        pixels[name] = random.integers(0, 256, (8, 8), np.uint8)
        findings[name] = xray9.CLASS_NAMES[number % 14]
        path = tmp_path / 'nih' / f'images_{1 + number % 12:03d}' / 'images' / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray(pixels[name])
        (picture.convert('RGBA') if number % 5 == 0 else picture).save(path)
        table.append(row(path.name, findings[name], number // 2))
    (tmp_path / 'nih' / 'Data_Entry_2017.csv').write_text(''.join(table))
    prepare('xray9', str(tmp_path / 'nih'), str(tmp_path))
    config = data_config('xray9')
    config.update({'data_dir': str(tmp_path), 'resize': 8})
    dataset = load_dataset(config.lock())

    assert dataset.class_names == config.classes
    assert {part: len(indices) for part, indices in dataset.parts.items()} == {
        'train': 9 * 15, 'validation': 9, 'test': 9 * 4,
    }  # fmt: skip
    assert dataset.train_counts.tolist() == [15] * 9
    used = np.concatenate([*dataset.parts.values()])
    for index, image in zip(used, dataset.images.read(used), strict=True):
        name = str(dataset.ids[index])
        assert dataset.class_names[dataset.labels[index]] == findings[name]
        assert dataset.groups[index] == str(int(name[:8]) // 2)
        np.testing.assert_array_equal(image, np.stack([pixels[name]] * 3, axis=-1))


def write_lists(folder, train, test):
    for name, images in (('train_val_list.txt', train), ('test_list.txt', test)):
        (folder / name).write_text(''.join(f'{image}.png\r\n' for image in images))


UNUSED = ['00000001_001', '00000001_002', '00000002_000', '00000003_002']


def test_official_lists_become_parts(folder):
    write_lists(folder, SINGLE[:3] + UNUSED[:2], SINGLE[3:] + UNUSED[2:])
    examples = xray9.read_source(str(folder)).examples
    assert [example.part for example in examples] == ['train'] * 3 + ['test'] * 2


@pytest.mark.parametrize(
    ('train', 'test', 'message'),
    [
        (SINGLE[:3], SINGLE[4:], 'test_list.txt lacks 1 of the 5 images .* 00000004_000'),
        (SINGLE[:3], SINGLE[2:], '00000003_001 is in both lists'),
    ],
)
def test_lists_that_do_not_fit_are_refused(train, test, message, folder, assert_refused):
    write_lists(folder, train, test)
    assert_refused('xray9', folder, message)
    (folder / 'test_list.txt').unlink()
    assert_refused('xray9', folder, 'one of the lists')


def test_a_folder_around_and_other_names_of_folders(folder):
    for path in folder.glob('images_00*'):
        path.rename(folder / path.name.replace('images_', 'batch'))
    (folder.parent / 'around').mkdir()
    folder.rename(folder.parent / 'around' / 'nih')
    source = xray9.read_source(str(folder.parent / 'around'))
    assert [example.image_id for example in source.examples] == SINGLE


def edit(old, new):
    def change(folder):
        text = (folder / 'Data_Entry_2017.csv').read_text()
        assert old in text
        (folder / 'Data_Entry_2017.csv').write_text(text.replace(old, new, 1))

    return change


def link(folder):
    path = folder / 'images_001' / 'images' / '00000001_000.png'
    path.rename(folder.parent / 'elsewhere.png')
    path.symlink_to(folder.parent / 'elsewhere.png')


LAST = 'images_003/images/00000005_000.png'
SPOILED = {
    'no folder': (shutil.rmtree, 'nih'),
    'two tables': (
        lambda f: shutil.copy(f / 'Data_Entry_2017.csv', f / 'Data_Entry_2017_v2020.csv'),
        'has 2 of the tables',
    ),
    'other label in a list': (edit('Hernia|Inf', 'Hernia|inf'), "'infiltration'"),
    'another format': (edit('_001.png,Hernia,', '_000.jpg,Hernia,'), '00000003_000.jpg'),
    'no single finding': (
        lambda f: (f / 'Data_Entry_2017.csv').write_text(
            f'{HEADER}\n' + row('00000002_000.png', 'No Finding', 2)
        ),
        'has no images',
    ),
    'twice': (edit('00000003_001', '00000003_000'), '00000003_000.png 2 times'),
    'half downloaded': (
        lambda f: shutil.rmtree(f / 'images_002'),
        r'2 of the 5 files .*00000003_000.png \(.* lists it',
    ),
    'no images': (
        lambda f: [shutil.rmtree(path) for path in f.glob('images_*')],
        'lacks 5 of the 5 images',
    ),
    'in two folders': (
        lambda f: shutil.copytree(f / 'images_001' / 'images', f / 'images'),
        'nih/images/00000001_000.png exists again as .*/images_001/images/00000001_000.png',
    ),
    'link': (link, '00000001_000.png leaves the source folder'),
    'truncated': (lambda f: os.truncate(f / LAST, 60), '00000005_000.png .not a readable image'),
}


@pytest.mark.parametrize('case', SPOILED)
def test_bad_folders_are_refused(case, folder, assert_refused):
    spoil, message = SPOILED[case]
    spoil(folder)
    assert_refused('xray9', folder, message)
