"""Figure 1 of the paper: stage 1 learns features, stage 2 re-trains the head, and both are tested.

A run is a pure function of its config. It can be stopped at any moment and started again.
"""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax import hosts
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.evaluation.evaluate import Evaluation
from metriclt_jax.files import read_json, write_atomically
from metriclt_jax.training.checkpoints import latest_step, restore_variables
from metriclt_jax.training.loop import train_stage
from metriclt_jax.training.setup import Run, load_pretrained, make_run
from metriclt_jax.training.workdir import EpochLog, claim, config_as_json, finished_results

_PACKAGES = ('metriclt-jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'pillow')


def train(
    config: ConfigDict, workdir: str | os.PathLike, console: Console | None = None
) -> dict[str, Any]:
    """Trains and evaluates what `config` describes, or resumes where an earlier call stopped.

    Args:
        config: from a file of `configs/`; see `metriclt_jax.config`.
        workdir: a new directory, or one that this config made.
        console: where progress is printed; None prints to the terminal of the first process.

    Returns:
        The contents of `results.json`.

    Raises:
        InputError: something in the config or the data cannot be used; nothing was compiled.
        TrainingDiverged: the loss is not finite.
        Interrupted: SIGTERM or Ctrl-C arrived, here or on another host, and the state is saved.
        HostFailed: another process of a multi-host run failed.
    """
    started = time.monotonic()
    workdir = Path(workdir).expanduser()
    console = console or hosts.console()

    # What can be wrong is found here: nothing has been compiled or written yet.
    _require_same_config(config)
    results = hosts.from_first(lambda: finished_results(workdir, config))
    if results is not None:
        console.print(f'the run in {workdir} is complete; nothing is trained')
        return results
    with hosts.together():
        run = make_run(config, workdir, console)
        steps = {stage.name: latest_step(run.checkpoints(stage)) or 0 for stage in run.stages}
        resumes = steps['stage1'] > 0  # then the file of the weights may be gone
        pretrained = None if resumes else load_pretrained(run)
    hosts.require_same(
        run.dataset.fingerprint,
        f'the images or parts of {run.dataset.name} in {config.data.data_dir} are not those of the '
        'first process; use the same prepared data on all hosts',
    )

    with ExitStack() as held:
        with hosts.together():
            if hosts.is_first():
                held.enter_context(claim(workdir, config))
        metrics = EpochLog(workdir / 'metrics.jsonl', hosts.is_first())
        timing = EpochLog(workdir / 'timing.jsonl', hosts.is_first())
        with hosts.together():
            if not (workdir / 'config.json').exists():
                raise InputError(
                    f'work directory {workdir} is not the one that the first process made; use a '
                    '--workdir on a file system that all hosts share'
                )
            if hosts.is_first():
                _require_same_data(run)
                if pretrained is not None:
                    start = {'file': pretrained.file, 'sha256': pretrained.sha256}
                    write_atomically(workdir / 'pretrained.json', json.dumps(start) + '\n')
            metrics.resume(steps)
            timing.resume(steps)
        start = hosts.from_first(lambda: _read_start(run))
        console.print(_describe_start(start), highlight=False, soft_wrap=True)

        # Figure 1. Stage 1 trains the backbone; stage 2 only the head, on what stage 1 left.
        variables = None if pretrained is None else pretrained.variables
        terminated: list[bool] = []
        with _stop_signals(lambda: terminated.append(True)):
            for stage in run.stages:
                variables = train_stage(run, stage, variables, metrics, timing, terminated)

        console.print('evaluating the trained stages')
        with _stop_signals(lambda: _stop_evaluation(terminated)):
            results, final = evaluate_stages(run, lambda: _check_stop(terminated))
            _check_stop(terminated)
        results['pretrained'] = start
        earlier = sum(line['seconds'] for line in timing.lines)
        results['seconds'] = round(time.monotonic() - started + earlier, 1)
        results['versions'] = versions()
        with hosts.together():
            if hosts.is_first():
                if final is not None:
                    write_atomically(workdir / 'predictions.npz', final.to_npz())
                text = json.dumps(results, indent=1) + '\n'
                write_atomically(workdir / 'results.json', text)
    return results


def evaluate_stages(
    run: Run, check_stop: Callable[[], None] = lambda: None
) -> tuple[dict[str, Any], Evaluation | None]:
    """Evaluates the checkpoints of all stages.

    Args:
        run: whose stages are trained.
        check_stop: called before each evaluation; may raise what ends them.

    Returns:
        The contents of `results.json` without start, times and versions; and the outputs for the
        test part at the end of the last stage, with features (None without a classifier).
    """
    stages, final = [], None
    for stage in run.stages:
        entry = {'name': stage.name, 'last': None, 'best': None}
        for which in ('last', 'best'):
            check_stop()
            try:
                variables = restore_variables(run.checkpoints(stage), which, run.devices)
            except InputError:
                if which == 'last':
                    raise
                continue  # without a validation part no step is the best
            entry[which] = dict.fromkeys(('validation', 'test'))
            for part in entry[which]:
                if run.can_evaluate(stage, part):
                    is_final = (stage, which, part) == (run.stages[-1], 'last', 'test')
                    evaluation = run.evaluate(stage, variables, part, features=is_final)
                    entry[which][part] = run.summarize(evaluation)
                    final = evaluation if is_final else final
        stages.append(entry)
    dataset = run.dataset
    results = {
        'dataset': dataset.name,
        'method': run.config.method,
        'model': run.config.model.name,
        'seed': run.config.seed,
        'class_names': list(dataset.class_names),
        'train_counts': [int(count) for count in dataset.train_counts],
        'groups': run.class_groups,
        'stages': stages,
        'final': stages[-1]['last']['test'],
    }
    return results, final


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {'python': platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}


def _require_same_config(config: ConfigDict) -> None:
    """Checks that all processes have the config of the first; their data may lie elsewhere."""
    values = config_as_json(config)
    values['data'].pop('data_dir')
    hosts.require_same(
        json.dumps(values, sort_keys=True),
        'the config is not that of the first process; start all processes with the same flags',
    )


def _require_same_data(run: Run) -> None:
    """Checks that a run resumes with the images that it began with, wherever they lie now."""
    path = run.workdir / 'data.json'
    now = {'sha256': run.dataset.fingerprint}
    if path.exists() and read_json(path) != now:
        raise InputError(
            f'the images or parts of {run.dataset.name} in {run.config.data.data_dir} are not '
            f'those that the run in {run.workdir} began with; use those, or another --workdir'
        )
    write_atomically(path, json.dumps(now) + '\n')


def _read_start(run: Run) -> dict[str, str] | None:
    """File and SHA-256 of the weights that the run started from, or None."""
    return read_json(run.workdir / 'pretrained.json') if run.config.model.pretrained else None


def _describe_start(start: dict[str, str] | None) -> str:
    if start is None:
        return 'the backbone starts from random parameters'
    return f'the backbone starts from {start["file"]} (SHA-256 {start["sha256"][:8]}...)'


@contextmanager
def _stop_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Calls `handler` on SIGTERM and Ctrl-C inside the block; a second Ctrl-C ends the process."""
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield
        return
    pressed = []

    def stop(signum, frame):
        if signum == signal.SIGINT and pressed:
            os._exit(130)
        pressed.append(signum)
        # Not through the console, which may be in the middle of printing.
        name = signal.Signals(signum).name
        os.write(2, f'\n{name}: stopping after the current step\n'.encode())
        handler()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _stop_evaluation(terminated: list[bool]) -> None:
    """Stops at once, unless there are other processes, which cannot continue alone."""
    terminated.append(True)
    if jax.process_count() == 1:
        _check_stop(terminated)


def _check_stop(terminated: list[bool]) -> None:
    if hosts.any_of(bool(terminated)):
        raise Interrupted('all stages are trained and saved; their evaluation was stopped')
