"""Two processes with four devices each do what one process with eight devices does."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from host_worker import CONFIG, SMALL, one_update
from rich.console import Console

from metriclt_jax import hosts
from metriclt_jax.cli.hosts import check
from metriclt_jax.data import preparation
from metriclt_jax.data.sources import digits_lt
from metriclt_jax.devices import choose_devices, local_rows
from metriclt_jax.errors import InputError
from metriclt_jax.training.checkpoints import StageCheckpoints
from metriclt_jax.training.setup import make_run
from metriclt_jax.training.workdir import read_config

WORKER = Path(__file__).with_name('host_worker.py')


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def start():
    return start_processes


def start_processes(what, folder, num_processes, *flags):
    """Starts processes, each with its share of eight devices."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    devices = 8 // num_processes
    environment = {
        **os.environ,
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
    }
    command = [sys.executable, WORKER, what, folder]
    return [
        subprocess.Popen(
            [str(word) for word in (*command, number, num_processes, port, *flags)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(num_processes)
    ]


@pytest.fixture(scope='module')
def train(start, data_dir):
    """Starts the train command in processes."""
    fields = SMALL | {'data.data_dir': data_dir}
    flags = [f'--config={CONFIG}:ce_ct_crw']
    flags += [f'--config.{name}={value}' for name, value in fields.items()]
    return lambda workdir, num_processes, *more: start(
        'train', workdir, num_processes, *flags, *more
    )


def finish(processes, code=0):
    """What the processes printed."""
    printed = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), printed
    return printed


def without_gloo(text):
    """A text without what Gloo's threads print, whose lines may be torn into each other."""
    pieces = (
        r'\[Gloo\] Rank ',
        'is connected to ',
        r'peer ranks\. ',
        'Expected number of connected peer ranks is : ',
    )
    words = re.sub('|'.join(pieces), ' ', text).split()
    return ' '.join(word for word in words if not word.isdecimal())


def wait_for_lines(workdir, stage, count, processes):
    path = workdir / 'metrics.jsonl'
    deadline = time.monotonic() + 240
    while not path.exists() or path.read_text().count(f'"stage": "{stage}"') < count:
        assert all(process.poll() is None for process in processes), finish(processes)
        assert time.monotonic() < deadline
        time.sleep(0.002)


def prepare_other(data_dir):
    """Prepares digits_lt with another first image; returns `data_dir`."""
    original = digits_lt.read_source()
    first, second, *others = original.examples
    examples = [first._replace(image=second.image), second, *others]
    reader = lambda source: dataclasses.replace(original, examples=examples)  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparation, 'READERS', {'digits_lt': reader})
        preparation.prepare('digits_lt', None, data_dir)
    return data_dir


@pytest.fixture(scope='module')
def pair(start, data_dir, tmp_path_factory):
    """What two processes wrote about an update and about each other."""
    folder = tmp_path_factory.mktemp('pair')
    processes = start('update', folder, 2, data_dir, prepare_other(folder / 'other'))
    alone = one_update(data_dir)
    finish(processes)
    read = lambda name: [dict(np.load(folder / f'{name}{i}.npz')) for i in range(2)]  # noqa: E731
    reports = [json.loads((folder / f'report{i}.json').read_text()) for i in range(2)]
    return alone, read('batches'), read('update'), reports


@pytest.mark.slow
def test_the_hosts_rows_together_are_the_batch_of_one_host(pair):
    (alone, _), both, _, _ = pair
    assert {name.split()[0] for name in alone} == {'stage1', 'stage2', 'test'}
    assert both[0].keys() == both[1].keys() == alone.keys()
    for name, batch in alone.items():
        assert batch.shape[0] == 8, name
        assert both[0][name].shape[0] == 4, name
        joined = np.concatenate([host[name] for host in both])
        np.testing.assert_array_equal(joined, batch, name)


@pytest.mark.slow
def test_the_update_is_that_of_one_host(pair):
    (_, alone), _, both, _ = pair
    assert sum('momentum' in name and 'stage1' in name for name in alone) > 10
    for name, expected in alone.items():
        for host in both:
            difference = np.linalg.norm(np.float64(host[name]) - np.float64(expected))
            assert difference <= 1e-5 * np.linalg.norm(np.float64(expected)), name
        np.testing.assert_array_equal(both[0][name], both[1][name], name)


