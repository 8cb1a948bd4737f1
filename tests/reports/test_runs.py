"""What is read of work directories, and what is said about those that cannot be used."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.reports.runs import read_features, read_runs


def test_runs_are_found_at_any_depth(tmp_path, make_run):
    written = make_run('a/deep/er', 'ce_crw', 1, right=0.8)
    make_run('b', 'ce', 0)
    (tmp_path / 'runs/b/checkpoints/results.json').parent.mkdir()
    (tmp_path / 'runs/b/checkpoints/results.json').write_text('no run of its own')
    runs, problems = read_runs(tmp_path / 'runs')
    assert problems == []
    assert [(run.path, run.results['method']) for run in runs] == [
        ('a/deep/er', 'ce_crw'),
        ('b', 'ce'),
    ]
    run = runs[0]
    assert run.results == written
    assert run.config['stage1.epochs'] == 100
    assert [line['epoch'] for line in run.epochs] == [1, 2] * 2
    assert run.predictions.ids[:2].tolist() == ['image0', 'image1']
    right = run.predictions.probabilities.argmax(1) == run.predictions.labels
    assert np.mean(right) == pytest.approx(written['final']['accuracy'])
    assert read_features(run.directory, 177).shape == (177, 8)
    save(run.directory / 'predictions.npz', features=np.zeros((3, 8), np.float16))
    assert read_features(run.directory, 177) is None


def test_a_folder_of_results_alone_is_enough(tmp_path, make_run):
    make_run('run', 'ce', predictions=False)
    (tmp_path / 'runs/run/config.json').unlink()
    (tmp_path / 'runs/run/metrics.jsonl').unlink()
    (run,), problems = read_runs(tmp_path / 'runs')
    assert (run.config, run.epochs, run.predictions) == (None, [], None)
    names = [what.split(';')[0] for _, what in problems]
    assert names == ['no metrics.jsonl', 'no predictions.npz']


def test_a_config_of_another_version(tmp_path, make_run):
    make_run('run', 'ce')
    path = tmp_path / 'runs/run/config.json'
    config = json.loads(path.read_text())
    del config['metric']['balanced_contrastive'], config['stage1']['nesterov']
    path.write_text(json.dumps(config | {'unheard_of': 1}))
    (run,), problems = read_runs(tmp_path / 'runs')
    assert problems == []
    assert run.config['stage1.nesterov'] is False  # the default
    assert run.config['unheard_of'] == 1


def set_both(results, **values):
    """Sets metrics of the last stage and of the final result alike."""
    results['final'].update(values)
    results['stages'][-1]['last']['test'].update(values)


BROKEN = {
    'groups': lambda r: r.pop('groups'),
    'method None': lambda r: r.update(method=None),
    'seed': lambda r: r.update(seed='0'),
    'train_counts': lambda r: r['train_counts'].pop(),
    'name twice': lambda r: r.update(class_names=['a'] * 7),
    'no classifier': lambda r: r.update(final=None),
    'mcr_all 0.99': lambda r: set_both(r, mcr_all=0.99),
    'last stage': lambda r: r['final'].update(accuracy=0.1),
    'accuracy 2': lambda r: set_both(r, accuracy=2),
    '7 x 7': lambda r: set_both(r, confusion=[[1]]),
    'config.json': lambda r: r.update(method='rs'),
}


@pytest.mark.parametrize('what', BROKEN)
def test_results_that_contradict_themselves_are_left_out_and_listed(tmp_path, make_run, what):
    make_run('good', 'ce')
    make_run('broken', 'ce')
    path = tmp_path / 'runs/broken/results.json'
    results = json.loads(path.read_text())
    BROKEN[what](results)
    path.write_text(json.dumps(results))
    (run,), (problem,) = read_runs(tmp_path / 'runs')
    assert (run.path, problem[0]) == ('good', 'broken')
    assert what in problem[1]


@pytest.mark.parametrize('name', ['results.json', 'config.json'])
@pytest.mark.parametrize('text', ['', '{"dataset": ', '[]', '\xff', '{"learning_rate": 0.1}'])
def test_files_of_another_program(tmp_path, make_run, name, text):
    make_run('run', 'ce')
    (tmp_path / 'runs/run' / name).write_bytes(text.encode('latin-1'))
    runs, (problem,) = read_runs(tmp_path / 'runs')
    assert runs == []
    assert name in problem[1]


def save(path, **arrays):
    with np.load(path, allow_pickle=False) as found:
        content = dict(found) | arrays
    np.savez(path, **content)


BAD_PREDICTIONS = {
    'BadZipFile': lambda path: path.write_bytes(path.read_bytes()[:-100]),
    'ValueError': lambda path: save(path, ids=np.array([{}], dtype=object)),
    'shapes': lambda path: save(path, ids=np.array(['a'])),
    'out of range': lambda path: save(path, labels=np.full(177, 7, np.int32)),
    'confusion': lambda path: save(path, probabilities=np.full((177, 7), 1 / 7, np.float32)),
}


@pytest.mark.parametrize('what', BAD_PREDICTIONS)
def test_bad_predictions_leave_the_results(tmp_path, make_run, what):
    make_run('run', 'ce')
    BAD_PREDICTIONS[what](tmp_path / 'runs/run/predictions.npz')
    (run,), (problem,) = read_runs(tmp_path / 'runs')
    assert run.predictions is None
    assert 'predictions.npz' in problem[1]
    assert what in problem[1]


def test_a_torn_line_of_metrics_and_an_unfinished_run_are_said(tmp_path, make_run):
    make_run('run', 'ce')
    with (tmp_path / 'runs/run/metrics.jsonl').open('a') as file:
        file.write('{"stage": "sta')
    (run,), (problem,) = read_runs(tmp_path / 'runs')
    assert len(run.epochs) == 2
    assert 'line 3' in problem[1]
    (tmp_path / 'runs/run/results.json').unlink()
    runs, (problem,) = read_runs(tmp_path / 'runs')
    assert runs == []
    assert problem[0] == 'run'
    assert '2 epochs' in problem[1]


def test_there_must_be_a_folder(tmp_path):
    with pytest.raises(InputError, match='nothing'):
        read_runs(tmp_path / 'nothing')


def test_a_folder_that_cannot_be_read_is_said(tmp_path, make_run, monkeypatch):
    make_run('good', 'ce')
    make_run('secret/run', 'ce')
    scandir = os.scandir

    def denied(path):
        if Path(path).name == 'secret':
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    monkeypatch.setattr(os, 'scandir', denied)
    (run,), problems = read_runs(tmp_path / 'runs')
    assert run.path == 'good'
    assert problems == [('secret', 'cannot be read: Permission denied')]
