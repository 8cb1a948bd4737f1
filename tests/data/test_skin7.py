import csv
import io
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.data import load_dataset, prepare, records
from metriclt_jax.data.sources import skin7
from metriclt_jax.errors import InputError

NAMES = ['MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC']
PER_CLASS = 20


def picture(number):
    return Image.new('RGB', (16, 12), (number, 255 - number, 40))


def write_table(path, rows):
    path.parent.mkdir(exist_ok=True)
    with path.open('w', newline='') as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope='session')
def original(tmp_path_factory):
    """The official layout in miniature: 20 images a class, two a lesion."""
    folder = tmp_path_factory.mktemp('isic')
    (folder / skin7.IMAGES).mkdir()
    labels, lesions = [['image', *NAMES]], [['image', 'lesion_id', 'diagnosis_confirm_type']]
    for number in range(PER_CLASS * len(NAMES)):
        name = f'ISIC_{number:07d}'
        label = number % len(NAMES)
        labels.append([name, *(f'{float(c == label)}' for c in range(len(NAMES)))])
        lesions.append([name, f'HAM_{number // (2 * 7)}_{label}', 'histo'])
        picture(number).save(folder / skin7.IMAGES / f'{name}.jpg', quality=95)
    write_table(folder / skin7.LABELS, labels)
    write_table(folder / skin7.LESIONS, lesions)
    (folder / skin7.IMAGES / 'LICENSE.txt').write_text('as in the official archive')
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / 'isic'))


def test_missing_images_may_be_left_out(folder, tmp_path, data_config):
    for number in (3, 100):
        (folder / skin7.IMAGES / f'ISIC_{number:07d}.jpg').unlink()
    picture(1).save(folder / skin7.IMAGES / 'ISIC_9999999.jpg')
    for _ in range(2):  # the second time, it is compared
        path = prepare('skin7', str(folder), str(tmp_path), skip_bad_files=True)
    dataset = load_dataset(data_config(tmp_path, name='skin7', resize=12))
    assert dataset.ids.tolist() == [f'ISIC_{n:07d}' for n in range(140) if n not in (3, 100)]
    skipped = (path / 'skipped.csv').read_text()
    assert skipped.count('does not exist') == 2
    assert skipped.count('does not list it') == 1


def test_prepared_data_is_what_the_folder_says(original, tmp_path, data_config):
    prepare('skin7', str(original), str(tmp_path))
    dataset = load_dataset(data_config(tmp_path, name='skin7', resize=12))
    assert dataset.class_names == tuple(NAMES)
    assert dataset.ids.tolist() == [f'ISIC_{n:07d}' for n in range(140)]
    assert dataset.labels.tolist() == [n % 7 for n in range(140)]
    assert dataset.groups.tolist() == [f'HAM_{n // 14}_{n % 7}' for n in range(140)]
    np.testing.assert_allclose(dataset.aspects, 16 / 12)
    for number, image in enumerate(dataset.images.read(np.arange(140))):
        error = image.astype(int) - np.asarray(picture(number))[0, 0]
        assert np.abs(error).max() < 12  # JPEG
    assert dataset.train_counts.tolist() == [15] * 7


def edit(name, old, new, count=1):
    def change(folder):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, count))

    return change


ROW = 'ISIC_0000007,1.0,0.0'
REST = ',0.0,0.0,0.0,0.0,0.0'
SPOILED = {
    'no folder': (shutil.rmtree, 'isic'),
    'half copied': (
        lambda f: [(f / skin7.IMAGES / f'ISIC_{n:07d}.jpg').unlink() for n in range(50, 140)],
        '90 of the 140 files .*Input/ISIC_0000050.jpg .*GroundTruth.csv lists it',
    ),
    'lesion without label': (
        edit(skin7.LESIONS, 'ISIC_0000003,', 'ISIC_9999999,'),
        'Groupings.csv lacks 1 of the 140 images of .*GroundTruth.csv, .*ISIC_0000003',
    ),
    'two labels': (edit(skin7.LABELS, ROW, 'ISIC_0000007,1.0,1.0'), 'image ISIC_0000007'),
    'no label': (edit(skin7.LABELS, ROW, 'ISIC_0000007,0.0,0.0'), 'image ISIC_0000007'),
    'no lesion column': (edit(skin7.LESIONS, 'lesion_id', 'id'), "Groupings.csv .*'lesion_id'"),
    'not text': (lambda f: (f / skin7.LABELS).write_bytes(b'PK\xff\xfe\x00'), 'GroundTruth.csv'),
    'twice': (edit(skin7.LABELS, 'ISIC_0000008,', 'ISIC_0000007,'), 'ISIC_0000007 2 times'),
}


