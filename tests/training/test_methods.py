"""Every row trains all its stages, in small, from data to results."""

import io
import json
import math

import numpy as np
import pytest
from rich.console import Console

from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS
from metriclt_jax.training import loop
from metriclt_jax.training.train import train

EPOCHS = 5


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


def make_config(method, data_dir):
    config = paper_config()
    config.method = method
    config.num_devices = 1
    config.data.name = 'digits_lt'
    config.data.data_dir = str(data_dir)
    config.data.fractions = (0.6, 0.1, 0.3)
    config.data.imbalance_ratio = 20.0
    config.data.resize = 12
    config.augment.crop = 8
    config.model.name = 'resnet18'
    config.model.options.update({'stage_sizes': (1,), 'width': 4, 'stem': 'small'})
    config.metric.supervised_contrastive.projection = (8, 4)
    config.metric.balanced_contrastive.projection = (8, 4)
    config.stage1.epochs = EPOCHS
    config.stage1.warmup_epochs = 1
    config.stage1.learning_rate = 0.1
    config.stage2.epochs = 1
    config.evaluation.every = EPOCHS
    config.figures = False
    return config


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_every_row_trains_all_its_stages(method, data_dir, tmp_path):
    results = train(make_config(method, data_dir), tmp_path / 'run', Console(file=io.StringIO()))
    stages = ['stage1'] if METHODS[method].second_stage is None else ['stage1', 'stage2']
    assert [stage['name'] for stage in results['stages']] == stages
    assert 0 < results['final']['mcr_all'] < 1
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    losses = [json.loads(line)['train']['loss'] for line in lines]
    assert all(map(math.isfinite, losses))
    assert min(losses[1:EPOCHS]) < losses[0]


@pytest.fixture
def updates(monkeypatch):
    """What each update of a run gets: (completed updates, loss inputs, batch)."""
    seen = []
    original = loop.make_train_step

    def make_train_step(*arguments):
        step = original(*arguments)

        def recorded(state, batch, inputs):
            seen.append((int(state.step), inputs, batch))
            return step(state, batch, inputs)

        return recorded

    monkeypatch.setattr(loop, 'make_train_step', make_train_step)
    return seen


@pytest.mark.slow
def test_deferred_weights_set_in_at_the_exact_step(data_dir, tmp_path, updates):
    config = make_config('ce_drw', data_dir)
    train(config, tmp_path / 'run', Console(file=io.StringIO()))
    counts = json.loads((tmp_path / 'run' / 'results.json').read_text())['train_counts']
    start = 4 * (sum(counts) // config.stage1.batch_size)  # 80 % of five epochs
    assert [step for step, *_ in updates] == list(range(start // 4 * 5))
    effective = (1 - 0.9999) / (1 - 0.9999 ** np.array(counts, np.float64))
    effective *= len(counts) / effective.sum()
    for step, inputs, _ in updates:
        expected = effective if step >= start else 1.0
        np.testing.assert_allclose(inputs.class_weights, expected, rtol=1e-5)


@pytest.mark.slow
def test_the_two_branches_of_bbn(data_dir, tmp_path, updates):
    config = make_config('bbn', data_dir)
    train(config, tmp_path / 'run', Console(file=io.StringIO()))
    counts = json.loads((tmp_path / 'run' / 'results.json').read_text())['train_counts']
    per_epoch = sum(counts) // config.stage1.batch_size
    assert len(updates) == EPOCHS * per_epoch
    for step, inputs, _ in updates:
        np.testing.assert_allclose(inputs.alpha, 1 - (step // per_epoch / EPOCHS) ** 2, rtol=1e-6)

    def frequencies(labels):
        return np.bincount(np.concatenate(labels), minlength=10) / np.size(labels)

    first = frequencies([np.ravel(batch['label']) for *_, batch in updates])
    second = frequencies([np.ravel(batch['second']['label']) for *_, batch in updates])
    reverse = 1 / np.array(counts)
    np.testing.assert_allclose(first, np.array(counts) / sum(counts), atol=0.01)
    np.testing.assert_allclose(second, reverse / reverse.sum(), atol=0.03)


@pytest.mark.slow
def test_a_run_goes_on_with_the_images_that_it_began_with_or_not_at_all(data_dir, tmp_path):
    config = make_config('ce', data_dir)
    config.stage1.epochs = 2
    workdir = tmp_path / 'run'
    train(config, workdir, Console(file=io.StringIO()))
    (workdir / 'results.json').unlink()
    before = {path.name: path.read_bytes() for path in workdir.glob('*.json*')}
    other = before['data.json'].replace(b'"sha256": "', b'"sha256": "0')
    (workdir / 'data.json').write_bytes(other)
    with pytest.raises(InputError, match=r'digits_lt in .* are not those that the run in .* began'):
        train(config, workdir, Console(file=io.StringIO()))
    after = {path.name: path.read_bytes() for path in workdir.glob('*.json*')}
    assert after == before | {'data.json': other}
    (workdir / 'data.json').write_bytes(before['data.json'])
    train(config, workdir, Console(file=io.StringIO()))
