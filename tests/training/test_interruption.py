"""A run that is killed and started again ends bit for bit where an undisturbed one ends."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metriclt_jax.training.train import _stop_signals

ROOT = Path(__file__).parents[2]
STAGE1_EPOCHS, STAGE2_EPOCHS = 8, 6


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


def command(data_dir, workdir):
    return [
        sys.executable,
        f'{ROOT}/scripts/train.py',
        f'--config={ROOT}/configs/digits_lt.py:ce_ct_crw',
        f'--config.data.data_dir={data_dir}',
        '--config.model.options.stage_sizes=(1,)',
        '--config.model.options.width=8',
        f'--config.stage1.epochs={STAGE1_EPOCHS}',
        f'--config.stage2.epochs={STAGE2_EPOCHS}',
        '--config.figures=False',
        f'--workdir={workdir}',
    ]


def start(data_dir, workdir):
    environment = {**os.environ, 'XLA_FLAGS': ''}
    return subprocess.Popen(
        command(data_dir, workdir),
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(data_dir, workdir):
    process = start(data_dir, workdir)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return outcome(workdir)


def outcome(workdir):
    results = json.loads((workdir / 'results.json').read_text())
    results.pop('seconds')
    files = [(workdir / name).read_bytes() for name in ('metrics.jsonl', 'predictions.npz')]
    return results, *files


def wait_until(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def lines(workdir, stage):
    path = workdir / 'metrics.jsonl'
    return path.read_text().count(f'"stage": "{stage}"') if path.exists() else 0


@pytest.fixture(scope='module')
def undisturbed(data_dir, tmp_path_factory):
    return finish(data_dir, tmp_path_factory.mktemp('runs') / 'undisturbed')


@pytest.mark.slow
def test_sigkill_in_stage_1_in_stage_2_and_while_a_checkpoint_is_written(
    data_dir, tmp_path, undisturbed
):
    seed = random.randrange(10**6)
    print('seed of the moments of the kills:', seed)  # shown if the test fails
    moments = random.Random(seed)
    workdir = tmp_path / 'killed'

    def kill_when(condition, delay=0.0):
        process = start(data_dir, workdir)
        wait_until(condition, process)
        time.sleep(delay)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL, 'the run had ended before the kill'

    kill_when(lambda: lines(workdir, 'stage1') >= 2, moments.uniform(0, 0.1))
    assert lines(workdir, 'stage2') == 0
    half_written = lambda: any(workdir.glob('checkpoints/*/*orbax-checkpoint-tmp*'))  # noqa: E731
    kill_when(half_written)
    assert half_written()
    kill_when(lambda: lines(workdir, 'stage2') >= 2, moments.uniform(0, 0.1))
    assert not (workdir / 'results.json').exists()
    assert finish(data_dir, workdir) == undisturbed


def test_a_worker_that_gets_ctrl_c_and_sigterm_says_so_once(capfd):
    with _stop_signals() as terminated:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert terminated
    assert capfd.readouterr().err.count('stopping') == 1


@pytest.mark.slow
@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT], ids=lambda s: s.name)
def test_a_signal_saves_exits_with_75_and_goes_on_in_the_middle_of_an_epoch(
    data_dir, tmp_path, undisturbed, number
):
    workdir = tmp_path / 'terminated'
    process = start(data_dir, workdir)
    wait_until(lambda: lines(workdir, 'stage1') >= 1, process)
    process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 75, output
    assert 'run the same command again' in output
    assert finish(data_dir, workdir) == undisturbed
    # Once more: the run is complete, nothing is trained again.
    before = (workdir / 'results.json').stat().st_mtime_ns
    finish(data_dir, workdir)
    assert (workdir / 'results.json').stat().st_mtime_ns == before
