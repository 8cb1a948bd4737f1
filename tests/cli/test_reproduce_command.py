"""The command, stopped and started: nothing is done twice, and nothing comes out differently."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = [
    '--override=model.options.stage_sizes=(1,)',
    '--override=model.options.width=4',
    '--override=stage1.epochs=2',
    '--override=stage1.warmup_epochs=1',
    '--override=stage2.epochs=1',
    '--override=checkpoint_every=1',
]
ROWS = 'ce,ce_crw,ce_tau'


def start(folder, workdir, *flags):
    command = [sys.executable, ROOT / 'scripts' / 'reproduce.py', '--dataset=digits_lt']
    command += [f'--data_dir={folder}/data', f'--workdir={workdir}', *SMALL, *flags]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finish(*arguments):
    process = start(*arguments)
    output, _ = process.communicate(timeout=400)
    return process.returncode, output


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
    code, output = finish(folder, folder / 'runs', '--table=2', f'--methods={ROWS}', '--seeds=1')
    assert code == 0, output
    return folder, output


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
    config = f'--config={ROOT}/configs/digits_lt.py:ce_crw'
    flags = [flag.replace('--override=', '--config.') for flag in SMALL]
    command = [sys.executable, ROOT / 'scripts' / 'train.py', config, f'--workdir={folder}/alone']
    command += [f'--config.data.data_dir={folder}/data', '--config.figures=False', *flags]
    subprocess.run(command, check=True, capture_output=True)
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
    flags = ['--table=2', f'--methods={ROWS}', '--seeds=1']
    finished = 0
    seed = random.SystemRandom().randrange(10**6)
    print('seed of the moments', seed)
    moments = random.Random(seed)
    for attempt in range(2):
        process = start(folder, workdir, *flags)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            begun = list(workdir.glob('ce/0/metrics.jsonl'))
            done = len(list(workdir.glob('*/*/results.json')))
            if begun if attempt == 0 else done > finished:
                break
            time.sleep(0.05)
        time.sleep(moments.uniform(0, 0.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        finished = len(list(workdir.glob('*/*/results.json')))
    times = {path: path.stat().st_mtime_ns for path in workdir.glob('*/*/results.json')}
    code, output = finish(folder, workdir, *flags)
    assert code == 0, output
    assert f'3 runs below {workdir}, {finished} of them finished' in output
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert outcome(workdir) == outcome(folder / 'runs')


def test_data_that_are_not_prepared_stop_it_at_once(tmp_path):
    command = [sys.executable, ROOT / 'scripts' / 'reproduce.py', '--dataset=skin7', '--table=2']
    command += ['--scale=cpu', f'--data_dir={tmp_path}/data', f'--workdir={tmp_path}/runs']
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert 'skin7 is not prepared' in process.stderr
    assert not (tmp_path / 'runs').exists()
