"""A run: the two stages of figure 1 one after the other, then the evaluation of what they made.

A run is a pure function of its config. It can be stopped at any moment and started again.
"""

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax import hosts
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.evaluation.evaluate import Evaluation
from metriclt_jax.models.pretrained import Pretrained
from metriclt_jax.training.loop import train_stage
from metriclt_jax.training.results import evaluate_stages, predictions
from metriclt_jax.training.setup import Run, check_batches, load_pretrained, make_run
from metriclt_jax.training.workdir import (
    EpochLog,
    claim,
    is_made_by,
    read_json,
    require_same,
    write_atomically,
)
from metriclt_jax.versions import versions


def run(config: ConfigDict, workdir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Trains and evaluates what `config` describes, or goes on where an earlier call stopped.

    Args:
        config: a config of `configs/`, see `metriclt_jax.config`.
        workdir: a new directory, or one that this config made.
        console: where progress is printed; if None the terminal, and of several processes the
            first one's.

    Returns:
        The contents of `results.json`.

    Raises:
        InputError: something in the config or the data cannot be used; nothing was compiled.
        Interrupted: SIGTERM or Ctrl-C came, here or in another process, and the state was saved.
    """
    started = time.monotonic()
    workdir = Path(workdir).expanduser()
    console = console or hosts.console()
    require_same(config)
    results = hosts.of_first(lambda: _finished(workdir, config))
    if results is not None:
        console.print(f'the run in {workdir} is complete; nothing is trained')
        return results
    used = versions()
    this = hosts.together(lambda: _prepare(config, workdir, console))
    _require_one_dataset(this)
    # A run that goes on has its parameters; the file of the weights may be gone.
    is_new = not this.latest_step(this.stages[0])
    pretrained = hosts.together(lambda: load_pretrained(this)) if is_new else None

    with claim(workdir, config):
        hosts.on_first(lambda: _require_same_data(this))
        metrics, timing = EpochLog(workdir / 'metrics.jsonl'), EpochLog(workdir / 'timing.jsonl')
        steps = {stage.name: this.latest_step(stage) or 0 for stage in this.stages}
        metrics.resume(steps)
        timing.resume(steps)
        earlier = sum(line['seconds'] for line in timing.lines)
        start = _describe_start(this, pretrained)
        variables = pretrained and pretrained.variables
        terminated: list[bool] = []
        with _stopping(lambda: terminated.append(True)):
            for stage in this.stages:
                variables = train_stage(this, stage, variables, metrics, timing, terminated)
        this.console.print('evaluating the trained stages')
        with _stopping(lambda: _stop_evaluating(terminated)):
            results, final = evaluate_stages(this, lambda: _check_stop(terminated))
            _check_stop(terminated)
            hosts.on_first(lambda: _write_outputs(this, metrics, results, final))
        results['pretrained'] = start
        results['seconds'] = round(earlier + time.monotonic() - started, 1)
        results['versions'] = used
        text = json.dumps(results, indent=1) + '\n'
        hosts.on_first(lambda: write_atomically(workdir / 'results.json', text))
    return results


def _finished(workdir: Path, config: ConfigDict) -> dict[str, Any] | None:
    """The results of an earlier run, or None if it has not come to them."""
    path = workdir / 'results.json'
    return read_json(path) if is_made_by(workdir, config) and path.exists() else None


def _prepare(config: ConfigDict, workdir: Path, console: Console) -> Run:
    this = make_run(config, workdir, console)
    check_batches(this)
    return this


def _require_one_dataset(this: Run) -> None:
    """Checks that all processes have the images and parts of the first, wherever these lie."""
    own = this.dataset.fingerprint
    first = hosts.of_first(lambda: own)

    def check() -> None:
        if own != first:
            raise InputError(
                f'the images or parts of {this.dataset.name} in {this.config.data.data_dir} are '
                'not those of the first process; use the same prepared data on all hosts'
            )

    hosts.together(check)


def _require_same_data(this: Run) -> None:
    """Checks that a run goes on with the images that it began with, wherever they lie now."""
    path = this.workdir / 'data.json'
    now = {'sha256': this.dataset.fingerprint}
    if path.exists() and read_json(path) != now:
        raise InputError(
            f'the images or parts of {this.dataset.name} in {this.config.data.data_dir} are not '
            f'those that the run in {this.workdir} began with; use them, or another --workdir'
        )
    write_atomically(path, json.dumps(now) + '\n')


def _describe_start(this: Run, pretrained: Pretrained | None) -> dict[str, str] | None:
    """Prints what the backbone started from; its file and SHA-256, or None if it was random.

    They are written down for a run that goes on without the file.
    """
    path = this.workdir / 'pretrained.json'

    def remember() -> dict[str, str] | None:
        if pretrained is not None:
            start = {'file': pretrained.file, 'sha256': pretrained.sha256}
            write_atomically(path, json.dumps(start) + '\n')
        return read_json(path) if this.config.model.pretrained else None

    start = hosts.of_first(remember)
    text = 'random parameters'
    if start is not None:
        text = f'the weights of {start["file"]} (SHA-256 {start["sha256"][:8]}...)'
    this.console.print(f'the backbone starts from {text}', highlight=False, soft_wrap=True)
    return start


def _write_outputs(
    this: Run, log: EpochLog, results: dict[str, Any], final: Evaluation | None
) -> None:
    if final is not None:
        write_atomically(this.workdir / 'predictions.npz', predictions(this, 'test', final))


@contextmanager
def _stopping(handler: Callable[[], None]) -> Iterator[None]:
    """Calls `handler` on SIGTERM and Ctrl-C, in the block; a second Ctrl-C ends the process."""
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield
        return
    pressed = []

    def stop(signum, frame):
        if signum == signal.SIGINT and pressed:
            os._exit(130)
        pressed.append(signum)
        # Not through the console, which may be in the middle of printing.
        os.write(
            2, f'\n{signal.Signals(signum).name}: stopping after the step under way\n'.encode()
        )
        handler()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _stop_evaluating(terminated: list[bool]) -> None:
    """Stops at once, unless there are other processes, which cannot go on alone."""
    terminated.append(True)
    if jax.process_count() == 1:
        _check_stop(terminated)


def _check_stop(terminated: list[bool]) -> None:
    if hosts.any_of(bool(terminated)):
        raise Interrupted('all stages are trained and saved; their evaluation was stopped')
