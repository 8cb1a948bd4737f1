"""The runs of a grid, trained one after the other, and resumed however often they are stopped.

Runs that differ only in their second stage share the training of the first.
"""

import json
import shutil
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import jax
from rich.console import Console

from metriclt_jax.config import validate
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.files import appended, make_folder, write_atomically
from metriclt_jax.grids import PlannedRun
from metriclt_jax.paths import is_remote, reached
from metriclt_jax.progress import say
from metriclt_jax.training.checkpoints import copy_checkpoints
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.train import train
from metriclt_jax.training.workdir import config_text, is_made_by, lock_folder, require_writable

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
        rest = dict.fromkeys(run.config.method for run in planned)
        rest = ','.join(method for method in rest if method not in reasons)
        raise InputError(
            f'{", ".join(reasons)} cannot be trained on {next(iter(reasons.values()))}'
            + (f'; to leave them out, pass --methods={rest}' if rest else '')
        )
    for run in planned:
        is_made_by(root / run.name, run.config)  # raises if another config made it
    require_writable(root)


def execute(planned: Sequence[PlannedRun], root: Path, console: Console) -> dict[str, str]:
    """Trains and evaluates the runs that are not finished; returns why some failed, by name.

    A run whose first stage another one has trained starts from a copy of it, with the same results
    as alone. What a run prints goes to NAME.log; `console` gets a line for each run.

    Raises:
        InputError: another process is doing this below `root`.
        Interrupted: SIGTERM or Ctrl-C arrived; the same call resumes.
    """
    with lock_folder(root, 'reproducing in'), reached(root):
        return _execute(planned, root, console)


def _execute(planned: Sequence[PlannedRun], root: Path, console: Console) -> dict[str, str]:
    failures = {}
    to_do = [run for run in planned if not (root / run.name / 'results.json').exists()]
    say(f'{len(planned)} runs below {root}, {len(planned) - len(to_do)} of them finished', console)
    costs = _costs(planned)
    seconds, cost_done = 0.0, 0.0  # of the runs that succeeded
    for number, run in enumerate(to_do, start=1):
        console.print(f'{number}/{len(to_do)} {run.name}', end=' ', highlight=False)
        workdir = root / run.name
        make_folder(workdir.parent)
        started = time.monotonic()
        source = _first_stage_of(run, planned, root)
        with appended(workdir.with_name(f'{workdir.name}.log')) as log:
            try:
                if source is not None:
                    _adopt_first_stage(root / source.name, workdir, run)
                final = train(run.config, workdir, Console(file=log, width=80))['final']
                outcome = f'MCR {100 * final["mcr_all"]:.2f}' if final else 'no classifier'
            except Interrupted:
                console.print('stopped')
                raise
            except Exception as error:
                traceback.print_exc(file=log)
                failures[run.name] = ' '.join(str(error).split()) or repr(error)
                outcome = 'failed'
        jax.clear_caches()  # the programs of earlier runs would stay in memory
        took = time.monotonic() - started
        if run.name not in failures:
            seconds, cost_done = seconds + took, cost_done + costs[run.name]
        shared = '' if source is None else f', stage 1 of {source.name}'
        minutes = sum(costs[run.name] for run in to_do[number:]) * seconds / (cost_done or 1) / 60
        left = f'; about {minutes:.0f} min left' if minutes else ''
        say(f'{outcome} ({took:.0f} s{shared}){left}', console)
    return failures


def _first_stage_of(
    run: PlannedRun, planned: Sequence[PlannedRun], root: Path
) -> PlannedRun | None:
    """A finished run whose first stage a run that has not begun can start from."""
    if (root / run.name).exists():
        return None
    needed = ('results.json', 'checkpoints/stage1', *_LOGS)  # some may have been deleted
    for other in planned:
        shares = other is not run and other.first_stage == run.first_stage
        if shares and all((root / other.name / name).exists() for name in needed):
            return other
    return None


def _adopt_first_stage(source: Path, workdir: Path, run: PlannedRun) -> None:
    """Makes `workdir` the directory of a run that has just finished stage 1.

    A kill leaves nothing there or, behind gs://, a run that trains its own first stage.
    """
    aside = workdir
    if not is_remote(workdir):  # where folders can be renamed
        aside = workdir.with_name(f'{workdir.name}.incomplete')
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
    write_atomically(aside / 'config.json', config_text(run.config))
    for name in ('pretrained.json', 'data.json'):
        if (source / name).exists():
            write_atomically(aside / name, (source / name).read_bytes())
    for name in _LOGS:
        lines = (source / name).read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if json.loads(line)['stage'] == 'stage1']
        write_atomically(aside / name, b''.join(kept))
    copy_checkpoints(source / 'checkpoints' / 'stage1', aside / 'checkpoints' / 'stage1')
    if aside != workdir:
        aside.rename(workdir)


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
