"""What a grid makes of runs that fail, were cut off, or lack their checkpoints."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from metriclt_jax import reproduce
from metriclt_jax.errors import InputError, TrainingDiverged
from metriclt_jax.grids import config_maker, table_grid
from metriclt_jax.reproduce import check, execute

CONFIGS = Path(__file__).parents[1] / 'configs'


@pytest.fixture
def planned():
    make = config_maker(CONFIGS, 'digits_lt')
    return table_grid(make, 2, seeds=1, methods=['ce', 'ce_crw', 'rw'])


@pytest.fixture
def started(monkeypatch):
    """Runs that write what a run writes, and what their work directories held at the start."""
    seen = {}

    def train(config, workdir, console):
        seen[config.method] = sorted(p.name for p in workdir.iterdir()) if workdir.exists() else []
        stage1 = workdir / 'checkpoints' / 'stage1'
        stage1.mkdir(parents=True, exist_ok=True)
        for name in ('metrics.jsonl', 'timing.jsonl'):
            lines = [json.dumps({'stage': stage, 'epoch': 1}) for stage in ('stage1', 'stage2')]
            (workdir / name).write_text('\n'.join(lines) + '\n')
        (workdir / 'results.json').write_text('{}')
        return {'final': {'mcr_all': 0.5}}

    monkeypatch.setattr(reproduce, 'train', train)
    return seen


def call(planned, root):
    console = Console(file=io.StringIO())
    failures = execute(planned, root, console)
    return failures, console.file.getvalue()


def test_a_first_stage_is_taken_over_without_its_second(planned, started, tmp_path):
    # What a kill in the middle of taking over leaves.
    (tmp_path / 'ce_crw' / '.0.incomplete' / 'checkpoints').mkdir(parents=True)
    (tmp_path / 'ce_crw' / '.0.incomplete' / 'metrics.jsonl').write_text('half a li')
    failures, text = call(planned, tmp_path)
    assert failures == {}
    assert '3/3 rw/0: MCR 50.00' in text
    taken = ['checkpoints', 'config.json', 'metrics.jsonl', 'timing.jsonl']
    assert started == {'ce': [], 'ce_crw': taken, 'rw': []}
    assert 'stage 1 of ce/0' in text
    assert json.loads((tmp_path / 'ce_crw' / '0' / 'config.json').read_text())['method'] == 'ce_crw'
    assert not (tmp_path / 'ce_crw' / '.0.incomplete').exists()
    started.clear()
    assert call(planned, tmp_path)[0] == {}
    assert started == {}


@pytest.mark.parametrize('name', ['checkpoints/stage1', 'metrics.jsonl', 'timing.jsonl'])
def test_a_run_without_all_that_is_needed_shares_nothing(planned, started, tmp_path, name):
    call(planned[:1], tmp_path)
    (tmp_path / 'ce' / '0' / name).rename(tmp_path / 'elsewhere')
    started.clear()
    assert call(planned, tmp_path)[0] == {}
    assert started == {'ce_crw': [], 'rw': []}


def test_the_time_left_counts_a_shared_first_stage_once(planned):
    assert reproduce._costs(planned) == {'ce/0': 41, 'ce_crw/0': 6, 'rw/0': 41}  # 40 + 10 epochs


def test_rows_that_cannot_be_are_all_named_before_anything_is_trained(tmp_path):
    make = config_maker(CONFIGS, 'skin7', 'cpu_mobilenet_v2')
    runs = table_grid(make, 2, seeds=1, methods=['ce', 'bbn', 'rw'])
    with pytest.raises(InputError, match=r'bbn .*--methods=ce,rw'):
        check(runs, tmp_path)
    check(table_grid(make, 4, seeds=1), tmp_path)
    make = config_maker(CONFIGS, 'digits_lt', None, ['second_heads.tau_normalized.tau=-3.0'])
    runs = table_grid(make, 2, seeds=1)
    with pytest.raises(InputError, match=r'second_heads\.tau_normalized\.tau'):
        check(runs, tmp_path)


def test_a_run_of_another_config_is_refused(planned, tmp_path):
    (tmp_path / 'ce' / '0').mkdir(parents=True)
    (tmp_path / 'ce' / '0' / 'config.json').write_text('{"seed": 7}')
    with pytest.raises(InputError, match=r'ce/0 .*seed'):
        check(planned, tmp_path)


def test_a_failed_run_does_not_stop_the_others(planned, started, tmp_path, monkeypatch):
    train = reproduce.train

    def diverging(config, workdir, console):
        if config.method == 'rw':
            raise TrainingDiverged('the loss is not finite')
        result = train(config, workdir, console)
        (workdir / 'metrics.jsonl').write_text('half a li')  # cannot be taken over
        return result

    monkeypatch.setattr(reproduce, 'train', diverging)
    failures, _ = call(planned, tmp_path)
    assert set(failures) == {'ce_crw/0', 'rw/0'}
    assert failures['rw/0'] == 'the loss is not finite'
    assert 'TrainingDiverged' in (tmp_path / 'rw' / '0.log').read_text()
    assert set(started) == {'ce'}


def test_a_process_that_begins_later_takes_no_run_under_way(
    planned, started, tmp_path, monkeypatch
):
    train, others = reproduce.train, []

    def meanwhile(config, workdir, console):
        if config.method == 'ce_crw':  # whose first stage is finished
            others.append(call(planned[:2], tmp_path))
        return train(config, workdir, console)

    monkeypatch.setattr(reproduce, 'train', meanwhile)
    assert call(planned[:2], tmp_path)[0] == {}
    ((failures, text),) = others
    assert failures == {}
    assert 'ce_crw/0: left to another process' in text


def test_two_processes_share_a_grid(planned, started, tmp_path, monkeypatch):
    """While one trains a first stage, the other leaves its runs alone and takes the next."""
    train, others = reproduce.train, []

    def meanwhile(config, workdir, console):
        if config.method == 'ce':
            others.append(call(planned, tmp_path))
        return train(config, workdir, console)

    monkeypatch.setattr(reproduce, 'train', meanwhile)
    failures, text = call(planned, tmp_path)
    ((their_failures, their_text),) = others
    assert failures == their_failures == {}
    assert their_text.count('left to another process') == 2
    assert 'rw/0: MCR 50.00' in their_text
    assert 'rw/0: finished by another process' in text
    assert list(started) == ['rw', 'ce', 'ce_crw']
