"""The command, stopped and started: nothing is done twice, and nothing comes out differently."""

import functools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from commands import ROOT, Command, assert_refused, call, succeed

SMALL = [
    '--override=model.options.stage_sizes=(1,)',
    '--override=model.options.width=4',
    '--override=stage1.epochs=2',
    '--override=stage1.warmup_epochs=1',
    '--override=stage2.epochs=1',
    '--override=checkpoint_every=1',
]
ROWS = 'ce,ce_crw,ce_tau'


def flags_of(folder, workdir):
    grid = ['--dataset=digits_lt', '--table=2', f'--methods={ROWS}', '--seeds=1']
    return [*grid, f'--data_dir={folder}/data', f'--workdir={workdir}', *SMALL]


def outcome(workdir):
    """The results of all runs, and the files of the report."""
    results = {}
    for path in sorted(workdir.glob('*/*/results.json')):
        content = json.loads(path.read_text())
        content.pop('seconds')
        results[path.parent.relative_to(workdir).as_posix()] = content
    files = [path for path in (workdir / 'report').rglob('*') if path.is_file()]
    report = {path.name: path.read_bytes() for path in files}
    return results, report


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp('grid')
    return folder, succeed('reproduce', *flags_of(folder, folder / 'runs'))


@pytest.mark.slow
def test_the_runs_are_those_of_train(undisturbed):
    folder, output = undisturbed
    results, report = outcome(folder / 'runs')
    assert set(results) == {'ce/0', 'ce_crw/0', 'ce_tau/0'}
    assert output.count('stage 1 of ce/0') == 2
    assert {'report.html', 'report.md', 'report.tex', 'results.csv', 'differences.csv'} < set(
        report
    )

    # One of those that took over their first stage, trained by itself.
    flags = [f'--config={ROOT}/configs/digits_lt.py:ce_crw', '--config.figures=False']
    flags += [f'--config.data.data_dir={folder}/data', f'--workdir={folder}/alone']
    flags += [flag.replace('--override=', '--config.') for flag in SMALL]
    succeed('train', *flags)
    alone = json.loads((folder / 'alone' / 'results.json').read_text())
    alone.pop('seconds')
    assert alone == results['ce_crw/0']
    for name in ('metrics.jsonl', 'predictions.npz'):
        mine = (folder / 'runs' / 'ce_crw' / '0' / name).read_bytes()
        assert mine == (folder / 'alone' / name).read_bytes()


@pytest.mark.slow
def test_killed_twice_it_ends_as_if_undisturbed(undisturbed):
    folder, _ = undisturbed
    workdir = folder / 'killed'
    flags = flags_of(folder, workdir)
    finished = 0
    seed = random.SystemRandom().randrange(10**6)
    print('seed of the moments', seed)
    moments = random.Random(seed)
    for attempt in range(2):
        command = Command('reproduce', *flags)
        deadline = time.monotonic() + 200
        while command.process.is_alive() and time.monotonic() < deadline:
            begun = list(workdir.glob('ce/0/metrics.jsonl'))
            done = len(list(workdir.glob('*/*/results.json')))
            if begun if attempt == 0 else done > finished:
                break
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.5))
        command.process.kill()
        assert command.finish().returncode == -signal.SIGKILL
        finished = len(list(workdir.glob('*/*/results.json')))
    times = {path: path.stat().st_mtime_ns for path in workdir.glob('*/*/results.json')}
    output = succeed('reproduce', *flags)
    assert f'3 runs below {workdir}, {finished} of them finished' in output
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert outcome(workdir) == outcome(folder / 'runs')


@pytest.mark.slow
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason='needs two cores')
def test_two_workers_killed_three_times_end_as_one_worker(tmp_path):
    """Each has one core, since the order of sums depends on their number."""
    flags = flags_of(tmp_path, tmp_path / 'one')
    succeed('reproduce', *flags, before=functools.partial(use_cores, 1))
    flags += [f'--workdir={tmp_path}/two', '--workers=2']

    def logged():
        return sum(path.stat().st_size for path in tmp_path.glob('two/*/*/metrics.jsonl'))

    for _ in range(3):
        before = logged()
        command = Command('reproduce', *flags, before=functools.partial(use_cores, 2))
        deadline = time.monotonic() + 200
        while command.process.is_alive() and time.monotonic() < deadline:
            if logged() > before:
                break
            time.sleep(0.05)
        command.process.kill()
        assert command.finish().returncode == -signal.SIGKILL
    output = succeed('reproduce', *flags, before=functools.partial(use_cores, 2))
    assert 'another process' not in output  # the killed ones have left no worker behind
    assert outcome(tmp_path / 'two') == outcome(tmp_path / 'one')


def use_cores(number):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:number])


def test_data_that_are_not_prepared_stop_it_at_once(tmp_path):
    flags = ['--dataset=skin7', '--table=2', '--scale=cpu', f'--workdir={tmp_path}/runs']
    flags.append(f'--data_dir={tmp_path}/data')
    script = [sys.executable, ROOT / 'scripts' / 'reproduce.py', *flags]
    process = subprocess.run(script, cwd=ROOT, capture_output=True, text=True)
    assert_refused(process, 'skin7 is not prepared')
    assert not (tmp_path / 'runs').exists()


@pytest.mark.parametrize('flag', ['--folds=-1', '--seeds=0'])
def test_a_grid_of_nothing_is_refused(flag):
    result = call('reproduce', '--dataset=digits_lt', '--table=3', flag)
    assert_refused(result, flag.partition('=')[0])
