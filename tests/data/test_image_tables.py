"""Tables as spreadsheets, programs and other data sets write them."""

import codecs
import unicodedata

import pytest

from metriclt_jax.data.sources import folder as folder_reader
from metriclt_jax.errors import InputError

ROWS = 'path,label,group,split\na.jpg,oak,g1,train\nb.jpg,elm,g2,test\n'


@pytest.fixture
def read(tmp_path):
    """Reads a table of the images a.jpg to d.jpg, or of others."""

    def run(table, files=('a.jpg', 'b.jpg', 'c.jpg', 'd.jpg'), **options):
        for name in files:
            (tmp_path / 'images' / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / 'images' / name).write_bytes(b'')
        content = table if isinstance(table, bytes) else table.encode()
        (tmp_path / 'table.csv').write_bytes(content)
        labels = str(tmp_path / 'table.csv')
        return folder_reader.read_source(str(tmp_path / 'images'), labels=labels, **options)

    return run


def rows(source):
    return [
        (example.image_id, source.class_names[example.label], example.group, example.part)
        for example in source.examples
    ]


PLAIN = [('a.jpg', 'oak', 'g1', 'train'), ('b.jpg', 'elm', 'g2', 'test')]
DIALECTS = {
    'semicolons': ROWS.replace(',', ';'),
    'tabs': ROWS.replace(',', '\t'),
    'bars': ROWS.replace(',', ' | '),
    'blanks': ROWS.replace(',', ' ,  '),
    'quotes': ROWS.replace('oak', '"oak"'),
    'Windows': ROWS.replace('\n', '\r\n'),
    'an old Mac': ROWS.replace('\n', '\r'),
    'empty rows': ROWS.replace('\n', '\n,,,\n\n') + ' \n',
    'separator named': 'sep=;\r\n' + ROWS.replace(',', ';'),
    'UTF-8 with a mark': ROWS.encode('utf-8-sig'),
    'UTF-16': ROWS.replace(',', '\t').encode('utf-16'),
    'UTF-16, big endian': codecs.BOM_UTF16_BE + ROWS.encode('utf-16-be'),
    'decimal commas': 'path;age;label;group;split\na.jpg;1,5;oak;g1;train\nb.jpg;2,0;elm;g2;test',
}


@pytest.mark.parametrize('case', DIALECTS)
def test_dialects(case, read):
    assert rows(read(DIALECTS[case])) == PLAIN


OTHER_FILES = {
    'spreadsheet': (b'PK\x03\x04' + bytes(9), 'spreadsheet'),
    'old spreadsheet': (codecs.decode('d0cf11e0a1b11ae1', 'hex'), 'Excel'),
    'web page': (b'<!DOCTYPE html>', 'web page'),
    'compressed': (b'\x1f\x8b\x08', 'compressed'),
    'Latin-1': (ROWS.replace('oak', 'höhe').encode('latin-1'), 'not UTF-8 text in line 2'),
    'NUL': (ROWS.replace('oak', 'o\0k'), 'NUL'),
    'UTF-16 without a mark': (ROWS.encode('utf-16-le'), 'NUL'),
    'nothing': (b'', 'no rows'),
    'only a header': ('path,label\n', 'no rows'),
    'an open quote': (ROWS.replace('oak', '"oak'), 'CSV file: Error'),
}


@pytest.mark.parametrize('case', OTHER_FILES)
def test_what_is_no_table_is_refused_for_its_reason(case, read):
    content, message = OTHER_FILES[case]
    with pytest.raises(InputError, match=message):
        read(content)


@pytest.mark.parametrize(
    'header',
    [
        'filename,class,patient,set',
        'Image,Target,Lesion ID,SUBSET',
        ' image_path , Category,patient-id, partition',
        'img_id,diagnostic,CASE,part',
    ],
)
def test_names_of_columns(header, read):
    source = read(ROWS.replace('path,label,group,split', header))
    assert rows(source) == PLAIN
    assert header.split(',')[1].strip() in source.note


def test_the_names_in_the_documentation_go_first(read):
    table = 'image,path,class,label,patient,group\nx,a.jpg,y,oak,z,g1\nx,b.jpg,y,elm,z,g2\n'
    source = read(table)
    assert [row[:3] for row in rows(source)] == [row[:3] for row in PLAIN]
    assert source.note.endswith('unused columns: image, class, patient')


AMBIGUOUS = 'image,image_id,dx,target,patient_id,lesion_id,set,part\n' + ''.join(
    f'{name}.jpg,i,{label},t,p,{group},{part},train\n'
    for name, label, group, part in [('a', 'oak', 'g1', 'train'), ('b', 'elm', 'g2', 'test')]
)
CHOSEN = {
    'path_column': 'image', 'label_column': 'dx', 'group_column': 'Lesion ID', 'split_column': 'set'
}  # fmt: skip


