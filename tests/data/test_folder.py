import errno
import os
import shutil
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from metriclt_jax.data import prepare, records
from metriclt_jax.data.sources import folder as folder_reader

FILES = {
    'melanoma/a.jpg': 10,
    'melanoma/2021/b.PNG': 20,
    'naevus/a.jpg': 30,
    'naevus/c.webp': 40,
    'wart/d.tif': 50,
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / 'images'
    for path, value in FILES.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (16, 12), (value, value, value)).save(root / path)
    (root / '.DS_Store').write_bytes(b'left by a file manager')
    (root / 'wart' / '._d.tif').write_bytes(b'left by a file manager')
    (root / 'wart' / 'Thumbs.db').write_bytes(b'left by a file manager')
    (root / 'naevus' / 'desktop.ini').write_bytes(b'left by a file manager')
    (root / 'wart' / '.cache').mkdir()
    (root / 'wart' / '.cache' / 'x.png').write_bytes(b'left by a viewer')
    (root / 'README.txt').write_text('beside the classes')
    return root


def write_table(folder, *rows, header='path,label,group,split'):
    (folder / 'labels.csv').write_text('\n'.join([header, *rows]) + '\n')
    return str(folder / 'labels.csv')


def prepared(tmp_path, folder, **options):
    prepare('folder', str(folder), str(tmp_path / 'data'), 'moles', **options)
    opened = records.open_records('moles', str(tmp_path / 'data'))
    return opened, opened.read(range(len(opened)))


def test_folders_are_classes(folder, tmp_path):
    opened, examples = prepared(tmp_path, folder)
    assert opened.class_names == ('melanoma', 'naevus', 'wart')
    assert [example.image_id for example in examples] == sorted(FILES)
    assert [example.label for example in examples] == [0, 0, 1, 1, 2]
    assert {(example.group, example.part) for example in examples} == {('', '')}
    for example in examples:
        assert example.image == (folder / example.image_id).read_bytes()


def test_a_table_lists_images(folder, tmp_path):
    labels = write_table(
        folder,
        'wart/d.tif,odd,p1,train',
        './naevus/a.jpg,"even, or not",p1,train',
        'naevus/c.webp,odd,,validation',
        'melanoma/../melanoma/a.jpg,odd,p2,test',
    )
    classes = ['odd', 'even, or not']
    opened, examples = prepared(tmp_path, folder, labels=labels, classes=classes)
    assert opened.class_names == tuple(classes)
    assert [example[:3] + example[4:] for example in examples] == [
        ('melanoma/a.jpg', 0, 'p2', 'test'),
        ('naevus/a.jpg', 1, 'p1', 'train'),
        ('naevus/c.webp', 0, '', 'validation'),
        ('wart/d.tif', 0, 'p1', 'train'),
    ]


@pytest.mark.parametrize('end', [',', ',,', ', '])
@pytest.mark.parametrize('header', ['\ufeffpath,label', 'path,label,', ',path,label'])
def test_commas_with_nothing_behind_them_do_no_harm(header, end, folder):
    row = 'wart/d.tif,odd' if header[0] != ',' else '0,wart/d.tif,odd'
    labels = write_table(folder, row, row.replace('d.tif', '../naevus/c.webp') + end, header=header)
    source = folder_reader.read_source(str(folder), labels=labels)
    assert [example[:2] for example in source.examples] == [('naevus/c.webp', 0), ('wart/d.tif', 0)]


@pytest.mark.parametrize(
    ('header', 'note'),
    [
        ('path,label,age,leg', 'no groups, 2 parts; split from leg; unused columns: age'),
        ('image,dx,patient,part', '1 groups, 2 parts; path from image, label from dx, group from'),
        ('path,label,group,split', '1 groups, 2 parts'),
    ],
)
def test_what_a_table_gives_is_said(header, note, folder, tmp_path):
    labels = write_table(folder, 'wart/d.tif,a,p,train', 'naevus/a.jpg,b,p,test', header=header)
    said = []
    prepared(tmp_path, folder, labels=labels, announce=said.append)
    assert said[0].startswith(f'moles: 2 images of 2 classes, {note}')


def elsewhere(folder):
    path = folder.parent / 'elsewhere'
    path.mkdir()
    Image.new('L', (2, 2)).save(path / 'x.png')
    return path


def only_parts(folder):
    for old, new in {'melanoma': 'train', 'naevus': 'val', 'wart': 'test'}.items():
        (folder / old).rename(folder / new)


BAD_FOLDERS = {
    'nothing': (shutil.rmtree, 'images'),
    'no folders': (
        lambda f: [shutil.rmtree(f / name) for name in ('melanoma', 'naevus', 'wart')],
        'has no folders',
    ),
    'empty class': (lambda f: (f / 'wart' / 'd.tif').unlink(), 'wart has no images'),
    'parts': (only_parts, 'has no folders'),
    'a class elsewhere': (
        lambda f: (f / 'other').symlink_to(elsewhere(f)),
        'images/other leaves the source folder',
    ),
    'a class twice': (
        lambda f: (f / 'other').symlink_to(f / 'naevus'),
        'images/other is a link to a folder',
    ),
    'zero bytes': (lambda f: (f / 'wart' / 'e.jpg').write_bytes(b''), 'e.jpg .*empty'),
}


@pytest.mark.parametrize('case', BAD_FOLDERS)
def test_bad_folders_are_refused(case, folder, assert_refused):
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    assert_refused('folder', folder, message, 'moles')


