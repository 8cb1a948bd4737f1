"""The runs of a grid, one after the other, however often they are stopped."""

import json
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.reproduction.grid import PlannedRun
from metriclt_jax.training.run import run
from metriclt_jax.training.stages import make_stages
from metriclt_jax.training.workdir import config_as_json, is_made_by, lock_folder, write_atomically

# Of stage 2's epochs to stage 1's in time: its backward pass is left out.
_SECOND_STAGE_COST = 0.5
_LOGS = ('metrics.jsonl', 'timing.jsonl')


class Failure(NamedTuple):
    """A run that could not be finished, and why."""

    name: str
    reason: str


def execute(planned: Sequence[PlannedRun], root: Path, console: Console) -> list[Failure]:
    """Trains and evaluates what is not finished yet; goes on when a run fails.

    A run whose first stage another run has trained starts from a copy of it, and ends with the
    numbers that it would have reached alone. What a run prints goes to NAME.log.

    Args:
        planned: from `grid`.
        root: their work directories are below it.
        console: gets a line for each run, with the time left.

    Returns:
        The runs that failed.

    Raises:
        InputError: another process does that below the same root.
        Interrupted: SIGTERM or Ctrl-C came; the same call goes on.
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
    clock = _Clock([_cost(one, planned, root) for one in to_do])
    for number, one in enumerate(to_do, start=1):
        console.print(f'{number}/{len(to_do)} {one.name}', end=' ', highlight=False)
        workdir = root / one.name
        workdir.parent.mkdir(parents=True, exist_ok=True)
        started = time.monotonic()
        source = first_stage_of(one, planned, root)
        with workdir.with_name(f'{workdir.name}.log').open('a') as log:
            try:
                if source is not None:
                    adopt_first_stage(root / source.name, workdir, one)
                results = run(one.config, workdir, Console(file=log, width=80))
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
        # Programs of earlier runs would stay in memory: 45 MiB a run of digits_lt.
        jax.clear_caches()
        shared = '' if source is None else f', stage 1 of {source.name}'
        seconds = time.monotonic() - started
        left = clock.tick(seconds, counts=outcome != 'failed')
        console.print(
            f'{outcome} ({seconds:.0f} s{shared}); {left}',
            highlight=False,
            soft_wrap=True,
        )
    return failures


def first_stage_of(one: PlannedRun, planned: Sequence[PlannedRun], root: Path) -> PlannedRun | None:
    """The finished run whose first stage `one` can start from; None if there is none or no need."""
    if (root / one.name).exists():  # it has begun, and goes on
        return None
    for other in planned:
        same = other is not one and other.first_stage == one.first_stage
        workdir = root / other.name
        # Checkpoints, or logs, may have been removed to save space.
        needed = ('checkpoints/stage1', *_LOGS)
        if same and _is_finished(workdir) and all((workdir / name).exists() for name in needed):
            return other
    return None


def adopt_first_stage(source: Path, workdir: Path, one: PlannedRun) -> None:
    """Makes `workdir` the directory of a run that has just finished its first stage.

    It appears in one step, when all of it is there.
    """
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
    first = 0 if shares or first_stage_of(one, planned, root) else one.config.stage1.epochs
    second = sum(stage.epochs for stage in make_stages(one.config)[1:])
    first_done, second_done = _epochs_done(root / one.name)
    left = max(first - first_done, 0) + _SECOND_STAGE_COST * max(second - second_done, 0)
    return left + 1  # compiling and evaluating


def _epochs_done(workdir: Path) -> tuple[int, int]:
    """The epochs of the first and of later stages that a run that was stopped has behind it."""
    path = workdir / 'metrics.jsonl'
    if not path.exists():
        return 0, 0
    lines = path.read_text().splitlines()
    first = sum('"stage": "stage1"' in line for line in lines)
    return first, len(lines) - first


class _Clock:
    """The time left, from what the runs so far took for their cost."""

    def __init__(self, costs: Sequence[float]) -> None:
        self._costs, self._spent, self._seconds = list(costs), 0.0, 0.0

    def tick(self, seconds: float, *, counts: bool) -> str:
        """Takes note of a run that took `seconds`, which say nothing unless it `counts`."""
        cost, left = self._costs.pop(0), sum(self._costs)
        if counts:
            self._spent, self._seconds = self._spent + cost, self._seconds + seconds
        if not left:
            return 'all done'
        if not self._spent:
            return 'time left unknown'
        return f'about {self._seconds / self._spent * left / 60:.0f} min left'


def check(planned: Sequence[PlannedRun], root: Path) -> None:
    """Refuses a grid whose finished or begun runs have other configs.

    Raises:
        InputError: the first of them, and the fields that differ.
    """
    for one in planned:
        workdir = root / one.name
        if workdir.exists() and any(workdir.iterdir()):
            try:
                is_made_by(workdir, one.config)
            except InputError as error:
                raise InputError(f'{one.name}: {error}') from None