@pytest.mark.slow
def test_what_the_processes_tell_each_other(pair):
    first, second = (dict(report) for report in pair[-1])
    del first['with other data'], second['with other data']
    assert second.pop('failure in 1') == 'InputError: the disk is full'
    assert first.pop('failure in 1') == 'HostFailed: process 1: the disk is full'
    assert first.pop('failure in 0') == 'OSError: gone'
    assert second.pop('failure in 0') == 'HostFailed: process 0: gone'
    assert first == second
    assert first['from first'] is True
    assert first['any'] == [True, False]
    assert first['devices'] == [0] * 4 + [1] * 4
    assert first['count'] == 8
    assert sum(first['votes']) == 1
    assert 3 < first['votes'].index(True) < 15


@pytest.mark.slow
def test_other_images_in_one_process_end_all_before_anything_is_written(pair):
    (first, first_wrote), (second, second_wrote) = (
        report['with other data'] for report in pair[-1]
    )
    assert re.fullmatch(
        r'the images or splits of digits_lt in \S+/other differ.*',
        second,
    )
    assert first == f'process 1: {second}'
    assert not first_wrote
    assert not second_wrote


@pytest.fixture(scope='module')
def runs(train, tmp_path_factory):
    """Work directories of one run: of two processes, of one after two, and of one alone.

    The two are killed, started again, stopped by a signal to the second, and started again.
    """
    workdir, taken_over, alone = (
        tmp_path_factory.mktemp(name) / 'run' for name in ('two', 'taken_over', 'one')
    )
    processes = train(workdir, 2)
    wait_for_lines(workdir, 'stage1', 1, processes)
    for process in processes:
        process.kill()
    finish(processes, code=-signal.SIGKILL)

    processes = train(workdir, 2)
    wait_for_lines(workdir, 'stage1', 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    first, second = finish(processes, code=75)
    saved = re.search(r'saved (stage\d) at step (\d+)', first)
    assert saved, first
    stopping = 'SIGTERM: stopping after the current step or evaluation saved '
    assert without_gloo(second).startswith(stopping)
    assert not (workdir / 'results.json').exists()

    shutil.copytree(workdir, taken_over)
    first, second = finish(train(workdir, 2))
    assert f'{saved[1]} resumes from step {saved[2]}' in first
    assert without_gloo(second) == ''

    (first,) = finish(train(taken_over, 1))
    assert f'{saved[1]} resumes from step {saved[2]}' in first
    finish(train(alone, 1))
    return workdir, taken_over, alone


def outcome(workdir):
    results = json.loads((workdir / 'results.json').read_text())
    results.pop('seconds')
    files = [(workdir / name).read_bytes() for name in ('metrics.jsonl', 'predictions.npz')]
    return results, *files


@pytest.mark.slow
def test_two_processes_end_where_one_ends_after_sigkill_to_both_and_sigterm_to_one(runs):
    """Bit for bit: one process that adds up with Gloo, as two do, adds up in the same order."""
    workdir, _, alone = runs
    assert outcome(workdir) == outcome(alone)
    assert {path.name for path in workdir.iterdir()} == {path.name for path in alone.iterdir()}
    # Only the first process has written, apart from the checkpoints.
    writes = [(workdir.parent / f'writes{number}').read_text() for number in range(2)]
    for name in ('config.json', 'metrics.jsonl', 'timing.jsonl', 'predictions.npz', 'results.json'):
        assert name in writes[0]
    assert writes[1] == ''


@pytest.mark.slow
def test_one_process_goes_on_where_two_stopped(runs):
    _, taken_over, alone = runs
    assert outcome(taken_over) == outcome(alone)


def saved_arrays(workdir):
    """All arrays of a run's checkpoints, restored in this process with its eight devices."""
    run = make_run(read_config(workdir), workdir, Console(quiet=True))
    states = {}
    for stage in run.stages:
        checkpoints = StageCheckpoints(run.checkpoints(stage))
        states[stage.name] = checkpoints.restore(like=run.initial_state(stage))
        checkpoints.close()
    leaves = jax.tree_util.tree_leaves_with_path(states)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_the_checkpoints_of_two_processes_hold_what_those_of_one_hold(runs):
    both, taken_over, alone = (saved_arrays(workdir) for workdir in runs)
    for field in ('key', 'params', 'batch_stats', 'opt_state', 'metric_sums', 'metric['):
        assert any(f"['stage1'][0].{field}" in name for name in alone), field
    assert both.keys() == taken_over.keys() == alone.keys()
    for name, array in alone.items():
        for other in (both[name], taken_over[name]):
            assert other.dtype == array.dtype, name
            np.testing.assert_array_equal(other, array, name)


@pytest.mark.slow
def test_two_processes_evaluate_what_one_trained_and_one_what_two_trained(runs, start, tmp_path):
    both, _, alone = runs
    for number, workdir in ((2, alone), (1, both)):
        files = {'output': tmp_path / f'{number}.json', 'predictions': tmp_path / f'{number}.npz'}
        flags = [f'--{name}={path}' for name, path in files.items()]
        printed = finish(start('evaluate', workdir, number, *flags))
        assert 'digits_lt test, stage2 last' in printed[0]
        assert [without_gloo(text) for text in printed[1:]] == [''] * (number - 1)
        expected = json.loads((workdir / 'results.json').read_text())['final']
        assert json.loads(files['output'].read_text()) == expected
        written = (workdir / 'predictions.npz').read_bytes()
        assert files['predictions'].read_bytes() == written


@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        ({'coordinator': 'a:1'}, '--num_processes and --process_id'),
        ({'num_processes': 2, 'process_id': 0}, '--coordinator'),
        ({'coordinator': 'a', 'num_processes': 2, 'process_id': 0}, 'a; it must be HOST:PORT'),
        ({'coordinator': 'a:x', 'num_processes': 2, 'process_id': 0}, 'a:x; it must be HOST:PORT'),
        ({'coordinator': 'a:1', 'num_processes': 0, 'process_id': 0}, 'num_processes is 0'),
        ({'coordinator': 'a:1', 'num_processes': 2, 'process_id': 2}, '2; it must be 0 to 1'),
        ({'coordinator': 'a:1', 'distributed': True}, '--distributed'),
    ],
)
def test_flags_that_do_not_go_together(flags, words):
    with pytest.raises(InputError, match=words):
        check(flags.get('distributed', False), meeting(**flags))