@pytest.mark.parametrize('case', SPOILED)
def test_bad_folders_are_refused_before_records_are_written(case, folder, assert_refused):
    spoil, message = SPOILED[case]
    spoil(folder)
    assert_refused('skin7', folder, message)


COLUMNS = ['lesion_id', 'image_id', 'dx', 'dx_type', 'age', 'sex', 'localization']


@pytest.fixture
def ham10000(original, tmp_path):
    """The images of `original` as Kaggle and Dataverse have them: other folders, one table."""
    folder = tmp_path / 'ham10000'
    rows = [COLUMNS]
    for number, path in enumerate(sorted((original / skin7.IMAGES).glob('*.jpg'))):
        label, part = number % len(NAMES), 1 + number // 70
        target = folder / f'HAM10000_images_part_{part}' / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
        lesion = f'HAM_{number // (2 * 7)}_{label}'
        rows.append([lesion, path.stem, NAMES[label].lower(), 'histo', '', 'male', 'back'])
    write_table(folder / skin7.METADATA, rows)
    write_table(folder / 'hmnist_8_8_L.csv', [['pixel0000', 'label'], [1, 2]])
    return folder


def move_to_one_folder(folder):
    for path in folder.glob('*/*.jpg'):
        path.rename(folder / path.name)


def repeat_in_lower_case(folder):
    for part in folder.glob('HAM10000_images_part_*'):
        shutil.copytree(part, folder / part.name.lower())


def to_tabs(folder):
    text = (folder / skin7.METADATA).read_text().replace(',', '"\t"').replace('\n', '"\n"')
    (folder / 'HAM10000_metadata.tab').write_text('"' + text.rstrip('"'))
    (folder / skin7.METADATA).unlink()


HOSTS = {
    'Kaggle': lambda f: None,
    'Kaggle, unpacked': repeat_in_lower_case,
    'Dataverse': to_tabs,
    'no ending': lambda f: (f / skin7.METADATA).rename(f / 'HAM10000_metadata'),
    'one folder': move_to_one_folder,
    'a folder around': lambda f: shutil.copytree(f, f.parent / 'x' / 'y') and f,
}


@pytest.mark.parametrize('host', HOSTS)
def test_other_hosts_of_the_same_images(host, original, ham10000, tmp_path):
    HOSTS[host](ham10000)
    source = tmp_path / 'x' if host == 'a folder around' else ham10000
    prepared = {
        name: records.read_metadata(prepare('skin7', str(folder), str(tmp_path / name)))
        for name, folder in {'isic': original, 'other': source}.items()
    }
    assert prepared['isic']['fingerprint'] == prepared['other']['fingerprint']


def test_images_that_are_there_twice_are_used_once_and_said(ham10000):
    repeat_in_lower_case(ham10000)
    assert '140 files are there twice' in skin7.read_source(str(ham10000)).note
    (ham10000 / 'ham10000_images_part_1' / 'ISIC_0000003.jpg').write_bytes(b'another')
    with pytest.raises(InputError, match=r'ISIC_0000003.jpg exists again'):
        skin7.read_source(str(ham10000))


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (',nv,', ',naevus,', "dx 'naevus' for image ISIC_0000001"),
        (
            ',ISIC_0000001,',
            ',ISIC_7777777,',
            r'2 of the 141 .*ISIC_7777777.jpg .*ISIC_0000001.jpg .*does not list it',
        ),
        ('image_id', 'id', "'image_id'"),
        ('HAM_0_1,', ',', "empty field in the row of image 'ISIC_0000001'"),
    ],
)
def test_bad_tables_of_other_hosts_are_refused(old, new, message, ham10000, assert_refused):
    edit(skin7.METADATA, old, new)(ham10000)
    assert_refused('skin7', ham10000, message)


