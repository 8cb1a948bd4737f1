"""Layouts of folders as people download and keep them."""

import itertools
import unicodedata

import pytest

from metriclt_jax.data.sources import folder as folder_reader
from metriclt_jax.errors import InputError


def read(root, paths, **options):
    """The source of a folder with an (empty) file at each path."""
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b'')
    return folder_reader.read_source(str(root), **options)


def grid(*levels):
    """Paths of two images in all combinations of folders."""
    return ['/'.join(names) for names in itertools.product(*levels, ('1.jpg', '2.PNG'))]


def by_class_and_part(source):
    found = {}
    for example in source.examples:
        key = (source.class_names[example.label], example.part)
        found.setdefault(key, []).append(example.image_id)
    return found


@pytest.mark.parametrize(
    ('folders', 'parts'),
    [
        (('Train', 'Test'), ('train', 'test')),
        (('train', 'valid', 'test'), ('train', 'validation', 'test')),
        (('TRAINING_SET', 'dev', 'Testing set'), ('train', 'validation', 'test')),
        (('trainData', 'testData'), ('train', 'test')),
        (('leaf_train', 'leaf_val'), ('train', 'validation')),
        (('train2017', 'val2017'), ('train', 'validation')),
        (('all/train/all', 'all/test/all'), ('train', 'test')),
        (('train/train', 'test/test'), ('train', 'test')),
    ],
)
def test_folders_of_parts_are_parts(folders, parts, tmp_path):
    source = read(tmp_path, [*grid(folders, ('oak', 'elm')), '__MACOSX/._all', 'readme.md'])
    assert by_class_and_part(source) == {
        (name, part): [f'{folder}/{name}/1.jpg', f'{folder}/{name}/2.PNG']
        for folder, part in zip(folders, parts, strict=True)
        for name in ('oak', 'elm')
    }
    assert source.note == f'{len(parts)} parts'
    assert not source.unusable


def test_parts_may_be_in_the_folders_of_the_classes(tmp_path):
    source = read(tmp_path, grid(('oak', 'elm'), ('Train', 'Test')))
    assert by_class_and_part(source)['elm', 'test'] == ['elm/Test/1.jpg', 'elm/Test/2.PNG']
    assert len(by_class_and_part(source)) == 4


@pytest.mark.parametrize('around', [('train',), ('dataset', 'images'), ('Trees',)])
def test_one_folder_around_all_others_says_nothing(around, tmp_path):
    source = read(tmp_path, grid(*[[name] for name in around], ('oak', 'elm')))
    assert {example.part for example in source.examples} == {''}
    assert source.class_names == ('elm', 'oak')


def test_a_class_may_lack_a_part(tmp_path):
    (tmp_path / 'test' / 'elm').mkdir(parents=True)
    source = read(tmp_path, [*grid(('train',), ('oak', 'elm')), 'test/oak/7.jpg'])
    assert by_class_and_part(source).keys() == {
        ('oak', 'train'), ('elm', 'train'), ('oak', 'test'),
    }  # fmt: skip


@pytest.mark.parametrize(
    'folders',
    [
        ('train', 'test', 'oak'),
        ('photos_part_1', 'photos_part_2'),
        ('images_001', 'images_002'),
        ('oak', 'elm', 'batch2'),
        ('Fold 1', 'Fold 2'),
        ('disk_a', 'disk_b'),
        ('patient_17', 'patient_18'),
        ('2019', '2020'),
        ('2024-03-01', '2024-03-02'),
        ('100CANON', '101CANON'),
        ('images', 'labels'),
        ('nan', 'oak'),
        ('None', 'oak'),
        ('oak', 'oak (1)'),
        ('oak', 'Copy of oak'),
        ('oak', 'oak - Copy (2)'),
        ('oak', 'New folder'),
    ],
)
def test_folders_that_look_like_no_classes(folders, tmp_path):
    with pytest.raises(InputError, match=r'--classes') as raised:
        read(tmp_path, grid(folders))
    assert folders[-1] in str(raised.value) or folders[0] in str(raised.value)
    source = read(tmp_path, [], classes=list(folders))
    assert source.class_names == folders
    assert source.count == 2 * len(folders)


