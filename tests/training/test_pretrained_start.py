"""Stage 1 starts from the weights of a file, and a run that goes on does not need the file."""

import hashlib
import io
import json
import shutil

import jax
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file

import metriclt_jax
from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.pretrained import Pretrained, load_torchvision, save, to_torchvision
from metriclt_jax.training.setup import load_pretrained, make_run
from metriclt_jax.training.train import train

OPTIONS = {'stage_sizes': (1,), 'width': 8}


def quiet():
    return Console(file=io.StringIO())


@pytest.fixture(scope='module')
def arrays():
    variables = initialize(create_model('resnet18', 1000, **OPTIONS), 1)
    generator = np.random.default_rng(2)
    return {
        key: np.ascontiguousarray(array * generator.uniform(0.5, 1.5, array.shape), np.float32)
        for key, array in to_torchvision(variables, 'resnet18').items()
    }


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.fixture
def file(tmp_path, arrays):
    path = tmp_path / 'weights.safetensors'
    save_file(arrays, path)
    return path


@pytest.fixture
def config(data_dir, file):
    config = paper_config()
    config.method = 'ce_sc_crw'
    config.num_devices = 1
    config.data.name = 'digits_lt'
    config.data.data_dir = str(data_dir)
    config.data.fractions = (0.6, 0.1, 0.3)
    config.data.imbalance_ratio = 20.0
    config.data.resize = 20
    config.augment.crop = 16
    config.model.name = 'resnet18'
    config.model.pretrained = str(file)
    config.model.options.stage_sizes = OPTIONS['stage_sizes']
    config.model.options.width = OPTIONS['width']
    config.metric.supervised_contrastive.projection = (16, 8)
    for stage in (config.stage1, config.stage2):
        stage.epochs = 1
        stage.warmup_epochs = 0
        stage.learning_rate = 0.0
        stage.final_learning_rate = 0.0
    config.figures = False
    return config.lock()


def test_step_0_has_the_backbone_of_the_file_and_all_else_random(config, arrays, tmp_path):
    run = make_run(config, tmp_path / 'run', quiet())
    stage = run.stages[0]
    state = run.initial_state(stage, load_pretrained(config).variables)
    expected = load_torchvision(arrays, 'resnet18', options=OPTIONS)
    jax.tree.map(
        np.testing.assert_array_equal, state.params['backbone'], expected['params']['backbone']
    )
    jax.tree.map(np.testing.assert_array_equal, state.batch_stats, expected['batch_stats'])
    random = run.initial_state(stage)
    assert state.params.keys() == {'backbone', 'head', 'projection'}
    for name in ('head', 'projection'):
        jax.tree.map(np.testing.assert_array_equal, state.params[name], random.params[name])
    assert state.params['head']['kernel'].shape == (8, 10)
    kernels = (s.params['backbone']['conv1']['kernel'] for s in (state, random))
    assert np.all(next(kernels) != next(kernels))
    assert not (tmp_path / 'run').exists()


def test_both_branches_start_from_the_last_block_of_the_file(config, arrays, tmp_path):
    with config.unlocked():
        config.method = 'bbn'
    run = make_run(config, tmp_path / 'run', quiet())
    variables = run.initial_state(run.stages[0], load_pretrained(config).variables).variables
    expected = load_torchvision(arrays, 'resnet18', options=OPTIONS)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    one = create_model('resnet18', 1000, **OPTIONS).apply(expected, images).features
    two = run.models['stage1'].apply(variables, images).features
    np.testing.assert_array_equal(two, np.concatenate([one, one], axis=1))


@pytest.mark.slow
def test_a_run_trains_from_the_file_and_goes_on_without_it(config, arrays, file, tmp_path):
    workdir, console = tmp_path / 'run', quiet()
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    results = train(config, workdir, console)
    assert results['pretrained'] == {'file': file.name, 'sha256': sha256}
    assert f'{file.name} (SHA-256 {sha256[:8]}' in console.file.getvalue()

    # At a learning rate of zero the parameters of the file are those of the trained classifier.
    file.unlink()
    expected = load_torchvision(arrays, 'resnet18', options=OPTIONS)['params']['backbone']
    trained = metriclt_jax.load(workdir)
    jax.tree.map(np.testing.assert_array_equal, trained.variables['params']['backbone'], expected)
    assert trained.predict(np.zeros((1, 20, 20, 3), np.uint8)).shape == (1, 10)

    # As if it had been killed after stage 1.
    (workdir / 'results.json').unlink()
    shutil.rmtree(workdir / 'checkpoints' / 'stage2')
    again, console = train(config, workdir, quiet()), console
    assert {**again, 'seconds': None} == {**results, 'seconds': None}

    # Nothing of stage 1 is left: the file is needed again.
    (workdir / 'results.json').unlink()
    shutil.rmtree(workdir / 'checkpoints')
    with pytest.raises(InputError, match=r'config field model.pretrained: .*weights.safetensors'):
        train(config, workdir, quiet())
    assert not (workdir / 'checkpoints').exists()


@pytest.mark.slow
def test_an_imported_directory_gives_the_same_run(config, arrays, tmp_path):
    results = train(config, tmp_path / 'file', quiet())
    variables = load_torchvision(arrays, 'resnet18', options=OPTIONS)
    record = results['pretrained']
    save(tmp_path / 'imported', 'resnet18', Pretrained(variables, **record))
    config.model.pretrained = str(tmp_path / 'imported')
    again = train(config, tmp_path / 'directory', quiet())
    assert {**again, 'seconds': None} == {**results, 'seconds': None}
    metrics = [tmp_path / name / 'metrics.jsonl' for name in ('file', 'directory')]
    assert metrics[0].read_bytes() == metrics[1].read_bytes()
    assert json.loads((tmp_path / 'directory' / 'results.json').read_text())['pretrained'] == record


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'pretrained': 'nowhere.safetensors'}, 'nowhere.safetensors'),
        ({'name': 'resnet50'}, ' missing'),
        ({'options': {'width': 4}}, '15 mis-shaped'),
        ({'options': {'stem': 'small'}}, r'1 mis-shaped \(conv1.weight \(8, 3, 7, 7\) instead'),
        ({'pretrained': '/'}, 'holds no weights'),
    ],
)
def test_weights_that_do_not_fit_are_refused_before_anything_is_written(
    config, tmp_path, change, words
):
    config.model.update(change)
    config.data.data_dir = str(tmp_path / 'data')
    with pytest.raises(InputError, match=f'config field model.pretrained: .*{words}'):
        train(config, tmp_path / 'run', quiet())
    assert not (tmp_path / 'run').exists()
    assert not (tmp_path / 'data').exists()  # nothing was decoded either


def test_without_a_file_there_are_no_pretrained_weights(config, tmp_path):
    config.model.pretrained = ''
    assert load_pretrained(config) is None