def add_official(folder, part, count=14):
    start = f'ISIC2018_Task3_{part}'
    (folder / f'{start}_Input').mkdir()
    labels = [['image', *NAMES]]
    for number in range(count):
        name = f'ISIC_{len(part)}{number:06d}'
        picture(number).save(folder / f'{start}_Input' / f'{name}.jpg')
        labels.append([name, *(f'{float(c == number % 7)}' for c in range(len(NAMES)))])
    write_table(folder / f'{start}_GroundTruth' / f'{start}_GroundTruth.csv', labels)
    (folder / f'{start}_Input' / 'ATTRIBUTION.txt').write_text('as in the official archive')
    return {row[0]: row[1:].index('1.0') for row in labels[1:]}


@pytest.mark.parametrize('layout', ['folder', 'ham10000'])
def test_official_validation_and_test_images_are_parts(layout, request):
    folder = request.getfixturevalue(layout)
    before = {example.image_id: example for example in skin7.read_source(str(folder)).examples}
    assert {example.part for example in before.values()} == {''}
    official = {part: add_official(folder, part) for part in ('Validation', 'Test')}
    source = skin7.read_source(str(folder))
    found = {example.image_id: example for example in source.examples}
    assert source.count == 140 + 28
    assert '3 parts' in source.note
    for name, example in before.items():
        assert found[name] == example._replace(part='train')
    for part, labels in official.items():
        for name, label in labels.items():
            assert found[name][1:3] + found[name][4:] == (label, '', part.lower())


@pytest.mark.parametrize('missing', ['Input', 'GroundTruth'])
def test_half_of_an_official_part_is_left_out_and_said(missing, folder):
    add_official(folder, 'Test')
    shutil.rmtree(folder / f'ISIC2018_Task3_Test_{missing}')
    source = skin7.read_source(str(folder))
    assert {example.part for example in source.examples} == {''}
    assert 'test left out' in source.note


def test_official_tables_may_name_lesions(folder):
    labels = add_official(folder, 'Test')
    rows = [[f'HAM_x{label}', name, NAMES[label].lower()] for name, label in labels.items()]
    shutil.rmtree(folder / 'ISIC2018_Task3_Test_GroundTruth')
    write_table(folder / 'ISIC2018_Task3_Test_GroundTruth.csv', [COLUMNS[:3], *rows])
    (folder / 'ISIC2018_Task3_Test_Input').rename(folder / 'ISIC2018_Task3_Test_Images')
    found = {example.image_id: example.group for example in skin7.read_source(str(folder)).examples}
    assert {found[name] for name in labels} == {f'HAM_x{label}' for label in range(7)}


def test_the_real_tables_and_some_of_the_real_images(tmp_path, data_config):
    if not os.environ.get('METRICLT_DATA'):
        pytest.skip('METRICLT_DATA names no folder with isic2018_task3_200x150.zip')
    archive = zipfile.ZipFile(Path(os.environ['METRICLT_DATA']) / 'isic2018_task3_200x150.zip')
    with archive:
        names = [name for name in archive.namelist() if name.endswith(('.csv', '.jpg'))]
        for name in names:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        archive.extractall(tmp_path, [name for name in names if name.endswith('.csv')])
        (folder,) = {path.parent for path in tmp_path.rglob(skin7.IMAGES)}
        examples = skin7.read_source(str(folder)).examples
        counts = np.bincount([example.label for example in examples]).tolist()
        assert counts == [1113, 6705, 514, 327, 1099, 115, 142]
        assert len({example.group for example in examples}) == 7470

        some = {example.image_id for example in examples[::20]}
        for path in (folder / skin7.IMAGES).iterdir():
            if path.stem not in some:
                path.unlink()
        for table in (skin7.LABELS, skin7.LESIONS):
            header, *rows = (folder / table).read_text().splitlines()
            rows = [row for row in rows if row.split(',')[0] in some]
            (folder / table).write_text('\n'.join([header, *rows]))
        archive.extractall(tmp_path, [name for name in names if Path(name).stem in some])
    prepare('skin7', str(folder), str(tmp_path / 'data'))
    dataset = load_dataset(
        data_config(tmp_path / 'data', name='skin7', resize=16, fractions=(0.75, 0, 0.25))
    )
    assert set(dataset.ids) == some
    for index in (0, 123, len(some) - 1):
        original = (folder / skin7.IMAGES / f'{dataset.ids[index]}.jpg').read_bytes()
        with Image.open(io.BytesIO(original)) as picture:
            expected = picture.convert('RGB').resize((16, 16), Image.Resampling.BILINEAR)
        np.testing.assert_array_equal(dataset.images.read(np.array([index]))[0], expected)