BAD_FILES = {
    'wart/notes.txt': lambda path: path.write_text('x'),
    'wart/image': lambda path: path.write_text('x'),
    'stray.TIF': lambda path: (path.parent / 'wart' / 'd.tif').rename(path),
    'wart/x.png': lambda path: path.symlink_to(elsewhere(path.parent.parent) / 'x.png'),
    'wart/nothing.png': lambda path: path.symlink_to('not there'),
    'wart/itself.png': lambda path: path.symlink_to('itself.png'),
    'wart/outside': lambda path: path.symlink_to(elsewhere(path.parent.parent)),
    'wart/inside': lambda path: path.symlink_to(path.parent.parent / 'naevus'),
    'wart/pipe.png': lambda path: os.mkfifo(path),
    'wart/masks/d.png': lambda path: (path.parent.mkdir(), path.write_bytes(b'')),
    'wart/a\u202fb.png': lambda path: path.write_bytes(b''),
    os.fsdecode(b'wart/\xff.png'): lambda path: path.write_bytes(b''),
}


@pytest.mark.parametrize('name', BAD_FILES)
def test_single_files_that_cannot_be_used_are_all_named(name, folder):
    shutil.copy(folder / 'wart' / 'd.tif', folder / 'wart' / 'z.tif')
    (folder / 'naevus' / 'list.csv').write_text('path')
    BAD_FILES[name](folder / name)
    source = folder_reader.read_source(str(folder))
    assert source.unusable.keys() == {folder / name, folder / 'naevus' / 'list.csv'}
    assert not source.unusable.keys() & set(source.files)
    assert source.class_names == ('melanoma', 'naevus', 'wart')


def test_two_files_whose_names_look_alike_cannot_be_told_apart(folder):
    pair = {folder / 'wart' / unicodedata.normalize(form, 'é.png') for form in ('NFC', 'NFD')}
    for path in pair:
        path.write_bytes(b'')
    source = folder_reader.read_source(str(folder))
    assert source.unusable.keys() == pair
    assert source.count == len(FILES)


ROW = 'wart/d.tif,a'
BAD_TABLES = {
    'no column': (('wart/d.tif,odd',), 'path,sort', 'no column with the labels'),
    'no header': (('naevus/a.jpg,odd',), 'wart/d.tif,odd', 'first line'),
    'twice': ((ROW, 'wart/d.tif,b'), 'path,label', 'wart/d.tif: .*as a and b'),
    'twice in other words': ((ROW, 'wart/./d.tif,b'), 'path,label', 'wart/d.tif: .*as a and b'),
    'no path': ((ROW, ',a'), 'path,label', '1 rows without path'),
    'none there': (('a/d.tif,a', 'a/e.tif,a'), 'path,label', 'none of the 2 files .*d.tif'),
    'a bare comma': (('wart/d.tif,even, or not',), 'path,label', "more fields .*'wart/d.tif'"),
    'two labels': (('wart/d.tif,even,odd',), 'path,label,label', "2 columns 'label'"),
    'a label of two lines': (('wart/d.tif,"odd\none"',), 'path,label', r"class is 'odd\\none'"),
    'other split': ((ROW + ',holdout',), 'path,label,split', "'holdout' for image wart/d.tif"),
    'some splits': (
        (ROW + ',test', 'naevus/a.jpg,a,'),
        'path,label,split',
        'no split for 1 of its 2 images, .* naevus/a.jpg',
    ),
}


@pytest.mark.parametrize('case', BAD_TABLES)
def test_bad_tables_are_refused(case, folder, assert_refused):
    rows, header, message = BAD_TABLES[case]
    labels = write_table(folder, *rows, header=header)
    assert_refused('folder', folder, message, 'moles', labels=labels)


def test_rows_that_cannot_be_used_are_all_named(folder):
    (folder / 'link').symlink_to(elsewhere(folder))
    bad = [
        'wart/e.tif,a',
        'link/x.png,a',
        '../elsewhere/x.png,a',
        '/etc/passwd,a',
        'a.jpg,a',  # in two folders
        'c,',
        'melanoma/2021/b.PNG,NaN',
    ]
    labels = write_table(folder, ROW, *bad, header='path,label')
    source = folder_reader.read_source(str(folder), labels=labels)
    assert [example.image_id for example in source.examples] == ['wart/d.tif']
    assert len(source.unusable) == len(bad)
    assert "'NaN'" in source.unusable[folder / 'melanoma/2021/b.PNG']


@pytest.mark.parametrize('name', ['.', 'melanoma/2021'])
def test_a_folder_that_cannot_be_listed_is_refused(name, folder, assert_refused, monkeypatch):
    refuse(monkeypatch, folder / name)
    message = f'{folder / name} cannot be read: Permission denied$'
    assert_refused('folder', folder, message, 'moles')


def refuse(monkeypatch, refused):
    """Has the system refuse to list a folder, as it does to others than root."""

    def scandir(path):
        if Path(path) == refused:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return original_scandir(path)

    def listdir(path):
        scandir(path).close()
        return original_listdir(path)

    original_scandir, original_listdir = os.scandir, os.listdir
    monkeypatch.setattr(os, 'scandir', scandir)
    monkeypatch.setattr(os, 'listdir', listdir)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        ({'classes': ['melanoma', 'naevus']}, "label 'wart'"),
        ({'classes': ['wart', 'melanoma', 'naevus', 'wart']}, 'class wart is listed twice'),
        ({'labels': 'no.csv'}, 'no.csv'),
        ({'labels': '~nouser/x.csv'}, 'nouser'),
        ({'label_column': 'dx'}, '--labels'),
    ],
)
def test_options_that_do_not_fit(options, message, folder, assert_refused):
    assert_refused('folder', folder, message, 'moles', **options)
