"""The benchmark command: what it writes, how it takes turns, one sentence a mistake."""

import importlib.util
import json
import subprocess
import sys

import pytest
from commands import ROOT, assert_refused, call, succeed

from metriclt_jax import config

TINY = ['--models=resnet18', '--sizes=32', '--batches=2', '--repeats=2', '--sample_seconds=0.01']


def with_tiny_models(paper_config=config.paper_config):
    """Has the measured models one block, four channels wide."""

    def tiny_config():
        tiny = paper_config()
        tiny.model.options.update(stage_sizes=(1,), width=4)
        return tiny

    config.paper_config = tiny_config


def measured(tmp_path, *flags):
    output = tmp_path / 'speed.json'
    succeed('benchmark', *TINY, *flags, f'--output={output}', before=with_tiny_models)
    document = json.loads(output.read_text())
    assert {'date', 'machine', 'versions', 'results'} == set(document)
    assert document['machine']['platform'] == 'cpu'
    for result in document['results']:
        for seconds in result['samples'].values():
            assert len(seconds) == 2
            assert min(seconds) > 0
    return document['results']


@pytest.mark.slow
def test_steps_and_input_are_measured(tmp_path):
    digits = [f'--config={ROOT}/configs/digits_lt.py:ce', f'--config.data.data_dir={tmp_path}']
    small = ['--config.model.options.stage_sizes=(1,)', '--config.model.options.width=4']
    train, forward, batches, with_input = measured(tmp_path, *digits, *small)
    for result, what in ((train, 'train'), (forward, 'forward')):
        assert (result['what'], result['model']) == (what, 'resnet18')
        assert (result['size'], result['batch']) == (32, 2)
        assert list(result['samples']) == ['ours']
        assert result['compile_seconds'] > 0
    assert list(batches['samples']) == ['pipeline', 'copy']
    assert list(with_input['samples']) == ['real input', 'one batch']
    assert (with_input['size'], with_input['batch']) == (16, 32)
    assert 0 <= with_input['input_wait_share'] < 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('torchvision'), reason='needs torchvision')
def test_pytorch_takes_turns(tmp_path):
    for result in measured(tmp_path, '--compare_torch'):
        assert list(result['samples']) == ['ours', 'PyTorch default', 'PyTorch channels_last']


@pytest.mark.slow
def test_the_script_starts():
    process = subprocess.run(
        [sys.executable, ROOT / 'scripts/benchmark.py', '--what=input'],
        capture_output=True,
        text=True,
    )
    assert_refused(process, '--what', '--config')


@pytest.mark.slow
def test_mistakes_are_one_sentence_before_anything_is_compiled(tmp_path):
    for flag, *words in (
        ('--models=resnet19', '--models', 'resnet19', 'mobilenet_v2'),
        ('--sizes=64,31', '--sizes', '31', '32'),
        (f'--output={tmp_path}/none/speed.json', '--output', 'none'),
    ):
        result = call('benchmark', flag)
        assert_refused(result, *words)
        assert result.stdout == ''
