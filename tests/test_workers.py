"""Worker processes: what each may use, and that none is lost or left behind."""

import os
import signal
import time

import pytest

from metriclt_jax.errors import HostFailed, InputError, Interrupted, NotWritten
from metriclt_jax.workers import shares, work_in_processes


def prepare():
    pass


def square(number):
    yield number**2
    yield (os.getpid(), len(os.sched_getaffinity(0)))


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)
    yield number


def sleep(number):
    yield os.getpid()
    time.sleep(60)


def refuse(number):
    yield number
    raise NotWritten('the disk is full')


def raise_interrupted(number):
    yield number
    raise Interrupted('saved')


@pytest.fixture
def cores(monkeypatch):
    """A machine with six cores and nothing else."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(6)))
    for variable in ('JAX_PLATFORMS', 'CUDA_VISIBLE_DEVICES', 'TPU_VISIBLE_CHIPS'):
        monkeypatch.delenv(variable, raising=False)


def test_cores_and_accelerators_are_divided(cores, monkeypatch):
    assert [list(share.cores) for share in shares(4)] == [[0], [1, 2], [3], [4, 5]]
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5,6,7')
    visible = [share.environment['CUDA_VISIBLE_DEVICES'] for share in shares(2)]
    assert visible == ['3,5', '6,7']
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES')
    monkeypatch.setenv('TPU_VISIBLE_CHIPS', '0,1,2,3')
    last = shares(4)[3].environment
    assert last['TPU_VISIBLE_CHIPS'] == '3'
    assert last['TPU_CHIPS_PER_PROCESS_BOUNDS'] == last['TPU_PROCESS_BOUNDS'] == '1,1,1'
    monkeypatch.setenv('JAX_PLATFORMS', 'cpu')
    assert shares(3)[0].environment == {}


def test_more_workers_than_there_is_for_them_are_refused(cores, monkeypatch):
    for number in (0, 7):
        with pytest.raises(InputError, match='--workers'):
            shares(number)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0,1')
    with pytest.raises(InputError, match='GPUs'):
        shares(3)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_each_task_is_done_once_by_processes_with_cores_of_their_own():
    found = list(work_in_processes(range(6), square, 2, prepare))
    assert sorted(one for one in found if isinstance(one, int)) == [0, 1, 4, 9, 16, 25]
    workers = {one for one in found if not isinstance(one, int)}
    assert len(workers) == 2
    assert sum(number for _, number in workers) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ('work', 'error'),
    [(die, HostFailed), (raise_interrupted, Interrupted), (refuse, NotWritten)],
    ids=['die', 'stop', 'refuse'],
)
def test_a_worker_that_ends_early_ends_the_others(work, error):
    with pytest.raises(error):
        list(work_in_processes(range(4), work, 1, prepare))


def test_sigterm_ends_all_workers():
    before = signal.getsignal(signal.SIGTERM)
    messages = work_in_processes(range(2), sleep, 1, prepare)
    worker = next(messages)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        next(messages)
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert signal.getsignal(signal.SIGTERM) is before
