"""The command as a user meets it: exit codes, one sentence a mistake, nothing left behind."""

import functools
import json
import os
import re
import resource
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import assert_refused, call
from PIL import Image

import metriclt_jax
from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.training.workdir import claim

ROOT = Path(__file__).parents[2]
DIGITS = f'{ROOT}/configs/digits_lt.py'
SMALL = [
    '--config.model.options.stage_sizes=(1,)',
    '--config.model.options.width=8',
    '--config.stage1.epochs=6',
    '--config.stage2.epochs=2',
]


def stop_reading():
    """Leaves stdout a pipe that nobody reads any more, as `| head` does."""
    read, write = os.pipe()
    os.close(read)
    os.dup2(write, 1)


@pytest.mark.slow
def test_a_closed_pipe_ends_no_run(tmp_path):
    fields = [*SMALL, '--config.stage1.epochs=1', '--config.stage1.warmup_epochs=0']
    places = f'--config.data.data_dir={tmp_path}/data', f'--workdir={tmp_path}/run'
    flags = f'--config={DIGITS}:ce', *places, *fields, '--config.figures=False'
    result = call('train', *flags, before=stop_reading)
    assert result.returncode == 0
    assert 'Traceback' not in result.stderr
    assert (tmp_path / 'run' / 'results.json').exists()


@pytest.mark.slow
def test_a_loss_that_explodes_but_stays_finite_ends_the_run(tmp_path):
    fields = [*SMALL, '--config.stage1.epochs=2', '--config.stage1.warmup_epochs=0']
    places = f'--config.data.data_dir={tmp_path}/data', f'--workdir={tmp_path}/run'
    flags = f'--config={DIGITS}:ce', *places, *fields, '--config.figures=False'
    result = call('train', *flags, '--config.stage1.learning_rate=1000')
    assert result.returncode == 3
    assert 'lower stage1.learning_rate (now 1000.0)' in result.stderr
    assert 'Traceback' not in result.stderr
    assert not (tmp_path / 'run' / 'results.json').exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ([f'--config={DIGITS}:ce', '--config.stage1.epoch=3'], ['stage1.epoch', '"epochs"']),
        ([f'--config={DIGITS}:ce', '--config.stage1.lr=3'], ['stage1.lr=3', 'no field lr']),
        ([f'--config={DIGITS}:ce', '--config.stage1.epochs=many'], ['epochs', 'many']),
        ([f'--config={DIGITS}:ce_sc_crww'], ["error: method 'ce_sc_crww'", 'ce_sc_crw']),
        ([f'--config={DIGITS}:ce,scale=galaxy'], ["'galaxy'", 'paper']),
        ([f'--config={ROOT}/configs/nothing.py:ce'], ['nothing.py']),
        ([], ['--config is missing']),
        ([f'--config={DIGITS}:ce', '--colour=red'], ['colour']),
        ([f'--config={DIGITS}:ce', 'stray'], ['stray']),
        ([f'--config={DIGITS}:ce', '--config.data.name=skin8'], ['skin8']),
        ([f'--config={DIGITS}:ce', '--config.num_devices=3'], ['num_devices', '3']),
        ([f'--config={DIGITS}:ce', '--config.augment.crop=99'], ['crop', '99']),
        ([f'--config={DIGITS}:ce', '--config.model.name=resnet19'], ['resnet19', 'resnet18']),
        ([f'--config={DIGITS}:ce', '--config.stage1.batch_size=100000'], ['batch_size']),
    ],
)
def test_mistakes_are_one_sentence_and_leave_nothing(tmp_path, flags, words):
    workdir = tmp_path / 'run'
    data_dir = [f'--config.data.data_dir={tmp_path}/data'] if flags else []
    process = call('train', *flags, *data_dir, f'--workdir={workdir}')
    assert_refused(process, *words)
    assert not workdir.exists()


@pytest.mark.slow
def test_help_names_the_flags_of_the_command():
    process = call('train', '--help')
    assert process.returncode == 0
    assert '--workdir' in process.stdout
    assert '--verbosity' not in process.stdout


@pytest.mark.slow
def test_an_unprepared_data_set_names_the_command(tmp_path):
    flags = [f'--config={ROOT}/configs/skin7.py:ce,scale=cpu', f'--config.data.data_dir={tmp_path}']
    process = call('train', *flags, f'--workdir={tmp_path}/run')
    assert_refused(process, 'skin7', 'metriclt-prepare-data --dataset=skin7')
    assert not (tmp_path / 'run').exists()


