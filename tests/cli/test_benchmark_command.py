"""The benchmark command: what it writes, how it takes turns, one sentence a mistake."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ['--models=resnet18', '--sizes=32', '--batches=2', '--repeats=2', '--sample_seconds=0.01']


def call(*flags):
    command = [sys.executable, f'{ROOT}/scripts/benchmark.py', *map(str, flags)]
    environment = {**os.environ, 'COLUMNS': '80', 'XLA_FLAGS': ''}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def measured(tmp_path, *flags):
    output = tmp_path / 'speed.json'
    process = call(*TINY, *flags, f'--output={output}')
    assert process.returncode == 0, process.stderr
    lines = process.stdout.splitlines()
    assert max(map(len, lines[:-1])) <= 80 or '…' not in process.stdout
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
    config = [
        f'--config={ROOT}/configs/digits_lt.py:ce',
        f'--config.data.data_dir={tmp_path}',
        '--config.model.options.stage_sizes=(1,)',
        '--config.model.options.width=8',
        '--config.stage1.batch_size=16',
        '--config.num_devices=1',
    ]
    train, forward, batches, with_input = measured(tmp_path, *config)
    for result, what in ((train, 'train'), (forward, 'forward')):
        assert (result['what'], result['model']) == (what, 'resnet18')
        assert (result['size'], result['batch']) == (32, 2)
        assert list(result['samples']) == ['ours']
        assert result['compile_seconds'] > 0
    # The step holds parameters, gradients and momentum: 11 million values of 4 bytes each.
    assert train['memory_mib'] > 2 * forward['memory_mib'] > 2 * 42
    assert list(batches['samples']) == ['pipeline', 'copy']
    assert list(with_input['samples']) == ['real input', 'one batch']
    assert (with_input['size'], with_input['batch']) == (16, 16)
    assert 0 <= with_input['input_wait_share'] < 1


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec('torchvision'), reason='needs torchvision')
def test_pytorch_takes_turns(tmp_path):
    for result in measured(tmp_path, '--compare_torch'):
        assert list(result['samples']) == ['ours', 'PyTorch default', 'PyTorch channels_last']


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--models=resnet19'], ['--models', 'resnet19', 'mobilenet_v2']),
        (['--sizes=64,31'], ['--sizes', '31', '32']),
        (['--what=input'], ['--what', '--config']),
        (['--output={tmp}/none/speed.json'], ['--output', 'none']),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_compiled(tmp_path, flags, words):
    process = call(*(flag.format(tmp=tmp_path) for flag in flags))
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith('error: ')
    assert all(word in line for word in words), line
    assert process.stdout == ''