def test_flags_say_whether_there_are_others():
    assert check(False, meeting()) is False
    assert check(True, meeting()) is True
    assert check(False, meeting('10.0.0.1:1234', 2, 1)) is True


def meeting(coordinator=None, num_processes=None, process_id=None, **other):
    return {'coordinator': coordinator, 'num_processes': num_processes, 'process_id': process_id}


def test_nobody_at_the_coordinator(monkeypatch):
    monkeypatch.setattr(hosts, '_MEETING_SECONDS', 0.5)
    with socket.socket() as taken:
        taken.bind(('127.0.0.1', 0))  # bound but not listening
        address = f'127.0.0.1:{taken.getsockname()[1]}'
        with pytest.raises(InputError, match=f'process 0 was not found at {address} within 0.5 s'):
            hosts.connect(address, 2, 1)


def test_rows_of_hosts(monkeypatch):
    class Device:
        def __init__(self, process_index, id):
            self.process_index, self.id = process_index, id

    devices = [Device(i % 3, i) for i in range(12)]  # ids of one host need not lie side by side
    monkeypatch.setattr(jax, 'devices', lambda: devices)
    monkeypatch.setattr(jax, 'process_count', lambda: 3)
    chosen = choose_devices(0)
    assert [device.process_index for device in chosen] == [0] * 4 + [1] * 4 + [2] * 4
    rows = []
    for process in range(3):
        monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
        rows += list(range(60))[local_rows(60, chosen)]
    assert rows == list(range(60))
    assert choose_devices(12) == chosen
    with pytest.raises(InputError, match=r'num_devices is 4; with 3 processes'):
        choose_devices(4)
    devices.pop()
    with pytest.raises(InputError, match=r'\[4, 4, 3\] devices'):
        choose_devices(0)
