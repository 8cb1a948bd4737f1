"""A folder becomes a CSV file: complete or not there, resumable, bad files named."""

import csv
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from test_inference import SIZE, expected_probabilities, make_classifier, make_pictures

from metriclt_jax import predictions
from metriclt_jax.data import preparation
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.predictions import list_files, predict_folder

NAMES = ['a,b.png', 'c/d.JPG', 'c/e/f.png', 'g.png', 'h "i".bmp', 'j.png', 'line\nbreak.png']


@pytest.fixture
def folder(tmp_path):
    """Images of several sizes and formats, with what must be left alone between them."""
    folder = tmp_path / 'images'
    pictures = make_pictures([(SIZE + number, SIZE) for number in range(len(NAMES))])
    for name, picture in zip(NAMES, pictures, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
    (folder / '.DS_Store').write_text('hidden')
    (folder / '@eaDir').mkdir()
    (folder / '@eaDir' / 'x.png').write_text('a thumbnail of a NAS')
    (folder / 'Thumbs.db').write_text('hidden')
    (folder / '.cache').mkdir()
    (folder / '.cache' / 'x.png').write_text('hidden')
    return folder


def run(folder, output, classifier=None, **options):
    """Returns what was printed."""
    console = Console(file=io.StringIO())
    predict_folder(classifier or make_classifier(batch_size=2), folder, output, console, **options)
    return console.file.getvalue()


def read(path):
    with path.open(newline='', encoding='utf-8', errors='surrogateescape') as file:
        return list(csv.reader(file))


def test_a_row_an_image(folder, tmp_path):
    classifier = make_classifier()
    assert f'{len(NAMES)} images' in run(folder, tmp_path / 'out.csv', classifier)
    header, *rows = read(tmp_path / 'out.csv')
    assert header == ['image', 'predicted', 'a', 'b', 'c']
    assert [row[0] for row in rows] == NAMES
    for name, predicted, *values in rows:
        with Image.open(folder / name) as picture:
            stored = picture.convert('RGB').resize((SIZE, SIZE), Image.Resampling.BILINEAR)
        expected = expected_probabilities(classifier, np.asarray(stored))
        np.testing.assert_allclose([float(value) for value in values], expected, atol=2e-6)
        assert predicted == 'abc'[expected.argmax()]
    assert len({row[1] for row in rows}) > 1
    written = np.array([row[2:] for row in rows]).astype(np.float32)
    stream = classifier.predict_stream((name, folder / name) for name in NAMES)
    np.testing.assert_array_equal(written, np.concatenate([batch for _, batch in stream]))
    assert sorted(path.name for path in tmp_path.glob('out*')) == ['out.csv', 'out.made_by.json']


def run_and_kill(folder, output, monkeypatch, after, **options):
    """Has the command die when it is about to write its batch number `after` + 1."""
    batches = []
    rows = predictions._rows

    def dying(*arguments):
        batches.append(arguments)
        if len(batches) > after:
            raise KeyboardInterrupt
        return rows(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(predictions, '_rows', dying)
        with pytest.raises(KeyboardInterrupt):
            run(folder, output, **options)
    assert not output.exists()


def test_a_file_that_is_called_like_a_column(folder, tmp_path, monkeypatch):
    (folder / 'g.png').rename(folder / 'image')
    run_and_kill(folder, tmp_path / 'out.csv', monkeypatch, after=1)
    run(folder, tmp_path / 'out.csv')
    rows = (tmp_path / 'out.csv').read_text().splitlines()[1:]
    assert 'image' in [row.split(',')[0] for row in rows]


@pytest.mark.parametrize('rest', [b'', b'"line\nbreak', b'j.png,a,0.'])
def test_going_on_after_a_kill(folder, tmp_path, monkeypatch, rest):
    run(folder, tmp_path / 'undisturbed.csv')
    output, partial = tmp_path / 'out.csv', tmp_path / 'out.partial.csv'
    run_and_kill(folder, output, monkeypatch, after=2)
    assert [row[0] for row in read(partial)[1:]] == NAMES[:4]
    with partial.open('ab') as file:
        file.write(rest)
    decoded = []
    read_image = predictions.read_image
    monkeypatch.setattr(
        predictions, 'read_image', lambda *a: decoded.append(a[0].name) or read_image(*a)
    )
    assert 'resuming after 4 of 7' in run(folder, output, skip_bad_files=True)
    # Once to check them, once to predict them.
    assert sorted(decoded) == sorted(2 * [name.rpartition('/')[2] for name in NAMES[4:]])
    assert output.read_bytes() == (tmp_path / 'undisturbed.csv').read_bytes()
    assert not partial.exists()
    decoded.clear()
    assert 'complete' in run(folder, output)
    assert decoded == []


def test_bad_files_are_named_before_anything_is_written_and_skipped_when_asked(
    folder, tmp_path, monkeypatch
):
    whole = (folder / 'g.png').read_bytes()
    (folder / 'c' / 'half.png').write_bytes(whole[: len(whole) // 2])
    (folder / 'note.txt').write_text('no image')
    (folder / 'gone.png').symlink_to('nowhere')
    bad_files = ['c/half.png', 'gone.png', 'note.txt']
    output = tmp_path / 'out.csv'
    with pytest.raises(InputError, match=r'3 of 10 files .*--skip_bad_files') as error:
        run(folder, output)
    assert all(name in str(error.value) for name in bad_files)
    assert [path.name for path in tmp_path.iterdir()] == ['images']
    monkeypatch.setattr(preparation, '_NAMED', 1)
    with pytest.raises(InputError, match=r'half\.png .* and 2 more'):
        run(folder, output)
    run_and_kill(folder, output, monkeypatch, after=1, skip_bad_files=True)
    assert 'out.skipped.csv' in run(folder, output, skip_bad_files=True)
    assert [row[0] for row in read(output)[1:]] == NAMES
    header, *skipped = read(tmp_path / 'out.skipped.csv')
    assert header == ['image', 'reason']
    assert [name for name, _ in skipped] == bad_files
    assert 'out.skipped.csv' in run(folder, output)  # complete already


def test_an_output_of_another_model_or_of_other_images_is_left_alone(folder, tmp_path):
    output, made_by = tmp_path / 'out.csv', tmp_path / 'out.made_by.json'
    run(folder, output)
    written = json.loads(made_by.read_text())
    assert written['images'] == str(folder)
    assert written['class_names'] == ['a', 'b', 'c']
    before = output.read_bytes()
    with pytest.raises(InputError, match=r'a different model'):
        run(folder, output, make_classifier(seed=1))
    Image.new('RGB', (9, 9)).save(folder / 'new.png')
    with pytest.raises(InputError, match=r'different images'):
        run(folder, output)
    (folder / 'new.png').unlink()
    made_by.unlink()
    for path in (output, output.rename(tmp_path / 'out.partial.csv')):
        with pytest.raises(InputError, match=r'out\.made_by\.json'):
            run(folder, output)
        assert (path if path.exists() else tmp_path / 'out.partial.csv').read_bytes() == before
    (tmp_path / 'out.partial.csv').write_bytes(b'')  # of a kill at the start
    run(folder, output)
    assert output.read_bytes() == before


def test_a_partial_file_that_another_program_uses_or_changed(folder, tmp_path, monkeypatch):
    run_and_kill(folder, tmp_path / 'out.csv', monkeypatch, after=2)
    partial = tmp_path / 'out.partial.csv'
    with locked(partial), pytest.raises(InputError, match=r'another process is writing'):
        run(folder, tmp_path / 'out.csv')
    content = partial.read_bytes()
    partial.write_bytes(content.replace(b'g.png', b'"g.png"'))
    with pytest.raises(InputError, match=r'out\.partial\.csv'):
        run(folder, tmp_path / 'out.csv')
    partial.write_bytes(content)
    assert f'{len(NAMES)} images' in run(folder, tmp_path / 'out.csv')


def test_names_need_not_be_utf8(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    name = os.fsdecode(b'\xff\xe4.png')
    try:
        Image.new('RGB', (9, 9)).save(folder / name, format='PNG')
    except OSError:
        pytest.skip('this file system wants UTF-8')
    run(folder, tmp_path / 'out.csv')
    assert read(tmp_path / 'out.csv')[1][0] == name


def test_links_are_followed_and_folders_that_cannot_be_used_named(folder, tmp_path):
    (tmp_path / 'empty' / '.git').mkdir(parents=True)
    (tmp_path / 'empty' / '.git' / 'x.png').touch()
    for unusable in (tmp_path / 'nowhere', folder / 'g.png', tmp_path / 'empty'):
        with pytest.raises(InputError, match=unusable.name):
            list_files(unusable)
    (folder / 'c' / 'back').symlink_to(folder)
    with pytest.raises(InputError, match=r'back is a link'):
        list_files(folder)
    (folder / 'c' / 'back').unlink()
    for here, there in (('c', 'z'), ('z', 'c')):  # a circle of two links
        (folder / here).mkdir(exist_ok=True)
        (folder / here / 'over').symlink_to(folder / there)
    with pytest.raises(InputError, match=r'is a link'):
        list_files(folder)
    for name in ('c', 'z'):
        (folder / name / 'over').unlink()
    (tmp_path / 'links').mkdir()
    (tmp_path / 'links' / 'k').symlink_to(folder / 'c')
    assert list_files(tmp_path / 'links') == ['k/d.JPG', 'k/e/f.png']
    (folder / 'carriage\rreturn.png').touch()
    with pytest.raises(InputError, match=r'carriage return'):
        list_files(folder)


def test_outputs_that_cannot_be(folder, tmp_path):
    for output in ('out.txt', 'out', 'missing/out.csv', 'images/out.csv'):
        with pytest.raises(InputError, match='--output'):
            run(folder, tmp_path / output)