@pytest.mark.slow
def test_a_work_directory_that_another_process_uses(tmp_path):
    places = f'--config.data.data_dir={tmp_path}/data', f'--workdir={tmp_path}/run'
    (tmp_path / 'run').mkdir()
    with locked(tmp_path / 'run' / '.lock'):
        result = call('train', f'--config={DIGITS}:ce', *places, *SMALL)
    assert_refused(result, 'another process is training in')


@pytest.mark.slow
def test_devices_that_do_not_divide_the_batch(tmp_path):
    process = call('train', f'--config={DIGITS}:ce', f'--workdir={tmp_path}/run', devices=3)
    assert_refused(process, 'stage1.batch_size is 32', '3 devices')


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A run through the command, from unprepared data to results."""
    folder = tmp_path_factory.mktemp('command')
    flags = [f'--config={DIGITS}:ce_sc_crw', f'--config.data.data_dir={folder}/data', *SMALL]
    process = call('train', *flags, f'--workdir={folder}/run')
    assert process.returncode == 0, process.stderr
    return folder, flags, process


@pytest.mark.slow
def test_a_run_writes_what_the_readme_says(trained):
    folder, _, process = trained
    results = json.loads((folder / 'run' / 'results.json').read_text())
    assert {path.name for path in (folder / 'run').iterdir()} == {
        '.lock',
        'checkpoints',
        'config.json',
        'data.json',
        'figures',
        'metrics.jsonl',
        'predictions.npz',
        'results.json',
        'seen_images.npz',
        'timing.jsonl',
    }
    assert {path.name for path in (folder / 'run' / 'figures').iterdir()} == {
        'confusion_matrices.png',
        'features.png',
        'training_curves.png',
    }
    assert (results['dataset'], results['method'], results['seed']) == ('digits_lt', 'ce_sc_crw', 0)
    assert [stage['name'] for stage in results['stages']] == ['stage1', 'stage2']
    final = results['final']
    assert final == results['stages'][1]['last']['test']
    confusion = np.array(final['confusion'])
    recalls = confusion.diagonal() / confusion.sum(axis=1)
    assert final['mcr_all'] == pytest.approx(recalls.mean())
    with np.load(folder / 'run' / 'predictions.npz', allow_pickle=False) as predictions:
        predicted = predictions['probabilities'].argmax(axis=1)
        pairs = np.stack([predictions['labels'], predicted], axis=1).tolist()
        assert confusion.tolist() == [[pairs.count([i, j]) for j in range(10)] for i in range(10)]
        assert len(set(predictions['ids'].tolist())) == len(predicted)
        assert predictions['features'].shape == (len(predicted), 8)
        assert predictions['features'].dtype == np.float16
    assert final['mcr_major'] == pytest.approx(recalls[results['groups']['major']].mean())
    assert final['mcr_minor'] == pytest.approx(recalls[results['groups']['minor']].mean())
    assert results['groups'] == {'major': [0, 1, 2], 'minor': [7, 8, 9]}
    for stage in results['stages']:
        assert stage['best']['validation']['mcr_all'] >= stage['last']['validation']['mcr_all']
    assert f'{100 * final["mcr_all"]:.2f}' in process.stdout
    (line,) = [line for line in process.stdout.splitlines() if line.startswith('stage1 6/6')]
    assert re.search(r' \d+ images/s  0 s left$', line)
    assert max(map(len, process.stdout.splitlines())) <= 80 + len(str(folder))
    lines = [
        json.loads(text) for text in (folder / 'run' / 'metrics.jsonl').read_text().splitlines()
    ]
    assert [(line['stage'], line['epoch']) for line in lines] == [
        *(('stage1', epoch) for epoch in range(1, 7)),
        ('stage2', 1),
        ('stage2', 2),
    ]
    timing = [
        json.loads(text) for text in (folder / 'run' / 'timing.jsonl').read_text().splitlines()
    ]
    assert all(0 <= line['input_wait_share'] <= 1 for line in timing)


def limit_files(size):
    """Makes a longer file an error for this process, as a full disk does."""
    os.environ['JAX_COMPILATION_CACHE_DIR'] = ''
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_the_run_resumes(trained, tmp_path):
    folder, flags, _ = trained
    flags = [*flags, f'--workdir={tmp_path}/run']
    for size, file in ((3_000, 'config.json'), (20_000, 'checkpoints/stage1')):
        result = call('train', *flags, before=functools.partial(limit_files, size))
        assert_refused(result, f'{tmp_path}/run/{file}', 'File too large')
    assert call('train', *flags).returncode == 0
    logs = [path / 'run' / 'metrics.jsonl' for path in (tmp_path, folder)]
    assert logs[0].read_text() == logs[1].read_text()


@pytest.mark.slow
def test_evaluate_repeats_the_numbers_of_the_run(trained, tmp_path):
    folder, _, _ = trained
    results = json.loads((folder / 'run' / 'results.json').read_text())
    output = tmp_path / 'metrics.json'
    process = call('evaluate', f'--workdir={folder}/run', f'--output={output}')
    assert process.returncode == 0, process.stderr
    assert json.loads(output.read_text()) == results['final']
    best = ['--stage=stage1', '--checkpoint=best', '--part=validation']
    process = call('evaluate', f'--workdir={folder}/run', f'--output={output}', *best)
    assert process.returncode == 0, process.stderr
    assert json.loads(output.read_text()) == results['stages'][0]['best']['validation']


@pytest.mark.slow
def test_another_config_may_not_use_the_work_directory(trained):
    folder, flags, _ = trained
    before = (folder / 'run' / 'results.json').read_bytes()
    process = call('train', *flags, '--config.seed=1', f'--workdir={folder}/run')
    assert_refused(process, 'seed was 0 and is now 1')
    assert (folder / 'run' / 'results.json').read_bytes() == before


@pytest.mark.slow
def test_load_gives_the_classifier_that_was_evaluated(trained):
    folder, _, _ = trained
    from metriclt_jax.data import load_dataset
    from metriclt_jax.training.workdir import read_config

    results = json.loads((folder / 'run' / 'results.json').read_text())
    classifier = metriclt_jax.load(folder / 'run')
    assert list(classifier.class_names) == results['class_names']
    dataset = load_dataset(read_config(folder / 'run').data)
    test = dataset.parts['test']
    images = dataset.images.read(test)
    probabilities = classifier.predict(images)
    assert probabilities.shape == (len(test), 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    correct = probabilities.argmax(axis=1) == dataset.labels[test]
    assert correct.mean() == pytest.approx(results['final']['accuracy'])
    assert classifier.features(images[:3]).shape == (3, 8)
    np.testing.assert_allclose(classifier.predict(list(images[:1])), probabilities[:1], rtol=1e-5)
    with pytest.raises(InputError, match=r'predict\(\[image\]\)'):
        classifier.predict('lesion.jpg')
    with pytest.raises(InputError, match=r'predict\(\[image\]\)'):
        classifier.predict(images[0])
    mixed = [images[0], Image.fromarray(images[1]), Image.new('RGB', (31, 17))]
    np.testing.assert_allclose(classifier.predict(mixed)[:2], probabilities[:2], rtol=1e-5)
    with pytest.raises(InputError, match=r'empty'):
        classifier.predict([])
    with pytest.raises(InputError, match=r'image lesion.jpg cannot be read'):
        classifier.predict(['lesion.jpg'])
    with pytest.raises(InputError, match=r'float64'):
        classifier.predict(np.zeros((1, 8, 8, 3)))


def test_load_needs_a_finished_run(tmp_path):
    with pytest.raises(InputError, match=r'not a work directory'):
        metriclt_jax.load(tmp_path)
    with claim(tmp_path, paper_config()):
        pass
    with pytest.raises(InputError, match=r'no results.json'):
        metriclt_jax.load(tmp_path)


@pytest.mark.slow
def test_stage_2_left_the_backbone_of_the_run_bitwise_alone(trained):
    from metriclt_jax.training.checkpoints import restore_variables

    folder, devices = trained[0] / 'run' / 'checkpoints', jax.devices()[:1]
    first, second = (
        restore_variables(folder / name, 'last', devices) for name in ('stage1', 'stage2')
    )

    def bits(tree):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]

    for name in ('backbone', 'projection'):
        assert bits(first['params'][name]) == bits(second['params'][name])
    assert bits(first['batch_stats']) == bits(second['batch_stats'])
    assert all(
        a != b
        for a, b in zip(bits(first['params']['head']), bits(second['params']['head']), strict=True)
    )