@pytest.mark.parametrize(
    'folders',
    [
        ('0', '1', '10'),
        ('grade_1', 'grade_2'),
        ('class1', 'class2'),
        ('n01440764', 'n01443537'),
        ('patch test', 'no test'),
        ('with_mask', 'without_mask'),
        ('HER2+', 'HER2-'),
        ('unknown', 'known'),
        ('grade (1)', 'grade (2)'),
    ],
)
def test_folders_that_are_classes(folders, tmp_path):
    assert read(tmp_path, grid(folders)).class_names == tuple(sorted(folders))


MIXED = {
    'parts in some classes': [*grid(('oak', 'elm'), ('train', 'test')), 'elm/7.jpg'],
    'no classes in the test part': [*grid(('train',), ('oak', 'elm')), *grid(('test',))],
    'a part twice': grid(('train', 'val', 'validation'), ('oak', 'elm')),
    'a part and its copy': [*grid(('x/train', 'x/test', 'x/x/train'), ('oak', 'elm'))],
    'no classes in the parts': grid(('train', 'test')),
    'one class by year': grid(('oak',), ('2019', '2020')),
    'images for detection': grid(('train', 'valid'), ('images', 'labels')),
}


@pytest.mark.parametrize('case', MIXED)
def test_mixed_layouts_are_refused(case, tmp_path):
    with pytest.raises(InputError, match=r'use one folder per class|keep one folder'):
        read(tmp_path, MIXED[case])


def test_which_folders_are_classes_may_have_to_be_said(tmp_path):
    paths = grid(('original', 'augmented'), ('oak', 'elm'))
    with pytest.raises(InputError, match=r'augmented, original, each with the folders elm, oak'):
        read(tmp_path, paths)
    assert read(tmp_path, [], classes=['oak', 'elm']).class_names == ('oak', 'elm')
    source = read(tmp_path, [], classes=['original', 'augmented'])
    assert by_class_and_part(source)['original', ''] == [
        path for path in sorted(paths) if path.startswith('original')
    ]


def test_classes_that_are_named_tell_parts_from_classes(tmp_path):
    source = read(tmp_path, grid(('train', 'test'), ('oak', 'elm')), classes=['oak', 'elm'])
    assert len(by_class_and_part(source)) == 4


RUBBISH = [
    'oak/@eaDir/1.jpg/SYNOFILE_THUMB_M.jpg', '@eaDir/x.jpg', '#recycle/oak/1.jpg',
    '@Recycle/1.jpg', 'oak/.@__thumb/1.jpg', '__MACOSX/oak/._1.jpg', 'oak/._1.jpg',
    'oak/.ipynb_checkpoints/1-checkpoint.jpg', '.git/HEAD', 'lost+found/1.jpg',
    '$RECYCLE.BIN/1.jpg', 'System Volume Information/1.jpg', 'oak/Thumbs.db', 'oak/ehthumbs.db',
    'elm/Desktop.ini', 'elm/~$list.xlsx',
]  # fmt: skip


def test_what_systems_leave_is_left_out(tmp_path):
    source = read(tmp_path, grid(('oak', 'elm')) + RUBBISH)
    assert source.count == 4
    assert not source.unusable


def test_masks_are_no_images_of_a_class(tmp_path):
    source = read(tmp_path, grid(('oak', 'elm'), ('images', 'masks')))
    assert {path.parent.name for path in source.unusable} == {'masks'}
    assert {example.image_id.split('/')[1] for example in source.examples} == {'images'}


def test_two_spellings_of_one_name(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, 'Eibe µ ö') for form in ('NFC', 'NFD'))
    paths = [f'{composed}/1.jpg', f'{decomposed}/2.jpg', f'{composed} /3.jpg', 'oak/1.jpg']
    source = read(tmp_path, paths)
    assert source.class_names == (composed, 'oak')
    assert [example.label for example in source.examples].count(0) == 3


@pytest.mark.parametrize('other', ['Oak', 'o\u200bak', '\uff4fak', '\u043eak'])
def test_names_that_look_alike_are_refused_with_both(other, tmp_path):
    with pytest.raises(InputError) as raised:
        read(tmp_path, grid(('oak', 'elm', f'{other}')))
    assert "'oak'" in str(raised.value)
    assert ascii(other) in str(raised.value)


def test_letters_of_both_cases_may_be_classes(tmp_path):
    assert read(tmp_path, grid(('A', 'a')), classes=['A', 'a']).count == 4
