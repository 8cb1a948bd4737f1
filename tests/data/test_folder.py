import errno
import os
import shutil
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
        ('path,label,patient,part', 'no groups, no parts; unused columns: patient, part'),
        ('path,label,group,split', '1 groups, 2 parts'),
    ],
)
def test_what_a_table_gives_is_said(header, note, folder, tmp_path):
    labels = write_table(folder, 'wart/d.tif,a,p,train', 'naevus/a.jpg,b,p,test', header=header)
    said = []
    prepared(tmp_path, folder, labels=labels, announce=said.append)
    assert said[0].startswith(f'moles: 2 images of 2 classes, {note}; writes up to ')


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
    'parts': (only_parts, 'are parts'),
    'other files': (lambda f: (f / 'wart' / 'notes.txt').write_text('x'), 'wart/notes.txt'),
    'image beside': (lambda f: (f / 'wart' / 'd.tif').rename(f / 'stray.TIF'), 'stray.TIF'),
    'link to a file': (
        lambda f: (f / 'wart' / 'x.png').symlink_to(elsewhere(f) / 'x.png'),
        'wart/x.png leaves the source folder',
    ),
    'link to a folder': (
        lambda f: (f / 'wart' / 'x').symlink_to(elsewhere(f)),
        'wart/x leaves the source folder',
    ),
    'link to a folder inside': (
        lambda f: (f / 'wart' / 'x').symlink_to(f / 'naevus'),
        'wart/x is a link to a folder',
    ),
    'zero bytes': (lambda f: (f / 'wart' / 'e.jpg').write_bytes(b''), 'e.jpg .*empty'),
    'a name that is no text': (
        lambda f: os.rename(f / 'wart' / 'd.tif', os.fsencode(f) + b'/wart/\xff.png'),
        r'udcff\.png',
    ),
}


@pytest.mark.parametrize('case', BAD_FOLDERS)
def test_bad_folders_are_refused(case, folder, assert_refused):
    spoil, message = BAD_FOLDERS[case]
    spoil(folder)
    assert_refused('folder', folder, message, 'moles')


ROW = 'wart/d.tif,a'
BAD_TABLES = {
    'no column': (('wart/d.tif,odd',), 'path,class', "'label'"),
    'semicolons': (('wart/d.tif;odd',), 'path;label', "'path'.* path;label$"),
    'no label': (('wart/d.tif,',), 'path,label', "empty field in the row of image 'wart/d.tif'"),
    'twice': ((ROW, 'wart/d.tif,b'), 'path,label', 'wart/d.tif 2 times'),
    'twice in other words': ((ROW, 'wart/./d.tif,b'), 'path,label', 'wart/d.tif is listed twice'),
    'missing': (('wart/e.tif,a',), 'path,label', 'e.tif, which .*labels.csv'),
    'leaves': (('../elsewhere/x.png,a',), 'path,label', 'x.png leaves the source folder'),
    'absolute': (('/etc/passwd,a',), 'path,label', 'has the path /etc/passwd'),
    'by a link': (('link/x.png,a',), 'path,label', 'link/x.png leaves the source folder'),
    'a bare comma': (('wart/d.tif,even, or not',), 'path,label', "more fields .*'wart/d.tif'"),
    'two labels': (('wart/d.tif,even,odd',), 'path,label,label', "2 columns 'label'"),
    'groups that look alike': ((ROW + ',p', 'naevus/a.jpg,a,p '), 'path,label,group', "'p '"),
    'labels that look alike': (('wart/d.tif,odd ',), 'path,label', "class is 'odd '"),
    'a label of two lines': (('wart/d.tif,"odd\none"',), 'path,label', r"class is 'odd\\none'"),
    'other split': ((ROW + ',val',), 'path,label,split', "'val' for image wart/d.tif"),
    'some splits': (
        (ROW + ',test', 'naevus/a.jpg,a,'),
        'path,label,split',
        'no split for 1 of its 2 images, .* naevus/a.jpg',
    ),
}


@pytest.mark.parametrize('case', BAD_TABLES)
def test_bad_tables_are_refused(case, folder, assert_refused):
    (folder / 'link').symlink_to(elsewhere(folder))
    rows, header, message = BAD_TABLES[case]
    labels = write_table(folder, *rows, header=header)
    assert_refused('folder', folder, message, 'moles', labels=labels)


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
    ],
)
def test_options_that_do_not_fit(options, message, folder, assert_refused):
    assert_refused('folder', folder, message, 'moles', **options)
