"""The command: what it writes, how it alternates with PyTorch, one sentence a mistake."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = ['--models=resnet18', '--sizes=32', '--batches=2', '--repeats=2', '--sample_seconds=0.01']

# Speaks the worker's protocol and takes, by its own account, 1 s and 4 s a step.
FAKE_WORKER = """
import json, sys
log = open({log!r}, 'w')
about = {{'torch': '0', 'torchvision': '0', 'python': '0', 'threads': 1, 'devices': ['cpu']}}
print(json.dumps(about), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    log.write(line)
    log.flush()
    if request['do'] == 'build' and request['what'] == 'train' and request['name'] == {broken!r}:
        answer = {{'error': 'RuntimeError: out of memory'}}
    elif request['do'] == 'steps':
        answer = {{'seconds': 4.0 if request['name'] == 'channels_last' else 1.0}}
    else:
        answer = {{}}
    print(json.dumps(answer), flush=True)
"""


def call(*flags):
    command = [sys.executable, f'{ROOT}/scripts/benchmark.py', *map(str, flags)]
    environment = {**os.environ, 'COLUMNS': '80'}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def write_executable(path, text):
    path.write_text(f'#!/bin/sh\n{text}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_python(folder, broken=None):
    """An "interpreter" that runs the fake worker instead of what it is given."""
    log = folder / 'requests'
    (folder / 'worker.py').write_text(FAKE_WORKER.format(log=str(log), broken=broken))
    return write_executable(folder / 'python', f'exec {sys.executable} {folder}/worker.py'), log


@pytest.mark.slow
def test_it_measures_and_writes_every_sample(tmp_path):
    output = tmp_path / 'speed.json'
    process = call(*TINY, '--dtypes=float32', f'--output={output}')
    assert process.returncode == 0, process.stderr
    document = json.loads(output.read_text())
    assert {'date', 'machine', 'versions', 'rates', 'results', 'torch'} == set(document)
    assert document['torch'] is None
    assert document['machine']['platform'] == 'cpu'
    assert 'jax' in document['versions']
    rates = document['rates']['float32']
    assert rates['flops_per_second'] > 1e9
    assert rates['bytes_per_second'] > 1e8
    train, forward = document['results']
    assert (train['what'], train['augment']) == ('train', True)
    assert (forward['what'], forward['augment']) == ('forward', False)
    for result in (train, forward):
        assert (result['model'], result['size'], result['batch']) == ('resnet18', 32, 2)
        seconds = result['seconds']
        assert len(seconds['samples']) == 2
        assert 0 < seconds['min'] <= seconds['median']
        assert result['images_per_second'] == pytest.approx(2 / seconds['median'])
        assert result['compile_seconds'] > 0
        assert result['memory_bytes'] > 4 * 11e6  # at least the parameters
        floor = result['floor_seconds']['arithmetic']
        assert floor == pytest.approx(result['flops'] / rates['flops_per_second'])
        assert result['share_of_matrix_rate'] == pytest.approx(floor / seconds['median'])
    # The step holds parameters, their momentum and gradients.
    assert train['memory_bytes'] > 2 * forward['memory_bytes']
    assert train['flops'] > 2 * forward['flops']
    assert 'training step, float32, with augmentation' in process.stdout
    assert 'forward pass, float32' in process.stdout
    assert max(map(len, process.stdout.splitlines())) <= 80 + len(str(output))


@pytest.mark.slow
def test_both_sides_take_turns(tmp_path):
    python, log = fake_python(tmp_path)
    output = tmp_path / 'speed.json'
    flags = ['--what=forward', '--compare_torch', f'--torch_python={python}', f'--output={output}']
    process = call(*TINY, *flags, '--torch_options=default,channels_last')
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(output.read_text())['results']
    requests = [json.loads(line) for line in log.read_text().splitlines()]
    sample = ['default', 'channels_last']
    assert [(r['do'], r.get('name')) for r in requests] == [
        *(('build', name) for name in sample),
        *(('steps', name) for name in sample * 2),
        ('clear', None),
    ]
    assert {k: v for k, v in requests[1].items() if k not in ('do', 'name')} == {
        'what': 'forward',
        'model': 'resnet18',
        'size': 32,
        'dtype': 'float32',
        'batch': 2,
        'num_classes': 7,
        'device': 'cpu',
        'channels_last': True,
    }
    assert {r['count'] for r in requests if r['do'] == 'steps'} == {result['steps_in_a_sample']}
    ours = result['seconds']
    for name, theirs in (('default', 1.0), ('channels_last', 4.0)):
        torch = result['torch'][name]
        assert torch['ratios'] == pytest.approx([sample / theirs for sample in ours['samples']])
        assert torch['median_ratio'] == pytest.approx(ours['median'] / theirs)
        assert torch['ratio_of_minima'] == pytest.approx(ours['min'] / theirs)
    assert 'channels_last' in process.stdout


@pytest.mark.slow
def test_an_option_that_fails_in_pytorch_does_not_end_the_rest(tmp_path):
    python, _ = fake_python(tmp_path, broken='default')
    output = tmp_path / 'speed.json'
    flags = ['--what=train', '--augment=false', '--compare_torch', f'--torch_python={python}']
    process = call(*TINY, *flags, f'--output={output}')
    assert process.returncode == 0, process.stderr
    (result,) = json.loads(output.read_text())['results']
    assert result['augment'] is False
    assert result['torch']['default'] == {'error': 'RuntimeError: out of memory'}
    assert result['torch']['channels_last']['median_ratio'] > 0
    assert 'PyTorch default: RuntimeError: out of memory' in process.stdout
    assert 'failed' in process.stdout


@pytest.mark.slow
@pytest.mark.parametrize('what', ['train', 'forward'])
def test_the_comparison_with_pytorch_itself(tmp_path, what):
    python = os.environ.get('METRICLT_TORCH_PYTHON')
    if not python:
        pytest.skip('METRICLT_TORCH_PYTHON names no interpreter with torch and torchvision')
    output = tmp_path / 'speed.json'
    flags = ['--compare_torch', f'--torch_python={python}', f'--output={output}']
    process = call(*TINY, *flags, f'--what={what}', '--augment=false', '--dtypes=float32')
    assert process.returncode == 0, process.stderr
    document = json.loads(output.read_text())
    assert document['torch']['torch'][0].isdigit()
    (result,) = document['results']
    for name in ('default', 'channels_last'):
        torch = result['torch'][name]
        assert len(torch['seconds']['samples']) == 2
        assert 0.001 < torch['median_ratio'] < 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--models=resnet19'], ['--models', 'resnet19', 'mobilenet_v2']),
        (['--models='], ['--models', 'resnet50']),
        (['--sizes=64,huge'], ['--sizes', 'huge', '32']),
        (['--sizes=31'], ['--sizes', '31', '32']),
        (['--batches=1'], ['--batches', '2 or more']),
        (['--dtypes=float64'], ['--dtypes', 'float64', 'bfloat16']),
        (['--what=sleep'], ['--what', 'sleep', 'forward']),
        (['--repeats=0'], ['--repeats is 0']),
        (['--sample_seconds=0'], ['--sample_seconds is 0']),
        (['--output={tmp}/none/speed.json'], ['--output', 'none']),
        (['--compare_torch', '--torch_options=fast'], ['--torch_options', 'fast', 'channels_last']),
        (['--compare_torch', '--torch_python={tmp}/none'], ['--torch_python', 'No such file']),
        (
            ['--compare_torch', '--torch_python={tmp}/bare'],
            ['--torch_python', 'torch', 'No module'],
        ),
        (['--compare_torch', '--torch_python=/bin/false'], ['--torch_python is /bin/false']),
    ],
)
def test_mistakes_are_one_sentence_before_anything_is_compiled(tmp_path, flags, words):
    write_executable(tmp_path / 'bare', f'exec {sys.executable} -S "$@"')  # no site-packages
    process = call(*(flag.format(tmp=tmp_path) for flag in flags))
    assert process.returncode == 2, process.stderr
    (line,) = process.stderr.strip().splitlines()
    assert line.startswith('error: ')
    for word in words:
        assert word in line, line
    assert process.stdout == ''
