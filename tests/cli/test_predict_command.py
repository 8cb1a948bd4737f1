"""predict and evaluate on images from elsewhere, as a user meets them."""

import csv
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import ROOT, Command, assert_refused, call, succeed

SMALL = [
    f'--config={ROOT}/configs/digits_lt.py:ce_crw',
    '--config.model.options.stage_sizes=(1,)',
    '--config.model.options.width=8',
    '--config.stage1.epochs=2',
    '--config.stage1.warmup_epochs=0',
    '--config.stage2.epochs=1',
    '--config.figures=False',
]
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A finished run, and the files of its test images in a folder a class."""
    folder = tmp_path_factory.mktemp('predict')
    flags = [*SMALL, f'--config.data.data_dir={folder}/data', f'--workdir={folder}/run']
    succeed('train', *flags)
    from metriclt_jax.data.records import open_records

    records = open_records('digits_lt', str(folder / 'data'))
    examples = {example.image_id: example for example in records.read(range(len(records)))}
    for name in trained_predictions(folder)['ids']:
        path = folder / 'images' / str(examples[name].label) / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(examples[name].image)
    return folder


def trained_predictions(folder):
    """What the training wrote down for the test part."""
    with np.load(folder / 'run' / 'predictions.npz', allow_pickle=False) as file:
        return dict(file)


def results_of(folder):
    return json.loads((folder / 'run' / 'results.json').read_text())


def predict_flags(folder, output, **changes):
    flags = {'workdir': folder / 'run', 'images': folder / 'images', 'output': output, **changes}
    return [f'--{name}={value}' for name, value in flags.items()]


def test_the_probabilities_are_those_of_the_evaluation(folder, tmp_path):
    process = call(
        'predict', *predict_flags(folder, tmp_path / 'out.csv', batch_size=50), devices=3
    )
    assert (process.returncode, process.stderr) == (0, '')
    expected = trained_predictions(folder)
    with (tmp_path / 'out.csv').open(newline='') as file:
        header, *rows = csv.reader(file)
    assert header == ['image', 'predicted', *results_of(folder)['class_names']]
    found = {Path(row[0]).stem: np.array(row[2:], float) for row in rows}
    assert sorted(found) == sorted(expected['ids'])
    np.testing.assert_allclose(
        [found[name] for name in expected['ids']], expected['probabilities'], rtol=2e-6
    )
    assert process.stdout == f'{tmp_path}/out.csv has {len(found)} images\n'


def test_killed_and_started_again(folder, tmp_path):
    flags = predict_flags(folder, tmp_path / 'out.csv', batch_size=7)
    command = Command('predict', *flags)
    partial = tmp_path / 'out.partial.csv'
    while not partial.exists() or partial.read_bytes().count(b'\n') < 20:
        assert command.process.is_alive()
        time.sleep(0.001)
    command.process.kill()
    command.finish()
    rows = partial.read_bytes()
    assert not (tmp_path / 'out.csv').exists()

    done = rows.count(b'\n') - 1
    assert f'resuming after {done} of' in succeed('predict', *flags)
    complete = (tmp_path / 'out.csv').read_bytes()
    assert complete.startswith(rows[: rows.rfind(b'\n') + 1])
    succeed('predict', *predict_flags(folder, tmp_path / 'undisturbed.csv', batch_size=7))
    assert complete == (tmp_path / 'undisturbed.csv').read_bytes()


def test_mistakes_are_one_sentence(folder, tmp_path):
    (tmp_path / 'unfinished').mkdir()
    shutil.copy(folder / 'run' / 'config.json', tmp_path / 'unfinished')
    (tmp_path / 'images').mkdir()
    shutil.copy(folder / 'run' / 'config.json', tmp_path / 'images' / 'notes.txt')
    before = sorted(tmp_path.rglob('*'))
    for flag, value, word in (
        ('workdir', 'unfinished', 'results.json'),
        ('images', 'images', 'notes.txt'),
        ('output', 'nowhere/out.csv', '--output'),
        ('config', 'nowhere.py:ce', 'nowhere.py'),
    ):
        given = {'output': tmp_path / 'out.csv', flag: tmp_path / value}
        assert_refused(call('predict', *predict_flags(folder, **given)), word)
    assert sorted(tmp_path.rglob('*')) == before


def test_evaluate_writes_the_predictions_of_the_training(folder, tmp_path):
    written, output = tmp_path / 'predictions.npz', tmp_path / 'own.json'
    # The run's own set by its name is no other set: without the images it was trained on.
    flags = [f'--workdir={folder}/run', '--dataset=digits_lt', f'--output={output}']
    succeed('evaluate', *flags, f'--predictions={written}')
    assert written.read_bytes() == (folder / 'run' / 'predictions.npz').read_bytes()
    assert json.loads(output.read_text()) == results_of(folder)['final']
    assert 'includes the images that the run' in succeed('evaluate', *flags, '--part=all')


@pytest.fixture(scope='module')
def elsewhere(folder):
    """The test images as data sets of their own: the same classes in another order, and fewer."""
    prepare = ['--dataset=folder', f'--data_dir={folder}/elsewhere']
    ten, nine = folder / 'images', folder / 'nine'
    shutil.copytree(ten, nine, ignore=shutil.ignore_patterns('9'))
    for name, source, classes in (
        ('mine', ten, '9,0,8,1,7,2,6,3,5,4'),
        ('nine', nine, '0,1,2,3,4,5,6,7,8'),
    ):
        flags = [f'--name={name}', f'--source={source}', f'--classes={classes}']
        succeed('prepare_data', *prepare, *flags)
    return folder / 'elsewhere'


def test_evaluate_on_another_data_set_with_the_same_classes(folder, elsewhere, tmp_path):
    flags = [f'--workdir={folder}/run', f'--data_dir={elsewhere}', '--dataset=mine']
    outputs = [f'--output={tmp_path}/out.json', f'--predictions={tmp_path}/out.npz']
    assert 'mine all, stage2 last' in succeed('evaluate', *flags, *outputs)
    results = results_of(folder)
    found = json.loads((tmp_path / 'out.json').read_text())
    assert found.pop('confusion') == results['final'].pop('confusion')
    assert found == pytest.approx(results['final'])
    expected = trained_predictions(folder)
    place = {name: number for number, name in enumerate(expected['ids'])}
    with np.load(tmp_path / 'out.npz', allow_pickle=False) as file:
        order = [place[Path(name).stem] for name in file['ids']]
        assert sorted(order) == list(range(len(place)))
        np.testing.assert_array_equal(file['labels'], expected['labels'][order])
        np.testing.assert_allclose(
            file['probabilities'], expected['probabilities'][order], rtol=2e-6
        )

    succeed('evaluate', *flags[:2], '--dataset=nine', outputs[0])
    found = json.loads((tmp_path / 'out.json').read_text())
    assert [sum(row) > 0 for row in found['confusion']] == [True] * 9 + [False]
    assert_refused(call('evaluate', *flags[:2], '--dataset=other'), 'other is not prepared')
    missing = f'--predictions={tmp_path}/nowhere/out.npz'
    assert_refused(call('evaluate', *flags, missing), '--predictions is', 'a folder that exists')

    shown = succeed('evaluate', *flags, '--part=test', '--split=paper')
    assert 'mine test, stage2 last' in shown
    refused = call('evaluate', *flags, '--part=test', '--split=grouped')
    assert_refused(refused, 'grouped', 'mine has no groups')
    for own in ([flags[0]], [*flags, '--part=all']):
        assert_refused(call('evaluate', *own, '--split=grouped'), '--split', '--part')


def test_evaluate_refuses_other_images_under_the_name_of_the_run_s_own(folder, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(folder / 'run', run)
    known = json.loads((run / 'data.json').read_text())
    (run / 'data.json').write_text(json.dumps({'sha256': known['sha256'][::-1]}))
    refused = call('evaluate', f'--workdir={run}', f'--output={tmp_path}/out.json')
    assert_refused(refused, 'digits_lt', '--part=all')
    assert not (tmp_path / 'out.json').exists()
    succeed('evaluate', f'--workdir={run}', '--part=all')


def test_a_method_that_a_config_file_adds(folder, tmp_path):
    run = tmp_path / 'run'
    shutil.copytree(folder / 'run', run)
    text = (run / 'config.json').read_text()
    (run / 'config.json').write_text(text.replace('"ce_crw"', '"my_row"'))
    config = tmp_path / 'mine.py'
    config.write_text(
        'from metriclt_jax.methods import METHODS\n\nMETHODS["my_row"] = METHODS["ce_crw"]\n'
    )
    with_config = [f'--workdir={run}', f'--config={config}:my_row']
    assert_refused(call('evaluate', *with_config[:1]), 'my_row', '--config=FILE')
    succeed('evaluate', *with_config, f'--output={tmp_path}/out.json')
    assert json.loads((tmp_path / 'out.json').read_text()) == results_of(folder)['final']
    images = [f'--images={folder}/images/3', f'--output={tmp_path}/out.csv']
    assert_refused(call('predict', *with_config[:1], *images), 'my_row', '--config=FILE')
    script = [sys.executable, ROOT / 'scripts' / 'predict.py', *with_config, *images]
    process = subprocess.run(script, capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, '')
