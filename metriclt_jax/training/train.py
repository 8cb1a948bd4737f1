"""Figure 1 of the paper: stage 1 learns features, stage 2 re-trains the head, and both are tested.

A run is a pure function of its config. It can be stopped at any moment and started again.
"""

import json
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax import hosts
from metriclt_jax.data.leaks import SEEN_IMAGES, checksums
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.evaluation.evaluate import Evaluation
from metriclt_jax.files import read_json, write_atomically
from metriclt_jax.models.pretrained import Pretrained
from metriclt_jax.paths import reached, to_path
from metriclt_jax.progress import say
from metriclt_jax.training.checkpoints import latest_step, restore_variables
from metriclt_jax.training.loop import train_stage
from metriclt_jax.training.setup import Run, check, load_pretrained, make_run
from metriclt_jax.training.workdir import (
    EpochLog,
    claim,
    config_as_json,
    finished_results,
    require_writable,
)

_PACKAGES = ('metriclt-jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'pillow')


def train(
    config: ConfigDict, workdir: str | os.PathLike, console: Console | None = None, profile: int = 0
) -> dict[str, Any]:
    """Trains and evaluates what `config` describes, or resumes; returns what `results.json` has.

    Args:
        config: from a file of `configs/`; see `metriclt_jax.config`.
        workdir: a new directory, or one that this config made.
        console: where progress is printed; None prints to the terminal of the first process.
        profile: how many steps of each stage are traced into `workdir/profile`.

    Raises:
        InputError: something in the config or the data cannot be used.
        TrainingDiverged: the loss is not finite.
        Interrupted: SIGTERM or Ctrl-C arrived, here or on another host, and the state is saved.
        HostFailed: another process of a multi-host run failed.
    """
    started = time.monotonic()
    workdir = to_path(workdir)
    console = console or hosts.console()
    results = _finished(config, workdir)
    if results is not None:
        say(f'the run in {workdir} is complete; nothing is trained', console)
        return results

    # What can be wrong is found here, the cheap before images are decoded: nothing is compiled or
    # written yet.
    hosts.from_first(lambda: require_writable(workdir))
    with hosts.together():
        check(config)
    # If stage 1 resumes, the file of the weights may be gone.
    resumes = hosts.from_first(lambda: latest_step(workdir / 'checkpoints' / 'stage1')) is not None
    with hosts.together():
        pretrained = None if resumes else load_pretrained(config)
        run = make_run(config, workdir, console)
    hosts.require_same(
        run.dataset.fingerprint,
        f'the images or splits of {run.dataset.name} in {config.data.data_dir} differ from process '
        "0's; use the same prepared data on every host",
    )

    with ExitStack() as held:
        with hosts.together():
            if hosts.is_first():
                held.enter_context(claim(workdir, config))
                _record_start(run, pretrained)
        metrics, timing = _open_logs(run)
        earlier = sum(line['seconds'] for line in timing.lines)
        started_from = workdir / 'pretrained.json' if config.model.pretrained else None
        start = hosts.from_first(lambda: started_from and read_json(started_from))
        file = start and f'{start["file"]} (SHA-256 {start["sha256"][:8]}...)'
        say(f'the backbone starts from {file or "random parameters"}', console)

        with _stop_signals() as terminated:
            # Figure 1. Stage 1 trains the backbone; stage 2 only the head, on what stage 1 left.
            variables = None if pretrained is None else pretrained.variables
            for stage in run.stages:
                variables = train_stage(run, stage, variables, metrics, timing, terminated, profile)
            say('evaluating the trained stages', console)
            results, final = evaluate_stages(run, terminated)
        results['pretrained'] = start
        results['seconds'] = round(earlier + time.monotonic() - started, 1)
        results['versions'] = versions()
        with hosts.together():
            if hosts.is_first():
                if final is not None:
                    write_atomically(workdir / 'predictions.npz', final.to_npz())
                write_atomically(workdir / 'results.json', json.dumps(results, indent=1) + '\n')
    return results


def evaluate_stages(run: Run, terminated: list[bool]) -> tuple[dict[str, Any], Evaluation | None]:
    """Evaluates the checkpoints of all stages, until `terminated` is non-empty in any process.

    Returns `results.json` without start, times and versions, and the outputs for the test part at
    the end of the last stage, with features (None without a classifier).
    """
    stages, final = [], None
    for stage in run.stages:
        entry = {'name': stage.name, 'last': None, 'best': None}
        # Without a validation part, or without epochs, no step is the best.
        validated = run.can_evaluate(stage, 'validation') and stage.epochs > 0
        for which in ('last', 'best') if validated else ('last',):
            variables = restore_variables(run.checkpoints(stage), which, run.devices)
            entry[which] = dict.fromkeys(('validation', 'test'))
            for part in filter(lambda part: run.can_evaluate(stage, part), entry[which]):
                if hosts.any_of(bool(terminated)):
                    raise Interrupted('all stages are trained and saved')
                is_final = stage is run.stages[-1] and (which, part) == ('last', 'test')
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


def _finished(config: ConfigDict, workdir: Path) -> dict[str, Any] | None:
    """The results of an earlier run; checks that all processes have the config of the first."""
    values = config_as_json(config)
    values['data'].pop('data_dir')  # which may lie elsewhere on each host
    hosts.require_same(
        json.dumps(values, sort_keys=True),
        "this process's config differs from process 0's; start all processes with the same flags",
    )
    return hosts.from_first(lambda: finished_results(workdir, config))


def _record_start(run: Run, pretrained: Pretrained | None) -> None:
    """Notes the data and weights that a run begins with; it must resume with the same data."""
    path, now = run.workdir / 'data.json', {'sha256': run.dataset.fingerprint}
    with reached(path):
        if path.exists() and read_json(path) != now:
            raise InputError(
                f'the images or parts of {run.dataset.name} in {run.config.data.data_dir} are not '
                f'those that the run in {run.workdir} began with; use those, or another --workdir'
            )
    write_atomically(path, json.dumps(now) + '\n')
    seen = checksums(run.dataset.images, run.dataset.parts)
    write_atomically(run.workdir / SEEN_IMAGES, seen)
    if pretrained is not None:
        start = {'file': pretrained.file, 'sha256': pretrained.sha256}
        write_atomically(run.workdir / 'pretrained.json', json.dumps(start) + '\n')


def _open_logs(run: Run) -> list[EpochLog]:
    """`metrics.jsonl` and `timing.jsonl` up to the steps that the stages resume from."""
    # Read under the lock: another process may have trained meanwhile.
    steps = hosts.from_first(
        lambda: {stage.name: latest_step(run.checkpoints(stage)) or 0 for stage in run.stages}
    )
    logs = [EpochLog(run.workdir / f'{name}.jsonl') for name in ('metrics', 'timing')]
    with hosts.together(), reached(run.workdir):
        if not (run.workdir / 'config.json').exists():
            raise InputError(
                f'{run.workdir}, as process 0 created it, is not visible on this host; put '
                '--workdir on a file system that all hosts share'
            )
        for log in logs:
            log.resume(steps)
    return logs


@contextmanager
def _stop_signals() -> Iterator[list[bool]]:
    """A list that SIGTERM and Ctrl-C make non-empty; a second Ctrl-C ends the process."""
    terminated: list[bool] = []
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield terminated
        return

    def stop(signum, frame):
        if signum == signal.SIGINT and terminated:
            os._exit(130)
        if terminated:  # as a worker, which gets Ctrl-C and then SIGTERM
            return
        terminated.append(True)
        # Not through the console, which may be in the middle of printing.
        name = signal.Signals(signum).name
        with suppress(OSError):  # a pipe that nobody reads any more
            os.write(2, f'\n{name}: stopping after the current step or evaluation\n'.encode())

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield terminated
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