@pytest.mark.parametrize('column', CHOSEN)
def test_of_several_columns_one_must_be_chosen(column, read):
    assert rows(read(AMBIGUOUS, **CHOSEN)) == PLAIN
    others = {key: value for key, value in CHOSEN.items() if key != column}
    with pytest.raises(InputError, match=f'--{column}'):
        read(AMBIGUOUS, **others)
    with pytest.raises(InputError, match='no columns'):
        read(AMBIGUOUS, **others, **{column: 'colour'})


def test_groups_and_parts_may_be_left_out(read):
    source = read(ROWS, group_column='none', split_column='none')
    assert {row[2:] for row in rows(source)} == {('', '')}


def test_a_part_of_the_body_is_no_part(read):
    source = read(ROWS.replace('split', 'part').replace('train', 'arm').replace('test', 'leg'))
    assert {row[3] for row in rows(source)} == {''}
    assert source.note.endswith('unused columns: part')


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        (('train', 'Training', 'TRAIN '), 'train'),
        (('val', 'valid', 'Validation', 'dev'), 'validation'),
        (('Test', 'testing', 'TEST'), 'test'),
    ],
)
def test_words_for_parts(words, part, read):
    table = ['path,label,split', *(f'{"abcd"[k]}.jpg,oak,{word}' for k, word in enumerate(words))]
    assert {row[3] for row in rows(read('\n'.join(table)))} == {part}


def test_one_column_for_each_class(read):
    table = 'image,age,elm,ash,oak\na,1,0.0,0.0,1.0\nb,40,1.0,0.0,0.0\n'
    source = read(table)
    assert [row[:2] for row in rows(source)] == [('a.jpg', 'oak'), ('b.jpg', 'elm')]
    assert 'classes from elm, ash, oak' in source.note
    assert [row[1] for row in rows(read(table.replace('1.0', 'True').replace('0.0', 'False')))] == [
        'oak', 'elm',
    ]  # fmt: skip
    for wrong in (
        table.replace('0.0,0.0,1.0', '0.0,1.0,1.0'),
        table.replace('1.0,0.0,0.0', '0,0,0'),
    ):
        with pytest.raises(InputError, match='no column with the labels'):
            read(wrong)


FILES = ['x/one.jpg', 'y/two.JPG', 'y/three.v1.png', 'both.jpg', 'x/both.jpg', 'x/p.png', 'y/p.jpg']


@pytest.mark.parametrize(
    ('name', 'found'),
    [
        ('one', 'x/one.jpg'),
        ('one.jpg', 'x/one.jpg'),
        ('./x/one.jpg', 'x/one.jpg'),
        ('x\\one.jpg', 'x/one.jpg'),
        ('.\\X\\ONE.JPG', 'x/one.jpg'),
        ('y/two.jpg', 'y/two.JPG'),
        ('two', 'y/two.JPG'),
        ('three.v1', 'y/three.v1.png'),
        ('both.jpg', 'both.jpg'),
        ('x/p', 'x/p.png'),
        ('p', None),
        ('both', None),
        ('z/one.jpg', None),
        ('one.png', None),
        ('C:\\data\\one.jpg', None),
    ],
)
def test_which_file_a_row_means(name, found, read):
    source = read(f'path,label\n{name},oak\nq.jpg,elm\n', [*FILES, 'q.jpg'])
    assert {example.image_id for example in source.examples} == {'q.jpg', found or 'q.jpg'}
    assert len(source.unusable) == (found is None)


def test_paths_may_be_absolute_if_they_are_inside(read, tmp_path):
    (tmp_path / 'link').symlink_to(tmp_path / 'images')
    table = f'path,label\n{tmp_path}/images/a.jpg,oak\n{tmp_path}/link/b.jpg,elm\n'
    assert [row[0] for row in rows(read(table))] == ['a.jpg', 'b.jpg']


@pytest.mark.parametrize(('on_disk', 'in_table'), [('NFC', 'NFD'), ('NFD', 'NFC')])
def test_file_names_in_another_form_of_unicode(on_disk, in_table, read):
    file = unicodedata.normalize(on_disk, 'ü/é.jpg')
    source = read(f'path,label\n{unicodedata.normalize(in_table, "ü/é.jpg")},oak\n', [file])
    assert [example.image_id for example in source.examples] == [file]


@pytest.mark.parametrize(
    'label', ['nan', 'N/A', 'None', '<NA>', '?', '-', '', ' ', '-1', 'TBD', '#DIV/0!']
)
def test_labels_that_stand_for_none(label, read, tmp_path):
    table = f'path,label\na.jpg,oak\nb.jpg,{label}\nc.jpg,{label}\n'
    source = read(table)
    assert source.class_names == ('oak',)
    assert source.unusable.keys() == {tmp_path / 'images' / name for name in ('b.jpg', 'c.jpg')}
    if label.strip():  # it may be a class all the same
        assert read(table, classes=['oak', label]).count == 3


