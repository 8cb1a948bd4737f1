"""What the input benchmark measures: the same work on every side, all sides in turns."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from metriclt_jax.benchmark import input as benchmark
from metriclt_jax.benchmark.torch_process import Torch

ROOT = Path(__file__).parents[2]
SIZE = 8


def digits_config(data_dir):
    path = ROOT / 'configs' / 'digits_lt.py'
    spec = importlib.util.spec_from_file_location('digits_lt_config', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config('ce')
    config.data.data_dir = str(data_dir)
    return config


@pytest.fixture(scope='module')
def config(tmp_path_factory):
    return digits_config(tmp_path_factory.mktemp('digits'))


@pytest.fixture(scope='module')
def subject(config):
    return benchmark.make_subject(config, SIZE)


def test_both_ways_of_reading_give_the_same_images(subject):
    indices = subject.cached.parts['train'][[5, 0, 7]]
    images = subject.undecoded.images.read(indices)
    assert images.shape == (3, subject.size, subject.size, 3)
    np.testing.assert_array_equal(images, subject.cached.images.read(indices))


def test_the_stored_size_is_in_the_proportion_of_the_config(config, subject):
    assert subject.size == round(SIZE * config.data.resize / config.augment.crop)


def test_sides_take_turns_and_do_the_same(subject, tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(
        benchmark, 'delivered', lambda dataset, *rest: calls.append(('ours', dataset, *rest)) or 8.0
    )
    monkeypatch.setattr(benchmark, 'copied', lambda *rest: calls.append(('copy',)) or 16.0)

    def ask(**request):
        calls.append(('torch', request))
        return {'images_per_second': 2.0 if request['workers'] else 4.0}

    devices = jax.devices()[:1]
    options = {'batch': 4, 'repeats': 2, 'seconds': 0.5, 'folder': tmp_path}
    torch = Torch(ask, {})
    cached = benchmark.measure(
        benchmark.Case(SIZE, True, 3), subject, devices, torch=torch, **options
    )
    assert [call[0] for call in calls] == ['ours', 'copy', 'torch', 'torch', 'torch'] * 2
    assert calls[0][1:] == (subject.cached, devices, 4, 3, 0.5)
    requests = [call[1] for call in calls if call[0] == 'torch'][:3]
    assert [(r['kind'], r['workers']) for r in requests] == [
        ('items', 3),
        ('batches', 3),
        ('batches', 0),
    ]
    assert {(r['size'], r['batch'], r['seconds']) for r in requests} == {(subject.size, 4, 0.5)}
    calls.clear()
    decoded = benchmark.measure(
        benchmark.Case(SIZE, False, 3), subject, devices, torch=torch, **options
    )
    assert calls[0][1] is subject.undecoded
    assert [call[0] for call in calls] == ['ours', 'torch', 'torch'] * 2
    rows = benchmark.table([cached, decoded]).columns
    columns = [list(column.cells) for column in rows[4:]]
    assert columns == [['8', '8'], ['16', ''], ['0.50', ''], ['4', '4'], ['2.00', '2.00']]


def test_rates_count_images_and_leave_the_warm_up_out(monkeypatch):
    clock = iter([0.0, *np.arange(0, 9, 0.25)])
    monkeypatch.setattr(benchmark.time, 'perf_counter', lambda: next(clock))
    batches = []
    rate = benchmark._rate(lambda: batches.append(1), batch=10, seconds=1.0, warm_up=3)
    # Started at 0; the clock shows 0, .25, .5, .75 before a batch and 1 after the fourth.
    assert len(batches) == 3 + 4
    assert rate == 40.0


def test_what_is_delivered_is_on_the_device(subject):
    assert benchmark.delivered(subject.cached, jax.devices()[:1], 16, 2, 0.05) > 0
    assert benchmark.copied(subject.cached.images.pixels, np.arange(64), 16, 2, 0.05) > 0
    assert benchmark.augmented(subject, SIZE, 4, jax.devices()[0], 0.05) > 0


@pytest.mark.slow
def test_the_other_side_reads_the_same_images(config, subject, tmp_path):
    python = os.environ.get('METRICLT_TORCH_PYTHON')
    if not python:
        pytest.skip('METRICLT_TORCH_PYTHON names no interpreter with torch and torchvision')
    benchmark.write_for_torch([subject], config.data.data_dir, tmp_path)
    program = (
        'import sys, numpy as np; import input_torch\n'
        'folder, size = sys.argv[1], int(sys.argv[2])\n'
        'encoded, items, batches = (input_torch.KINDS[kind](folder, size)\n'
        "                           for kind in ('encoded', 'items', 'batches'))\n"
        'indices = [3, 0, 8]\n'
        'read = [[data[i][0].numpy() for i in indices] for data in (encoded, items)]\n'
        'np.save(folder + "/read", [*read, batches.__getitems__(indices)[0].numpy()])\n'
    )
    folder = Path(benchmark.__file__).parent
    subprocess.run(
        [python, '-c', program, str(tmp_path), str(subject.size)],
        env={**os.environ, 'PYTHONPATH': str(folder)},
        check=True,
    )
    ours = subject.cached.images.read(subject.cached.parts['train'][[3, 0, 8]])
    for images in np.load(tmp_path / 'read.npy'):
        np.testing.assert_array_equal(images, ours)


def call(*flags):
    command = [sys.executable, f'{ROOT}/scripts/benchmark_input.py', *map(str, flags)]
    environment = {**os.environ, 'COLUMNS': '80', 'XLA_FLAGS': ''}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def tiny(config):
    return [
        f'--config={ROOT}/configs/digits_lt.py:ce',
        f'--config.data.data_dir={config.data.data_dir}',
        '--config.model.options.stage_sizes=(1,)',
        '--config.model.options.width=8',
        '--config.stage1.batch_size=16',
        f'--sizes={SIZE}',
        '--threads=1,2',
        '--batch=16',
        '--repeats=2',
        '--sample_seconds=0.05',
        '--pairs=2',
        '--steps=3',
    ]


@pytest.mark.slow
def test_the_command_measures_and_writes_every_sample(config, tmp_path):
    output = tmp_path / 'input.json'
    flags = [*tiny(config), f'--output={output}']
    python = os.environ.get('METRICLT_TORCH_PYTHON')
    if python:
        flags += ['--compare_torch', f'--torch_python={python}']
    process = call(*flags)
    assert process.returncode == 0, process.stderr
    document = json.loads(output.read_text())
    rows = [(row['cached'], row['threads']) for row in document['delivery']]
    assert rows == [(True, 1), (True, 2), (False, 1), (False, 2)]
    for row in document['delivery']:
        sides = {'ours', 'copy'} if row['cached'] else {'ours'}
        assert {name for name in row['images_per_second'] if 'PyTorch' not in name} == sides
        assert len(row['images_per_second']) == len(sides) + bool(python) * (2 + row['cached'])
        for samples in row['images_per_second'].values():
            assert len(samples) == 2
            assert min(samples) > 0
    assert min(document['augmentation'][str(SIZE)]) > 0
    assert len(document['training']) == 2
    for pair in document['training']:
        assert set(pair) == {'real', 'repeated'}
        assert 0 <= pair['real']['input_wait_share'] < 1
        assert pair['real']['seconds'] > 0
    assert 'longest waiting share' in process.stdout
    table = process.stdout.split('copy: what')[0]
    assert max(map(len, table.splitlines())) <= 80
    assert '…' not in table


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--what=sleep'], ['--what', 'sleep', 'delivery']),
        (['--sizes=0'], ['--sizes', '1 or more']),
        (['--threads=two'], ['--threads', 'two']),
        (['--output=/nothing/here.json'], ['--output', '/nothing']),
        (['--compare_torch', '--torch_python=/bin/false'], ['--torch_python is /bin/false']),
    ],
)
def test_mistakes_are_one_sentence(config, flags, words):
    process = call(*tiny(config), *flags)
    assert process.returncode == 2, process.stderr
    line = process.stderr.strip().splitlines()[-1]
    assert line.startswith('error: ')
    assert all(word in line for word in words), line
