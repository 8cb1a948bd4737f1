"""The runs of a grid, trained one after the other, and resumed however often they are stopped.

Runs that differ only in their second stage share the training of the first.
"""

import contextlib
import json
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from metriclt_jax.config import validate
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.files import write_atomically
from metriclt_jax.grids import PlannedRun
from metriclt_jax.training import train
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.workdir import config_as_json, is_made_by, lock_folder

_SECOND_STAGE_COST = 0.5  # of an epoch of stage 1: its backward pass stops at the head
_LOGS = ('metrics.jsonl', 'timing.jsonl')


class Failure(NamedTuple):
    """A run that failed, and why."""

    name: str
    reason: str


def check(planned: Sequence[PlannedRun], root: Path) -> None:
    """Checks all configs as far as possible without data, and what is below `root` already.

    Raises:
        InputError: names the rows that cannot be trained and the `--methods` without them, or a run
            that another config made.
    """
    reasons = {}
    for one in planned:
        try:
            validate(one.config)
            make_models(one.config, make_stages(one.config), num_classes=2)
        except InputError as error:
            reasons.setdefault(one.config.method, f'{one.config.model.name}: {error}')
    if reasons:
        rest = dict.fromkeys(one.config.method for one in planned)
        rest = ','.join(method for method in rest if method not in reasons)
        raise InputError(
            f'{", ".join(reasons)} cannot be trained with {next(iter(reasons.values()))}'
            + (f'; without them: --methods={rest}' if rest else '')
        )
    for one in planned:
        workdir = root / one.name
        if workdir.exists() and any(workdir.iterdir()):
            try:
                is_made_by(workdir, one.config)
            except InputError as error:
                raise InputError(f'{one.name}: {error}') from None


def execute(planned: Sequence[PlannedRun], root: Path, console: Console) -> list[Failure]:
    """Trains and evaluates the runs that are not finished, each to the end or to its failure.

    A run whose first stage another one has trained starts from a copy of it, with the same results
    as alone. What a run prints goes to NAME.log.

    Args:
        planned: from `table_grid` or `figure_grid`.
        root: parent of the work directories.
        console: gets a line for each run, with the time left.

    Raises:
        InputError: another process is doing this below `root`.
        Interrupted: SIGTERM or Ctrl-C arrived; the same call resumes.
    """
    with lock_folder(root, 'reproducing in'):
        return _execute(planned, root, console)


def _execute(planned: Sequence[PlannedRun], root: Path, console: Console) -> list[Failure]:
    failures = []
    to_do = [one for one in planned if not _is_finished(root / one.name)]
    console.print(
        f'{len(planned)} runs below {root}, {len(planned) - len(to_do)} of them finished',
        highlight=False,
        soft_wrap=True,
    )
    costs = [_cost(one, planned, root) for one in to_do]
    seconds, cost_done = 0.0, 0.0  # of the runs that succeeded
    for number, one in enumerate(to_do, start=1):
        console.print(f'{number}/{len(to_do)} {one.name}', end=' ', highlight=False)
        workdir = root / one.name
        workdir.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        source = _first_stage_of(one, planned, root)
        with workdir.with_name(f'{workdir.name}.log').open('a') as log:
            try:
                if source is not None:
                    _adopt_first_stage(root / source.name, workdir, one)
                results = train(one.config, workdir, Console(file=log, width=80))
            except Interrupted:
                console.print('stopped')
                raise
            except Exception as error:
                traceback.print_exc(file=log)
                failures.append(Failure(one.name, ' '.join(str(error).split()) or repr(error)))
                outcome = 'failed'
            else:
                final = results['final']
                outcome = f'MCR {100 * final["mcr_all"]:.2f}' if final else 'no classifier'
        jax.clear_caches()  # the programs of earlier runs would stay in memory
        took = time.monotonic() - started
        if outcome != 'failed':
            seconds, cost_done = seconds + took, cost_done + costs[number - 1]
        shared = '' if source is None else f', stage 1 of {source.name}'
        left = _time_left(sum(costs[number:]), seconds, cost_done)
        console.print(f'{outcome} ({took:.0f} s{shared}); {left}', highlight=False, soft_wrap=True)
    return failures


def _first_stage_of(
    one: PlannedRun, planned: Sequence[PlannedRun], root: Path
) -> PlannedRun | None:
    """A finished run whose first stage a run that has not begun can start from."""
    if (root / one.name).exists():
        return None
    needed = ('results.json', 'checkpoints/stage1', *_LOGS)  # some may have been deleted
    for other in planned:
        shares = other is not one and other.first_stage == one.first_stage
        if shares and all((root / other.name / name).exists() for name in needed):
            return other
    return None


def _adopt_first_stage(source: Path, workdir: Path, one: PlannedRun) -> None:
    """Makes `workdir`, in one step, the directory of a run that has just finished stage 1."""
    aside = workdir.with_name(f'{workdir.name}.incomplete')
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source / 'checkpoints' / 'stage1', aside / 'checkpoints' / 'stage1')
    for name in _LOGS:
        lines = (source / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)['stage'] == 'stage1']
        (aside / name).write_text(''.join(kept))
    for name in ('pretrained.json', 'data.json'):
        if (source / name).exists():
            shutil.copy(source / name, aside)
    text = json.dumps(config_as_json(one.config), indent=2) + '\n'
    write_atomically(aside / 'config.json', text)
    aside.rename(workdir)


def _is_finished(workdir: Path) -> bool:
    return (workdir / 'results.json').exists()


def _cost(one: PlannedRun, planned: Sequence[PlannedRun], root: Path) -> float:
    """What is left to do in a run, in epochs of stage 1."""
    earlier = planned[: planned.index(one)]
    shares = any(one.first_stage == other.first_stage for other in earlier)
    left = {stage.name: stage.epochs for stage in make_stages(one.config)}
    if shares or _first_stage_of(one, planned, root):
        left['stage1'] = 0
    for stage, done in _epochs_done(root / one.name / 'metrics.jsonl').items():
        left[stage] = max(left[stage] - done, 0)
    return 1 + left['stage1'] + _SECOND_STAGE_COST * left.get('stage2', 0)  # 1: compile, evaluate


def _epochs_done(log: Path) -> dict[str, int]:
    """The epochs that a stopped run has completed, by stage."""
    done = {}
    for text in log.read_text().splitlines() if log.exists() else []:
        with contextlib.suppress(json.JSONDecodeError):  # the line that a kill cut off
            stage = json.loads(text)['stage']
            done[stage] = done.get(stage, 0) + 1
    return done


def _time_left(cost: float, seconds: float, cost_done: float) -> str:
    if not cost:
        return 'all done'
    if not cost_done:
        return 'time left unknown'
    return f'about {seconds / cost_done * cost / 60:.0f} min left'
