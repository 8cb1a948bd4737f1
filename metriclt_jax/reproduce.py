"""The runs of a grid, trained by one or more processes, and resumed however often it is stopped.

Runs that differ only in their second stage share the training of the first.
"""

import itertools
import json
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
from rich.console import Console

from metriclt_jax.config import validate
from metriclt_jax.data.storage import written_aside
from metriclt_jax.errors import Busy, InputError, Interrupted
from metriclt_jax.files import appended, make_folder, write_atomically
from metriclt_jax.grids import PlannedRun
from metriclt_jax.paths import is_remote, reached
from metriclt_jax.progress import say, short
from metriclt_jax.training.checkpoints import copy_checkpoints
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.train import train
from metriclt_jax.training.workdir import config_text, is_made_by, lock_folder, require_writable
from metriclt_jax.workers import work_in_processes

_SECOND_STAGE_COST = 0.5  # of an epoch of stage 1: its backward pass stops at the head
_LOGS = ('metrics.jsonl', 'timing.jsonl')


def check(planned: Sequence[PlannedRun], root: Path) -> None:
    """Checks all configs as far as possible without data, and what is below `root` already."""
    reasons = {}
    for run in planned:
        try:
            validate(run.config)
            make_models(run.config, make_stages(run.config), num_classes=2)
        except InputError as error:
            reasons.setdefault(run.config.method, f'{run.config.model.name}: {error}')
    if reasons:
        methods = dict.fromkeys(run.config.method for run in planned)
        rest = ','.join(method for method in methods if method not in reasons)
        hint = f'; to leave them out, pass --methods={rest}' if rest else ''
        reason = next(iter(reasons.values()))
        raise InputError(f'{", ".join(reasons)} cannot be trained on {reason}{hint}')
    for run in planned:
        is_made_by(root / run.name, run.config)  # raises if another config made it
    require_writable(root)


class Finished(NamedTuple):
    """The end of a run."""

    name: str
    outcome: str
    failure: str | None = None
    seconds: float = 0.0
    first_stage_of: str | None = None  # the run that has trained it


def execute(
    planned: Sequence[PlannedRun],
    root: Path,
    console: Console,
    workers: int = 1,
    prepare: Callable[[], None] = lambda: None,
) -> dict[str, str]:
    """Trains and evaluates the runs that are not finished; returns why some failed, by name.

    A run whose first stage another one has trained starts from a copy of it, with the same results
    as alone. What a run prints goes to NAME.log; `console` gets its begin and end. `workers`
    processes share the work, each of which calls `prepare` first; so do other processes, on other
    hosts too, that do this below the same `root`. After `Interrupted` the same call resumes.
    """
    with reached(root):
        to_do = [run for run in planned if not (root / run.name / 'results.json').exists()]
    done = len(planned) - len(to_do)
    say(f'{len(planned)} runs below {root}, {done} of them finished', console)
    families: dict[str, list[PlannedRun]] = {}
    for run in to_do:
        families.setdefault(run.first_stage, []).append(run)
    work = partial(_train_family, planned=planned, root=root)
    if workers > 1:
        events = work_in_processes(families.values(), work, workers, prepare)
    else:
        events = itertools.chain.from_iterable(map(work, families.values()))
    costs, failures = _costs(planned), {}
    left, spent, started = sum(costs[run.name] for run in to_do), 0.0, time.monotonic()
    for event in events:
        if isinstance(event, str):
            say(f'{event} ...', console)
            continue
        done += 1
        left -= costs[event.name]
        if event.failure:
            failures[event.name] = event.failure
        elif event.seconds:
            spent += costs[event.name]
        seconds = left * (time.monotonic() - started) / spent if spent else 0
        shared = f', stage 1 of {event.first_stage_of}' if event.first_stage_of else ''
        rest = f'; about {short(seconds)} left' if seconds > 0 else ''
        took = f' ({event.seconds:.0f} s{shared})' if event.seconds else ''
        say(f'{done}/{len(planned)} {event.name}: {event.outcome}{took}{rest}', console)
    return failures


def _train_family(
    runs: Sequence[PlannedRun], planned: Sequence[PlannedRun], root: Path
) -> Iterator[str | Finished]:
    """Trains runs that share their first stage; yields a name at the begin and how it ended."""
    # Others began when fewer were finished, so the name is the first of all.
    first = next(run for run in planned if run.first_stage == runs[0].first_stage)
    try:
        with lock_folder(root / '.locks' / first.name):
            for run in runs:
                if (root / run.name / 'results.json').exists():  # by another process, meanwhile
                    yield Finished(run.name, 'finished by another process')
                else:
                    yield run.name
                    yield _train(run, planned, root)
    except Busy:
        yield from (Finished(run.name, 'left to another process') for run in runs)


def _train(run: PlannedRun, planned: Sequence[PlannedRun], root: Path) -> Finished:
    started = time.monotonic()
    workdir, source, failure = root / run.name, _first_stage_of(run, planned, root), None
    make_folder(workdir.parent)
    with appended(workdir.with_name(f'{workdir.name}.log')) as log:
        try:
            if source is not None:
                _adopt_first_stage(root / source, workdir, run)
            final = train(run.config, workdir, Console(file=log, width=80))['final']
            outcome = f'MCR {100 * final["mcr_all"]:.2f}' if final else 'no classifier'
        except Interrupted:
            raise
        except Exception as error:  # whatever it is, the other runs go ahead
            traceback.print_exc(file=log)
            failure = ' '.join(str(error).split()) or repr(error)
            outcome = 'failed'
    jax.clear_caches()  # the programs of earlier runs would stay in memory
    return Finished(run.name, outcome, failure, time.monotonic() - started, source)


def _first_stage_of(run: PlannedRun, planned: Sequence[PlannedRun], root: Path) -> str | None:
    """The name of a finished run whose first stage a run that has not begun can start from."""
    if (root / run.name).exists():
        return None
    needed = ('results.json', 'checkpoints/stage1', *_LOGS)  # some may have been deleted
    others = (o.name for o in planned if o is not run and o.first_stage == run.first_stage)
    finished = (o for o in others if all((root / o / name).exists() for name in needed))
    return next(finished, None)


def _adopt_first_stage(source: Path, workdir: Path, run: PlannedRun) -> None:
    """Makes `workdir` the directory of a run that has just finished stage 1.

    A kill leaves nothing there or, behind gs://, a run that trains its own first stage.
    """
    with nullcontext(workdir) if is_remote(workdir) else written_aside(workdir) as aside:
        write_atomically(aside / 'config.json', config_text(run.config))
        for name in ('pretrained.json', 'data.json'):
            if (source / name).exists():
                write_atomically(aside / name, (source / name).read_bytes())
        for name in _LOGS:
            lines = (source / name).read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if json.loads(line)['stage'] == 'stage1']
            write_atomically(aside / name, b''.join(kept))
        copy_checkpoints(source / 'checkpoints' / 'stage1', aside / 'checkpoints' / 'stage1')


def _costs(planned: Sequence[PlannedRun]) -> dict[str, float]:
    """The work of each run, in epochs of stage 1; of those that share one, the first trains it."""
    costs, trained = {}, set()
    for run in planned:
        epochs = {stage.name: stage.epochs for stage in make_stages(run.config)}
        if run.first_stage in trained:
            epochs['stage1'] = 0
        trained.add(run.first_stage)
        # 1 is for compiling and evaluating.
        costs[run.name] = 1 + epochs['stage1'] + _SECOND_STAGE_COST * epochs.get('stage2', 0)
    return costs