def test_rows_that_say_the_same_count_once(read):
    source = read('path,label\na.jpg,oak\n./a.jpg,oak\nb.jpg,elm\n')
    assert [row[:2] for row in rows(source)] == [('a.jpg', 'oak'), ('b.jpg', 'elm')]
    assert '1 rows are repeated' in source.note


@pytest.mark.parametrize('other', ['elm,g1,train', 'oak,g2,train', 'oak,g1,test'])
def test_rows_that_contradict_each_other_leave_no_image(other, read, tmp_path):
    source = read(f'{ROWS}a.jpg,{other}\nc.jpg,oak,g1,train')
    assert [row[0] for row in rows(source)] == ['b.jpg', 'c.jpg']
    assert 'different fields' in source.unusable[tmp_path / 'images' / 'a.jpg']


@pytest.mark.parametrize('label', ['oak|elm', 'elm;oak', 'elm & oak & elm'])
def test_several_labels_are_not_a_class(label, read, tmp_path):
    table = f'path,label\na.jpg,oak\nb.jpg,elm\nc.jpg,{label}\nd.jpg,ash/rowan\n'
    source = read(table)
    assert source.class_names == ('ash/rowan', 'elm', 'oak')
    assert 'several labels' in source.unusable[tmp_path / 'images' / 'c.jpg']
    assert read(table, classes=['oak', 'elm', 'ash/rowan', label]).count == 4


@pytest.mark.parametrize('column', ['data_split', 'Phase', 'dataset'])
def test_a_column_that_names_parts_is_the_split(column, read):
    table = f'path,label,{column},scanner\na.jpg,oak,Training,test\nb.jpg,elm,val,dev\n'
    source = read(table)
    assert [row[3] for row in rows(source)] == ['train', 'validation']
    assert f'split from {column}' in source.note
    assert {row[3] for row in rows(read(table, split_column='none'))} == {''}


def test_a_line_break_in_a_header_is_a_blank(read):
    source = read('path,"label\n(final)"\na.jpg,oak\n', label_column='label (final)')
    assert source.class_names == ('oak',)


def test_images_of_unknown_patients_stand_for_themselves(read):
    table = 'path,label,group\na.jpg,oak,nan\nb.jpg,elm,Unknown\nc.jpg,oak,\nd.jpg,elm,g\n'
    source = read(table)
    assert [row[2] for row in rows(source)] == ['', '', '', 'g']
    assert source.note.startswith('1 groups (3 images without)')


@pytest.mark.parametrize(
    'spellings',
    [('P1', 'p1'), ('7', '7.0', '007'), ('a b', 'a  b '), ('x\u20131', 'x-1'), ('é', 'e\u0301')],
)
def test_patients_whose_names_look_alike_are_one(spellings, read):
    table = [f'{name}.jpg,oak,{group}' for name, group in zip('abc', spellings, strict=False)]
    source = read('\n'.join(['path,label,group', *table, 'd.jpg,elm,other']))
    groups = [row[2] for row in rows(source)]
    assert len(set(groups[:-1])) == 1
    assert groups[-1] == 'other'


def test_patients_whose_names_differ_stay_apart(read):
    table = 'path,label,group\na.jpg,oak,1.1\nb.jpg,oak,1.10\nc.jpg,oak,11\nd.jpg,elm,-11\n'
    assert len({row[2] for row in rows(read(table))}) == 4


@pytest.mark.parametrize(
    'other',
    [
        'Tree  x',
        'tree x',
        'Tree_x',
        'Tree\u00a0x',
        'Tr\u00adee x',
        '\uff34ree x',
        'Tree-x',
        'Тree x',
    ],
)
def test_labels_that_look_alike_are_refused_with_both(other, read):
    with pytest.raises(InputError) as raised:
        read(f'path,label\na.jpg,Tree x\nb.jpg,{other}\n')
    assert "'Tree x'" in str(raised.value)
    assert ascii(other) in str(raised.value)


@pytest.mark.parametrize(('one', 'other'), [('1', '1.0'), ('01', '1'), ('2,0', '2')])
def test_numbers_that_look_alike_are_refused(one, other, read):
    with pytest.raises(InputError, match='look alike'):
        read(f'path;label\na.jpg;{one}\nb.jpg;{other}\n')
    assert read(f'path;label\na.jpg;{one}\nb.jpg;3\n').class_names == tuple(sorted([one, '3']))


def test_blanks_around_a_field_are_not_part_of_it(read):
    assert read('path,label\na.jpg,oak\nb.jpg, oak\nc.jpg,oak \n').class_names == ('oak',)
