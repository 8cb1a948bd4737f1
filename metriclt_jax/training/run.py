"""A run: the two stages of figure 1 one after the other, then the evaluation of what they made.

A run is a pure function of its config. It can be stopped at any moment and started again.
"""

import collections
import json
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax.config import validate
from metriclt_jax.data import Dataset, load_dataset
from metriclt_jax.data.pipeline import prefetch_to_devices, steps_per_epoch, train_batches
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.evaluate import Evaluation, evaluate, make_eval_step
from metriclt_jax.evaluation.metrics import class_groups, summarize
from metriclt_jax.models import initialize
from metriclt_jax.training.checkpoints import Best, StageCheckpoints
from metriclt_jax.training.progress import Progress, Stopwatch
from metriclt_jax.training.schedules import Schedule, make_class_weights
from metriclt_jax.training.stages import Stage, make_model, make_stages
from metriclt_jax.training.state import TrainState, create_state
from metriclt_jax.training.steps import make_train_step, place
from metriclt_jax.training.workdir import MetricsLog, claim, write_atomically
from metriclt_jax.versions import versions

# Updates that may be under way at once. The host waits for an older one, so that it cannot run
# ahead and fill the memory with batches; the devices never wait for the host.
_IN_FLIGHT = 8


class Interrupted(Exception):
    """SIGTERM came; the state was saved and the same command goes on from it."""


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    config: ConfigDict
    workdir: Path
    devices: Sequence[jax.Device]
    stages: tuple[Stage, ...]
    dataset: Dataset
    groups: dict[str, list[int]]
    model: nn.Module
    console: Console

    def checkpoints(self, stage: Stage) -> StageCheckpoints:
        """The checkpoints of a stage."""
        return StageCheckpoints(self.workdir / 'checkpoints' / stage.name)

    def steps_per_epoch(self, stage: Stage) -> int:
        """Updates in an epoch; the last incomplete batch is dropped."""
        return steps_per_epoch(self.dataset, stage.batch_size)

    def initial_state(self, stage: Stage, previous: Any = None) -> TrainState:
        """The state at step 0 of a stage, from the variables that the previous stage left."""
        seed = _stage_seed(self.config.seed, stage)
        variables = initialize(self.model, seed, self.config.augment.crop)
        if previous is not None:
            head = variables['params']['head']
            variables = previous
            if stage.head == 'fresh':
                variables = {**previous, 'params': {**previous['params'], 'head': head}}
        state = create_state(
            stage,
            variables,
            jax.random.key(seed),
            self.steps_per_epoch(stage),
            len(self.dataset.class_names),
        )
        return place(state, self.devices)


def run(config: ConfigDict, workdir: str | Path, console: Console | None = None) -> dict[str, Any]:
    """Trains and evaluates what `config` describes, or goes on where an earlier call stopped.

    Args:
        config: a config of `configs/`, see `metriclt_jax.config`.
        workdir: a new directory, or one that this config made.
        console: where progress is printed; the terminal if None.

    Returns:
        The contents of `results.json`.

    Raises:
        InputError: something in the config or the data cannot be used; nothing was compiled.
        Interrupted: SIGTERM came and the state was saved.
    """
    started = time.monotonic()
    workdir = Path(workdir).expanduser()
    this = make_run(config, workdir, console or Console())
    claim(workdir, config)
    results_path = workdir / 'results.json'
    if results_path.exists():
        return json.loads(results_path.read_text())

    with _terminations() as terminated:
        log = MetricsLog(workdir / 'metrics.jsonl')
        log.resume({stage.name: _latest_step(this, stage) for stage in this.stages})
        eval_step = make_eval_step(this.model, this.stages[0].geometry, this.devices)
        variables = None
        for stage in this.stages:
            variables = train_stage(this, stage, variables, eval_step, log, terminated)
        results, features = evaluate_stages(this, eval_step)
        if config.figures:
            _draw_figures(this, log, results, features)
    results['seconds'] = round(time.monotonic() - started, 1)
    results['versions'] = versions()
    write_atomically(results_path, json.dumps(results, indent=1) + '\n')
    return results


def make_run(config: ConfigDict, workdir: Path, console: Console) -> Run:
    """Checks the config, reads the data's index and makes the model; compiles and writes nothing.

    (A data set that is not in its cache yet is decoded into it.)
    """
    devices = jax.local_devices()
    if not 0 <= config.num_devices <= len(devices):
        raise InputError(
            f'config field num_devices is {config.num_devices}; allowed: 0 (all) to {len(devices)}'
        )
    devices = devices[: config.num_devices or None]
    validate(config, len(devices))
    stages = make_stages(config)
    dataset = load_dataset(config.data)
    for stage in stages:
        steps_per_epoch(dataset, stage.batch_size)  # raises if there is not even one
    for part in ('validation', 'test'):
        _require_every_class(dataset, part)
    groups = class_groups(dataset.train_counts, config.data.major, config.data.minor)
    model = make_model(config, stages, len(dataset.class_names))
    return Run(config, workdir, devices, stages, dataset, groups, model, console)


def _require_every_class(dataset: Dataset, part: str) -> None:
    labels = dataset.labels[dataset.parts[part]]
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    if len(labels) and not counts.all():
        missing = [dataset.class_names[c] for c in np.flatnonzero(counts == 0)]
        raise InputError(
            f'the {part} part of {dataset.name} has no image of {", ".join(missing)}, so there is '
            'no mean class recall; allowed: at least one image of each class, or no such part'
        )


def train_stage(
    this: Run,
    stage: Stage,
    previous: Any,
    eval_step: Any,
    log: MetricsLog,
    terminated: list[bool],
) -> Any:
    """Trains a stage from where its checkpoints say, to its end.

    Args:
        previous: the variables that the stage before left; None for the first.
        eval_step: from `make_eval_step`.
        log: gets a line an epoch.
        terminated: becomes non-empty when SIGTERM has come.

    Returns:
        The model's variables at the end of the stage.
    """
    steps_per_epoch = this.steps_per_epoch(stage)
    last_step = stage.epochs * steps_per_epoch
    checkpoints = this.checkpoints(stage)
    state, best = this.initial_state(stage, previous), None
    if checkpoints.latest_step() is not None:
        state, best = checkpoints.restore(like=state)
    first_step = int(state.step)

    weights = make_class_weights(
        stage.class_weights, this.dataset.train_counts, this.config.weighting.beta
    )
    schedule = place(Schedule(class_weights=jnp.asarray(weights)), this.devices)
    learning_rate = stage.learning_rate(steps_per_epoch)
    train_step = make_train_step(this.model, stage, steps_per_epoch, this.devices)
    batches = prefetch_to_devices(
        train_batches(
            this.dataset,
            sampler=stage.sampler,
            seed=_stage_seed(this.config.seed, stage),
            batch_size=stage.batch_size,
            first_step=first_step,
            num_steps=last_step - first_step,
        ),
        this.devices,
    )
    progress = Progress(this.console, stage.name, stage.epochs, steps_per_epoch, stage.batch_size)
    stopwatch = Stopwatch(this.workdir / 'timing.jsonl')
    in_flight = collections.deque()
    for step in range(first_step + 1, last_step + 1):
        asked = time.monotonic()
        batch = next(batches)
        stopwatch.waited(time.monotonic() - asked)
        state, loss = train_step(state, batch, schedule)
        in_flight.append(loss)
        if len(in_flight) > _IN_FLIGHT:
            progress.update(step, in_flight.popleft().block_until_ready())

        if step % steps_per_epoch == 0:
            epoch = step // steps_per_epoch
            report = {name: float(value) for name, value in state.report.items()}
            stopwatch.stop(stage.name, epoch, steps_per_epoch * stage.batch_size)
            validation = None
            if epoch % this.config.evaluation.every == 0 or step == last_step:
                validation = evaluate_part(this, stage, eval_step, state.variables, 'validation')
            if validation is not None:
                measured = validation.summary['mcr_all']
                if best is None or measured > best.value:
                    best = Best(step, measured)
            line = {
                'stage': stage.name,
                'epoch': epoch,
                'step': step,
                'learning_rate': float(learning_rate(step - 1)),
                'train': {name: value / steps_per_epoch for name, value in report.items()},
                'validation': validation and _without_confusion(validation.summary),
            }
            log.append(line)
            progress.epoch(line)
            is_best = best is not None and best.step == step
            if is_best or epoch % this.config.checkpoint_every == 0 or step == last_step:
                checkpoints.save(step, state, best)
            stopwatch.start()
        if terminated:
            if checkpoints.latest_step() != step:
                checkpoints.save(step, state, best)
            checkpoints.close()
            raise Interrupted(f'saved {stage.name} at step {step} of {last_step}')
    checkpoints.close()
    return state.variables


def evaluate_stages(this: Run, eval_step: Any) -> tuple[dict[str, Any], np.ndarray]:
    """Evaluates what the stages' checkpoints hold: all of `results.json` but times and versions.

    Returns:
        The results, and the features `[N, D]` of the test part at the end of the last stage.
    """
    stages = []
    last_test = features = None
    for stage in this.stages:
        entry = {'name': stage.name, 'last': None, 'best': None}
        for which, state in trained_states(this, stage).items():
            is_final = stage is this.stages[-1] and which == 'last'
            parts = {
                part: evaluate_part(
                    this, stage, eval_step, state.variables, part, features=is_final
                )
                for part in ('validation', 'test')
            }
            entry[which] = {part: result and result.summary for part, result in parts.items()}
            if is_final:
                last_test = entry[which]['test']
                features = parts['test'].evaluation.features
        stages.append(entry)
    results = {
        'dataset': this.dataset.name,
        'method': this.config.method,
        'model': this.config.model.name,
        'seed': this.config.seed,
        'class_names': list(this.dataset.class_names),
        'train_counts': [int(count) for count in this.dataset.train_counts],
        'groups': this.groups,
        'stages': stages,
        'final': last_test,
    }
    return results, features


def trained_states(this: Run, stage: Stage) -> dict[str, TrainState]:
    """The states that a finished stage left: `last` and, where it was validated, `best`."""
    checkpoints = this.checkpoints(stage)
    like = this.initial_state(stage)
    states = {'last': checkpoints.restore_latest_state(like)}
    if checkpoints.best_step() is not None:
        states['best'] = checkpoints.restore_best_state(like)
    checkpoints.close()
    return states


@dataclass(frozen=True)
class PartResult:
    """What the images of a part gave, and their metrics as `results.json` has them."""

    evaluation: Evaluation
    summary: dict[str, Any]


def evaluate_part(
    this: Run, stage: Stage, eval_step: Any, variables: Any, part: str, features: bool = False
) -> PartResult | None:
    """Evaluates a part; None where it is empty or the stage has trained no classifier."""
    if not stage.trains_classifier or len(this.dataset.parts[part]) == 0:
        return None
    batch_size = this.config.evaluation.batch_size
    evaluation = evaluate(
        eval_step, variables, this.dataset, part, batch_size, this.devices, features=features
    )
    summary = summarize(
        evaluation.probabilities,
        evaluation.labels,
        evaluation.confusion,
        this.groups,
        this.dataset.class_names,
    )
    return PartResult(evaluation, summary)


def _without_confusion(summary: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in summary.items() if name != 'confusion'}


def _latest_step(this: Run, stage: Stage) -> int:
    directory = this.workdir / 'checkpoints' / stage.name
    if not directory.exists():
        return 0
    checkpoints = this.checkpoints(stage)
    step = checkpoints.latest_step()
    checkpoints.close()
    return step or 0


def _stage_seed(seed: int, stage: Stage) -> int:
    """A seed for each stage of a run, from the run's seed."""
    name = [ord(letter) for letter in stage.name]
    return int(np.random.SeedSequence([seed, *name]).generate_state(1)[0])


def _draw_figures(this: Run, log: MetricsLog, results: dict[str, Any], features: Any) -> None:
    from metriclt_jax.reports import figures  # matplotlib and scikit-learn are slow to import

    directory = this.workdir / 'figures'
    directory.mkdir(exist_ok=True)
    labels = this.dataset.labels[this.dataset.parts['test']]
    figures.training_curves(log.lines, directory / 'training_curves.png')
    figures.confusion_matrices(results, directory / 'confusion_matrices.png')
    if features is not None:
        figures.feature_map(
            features, labels, results['class_names'], directory / 'features.png', results['seed']
        )


@contextmanager
def _terminations() -> Iterator[list[bool]]:
    """A list that becomes non-empty when SIGTERM comes, instead of the process ending."""
    came: list[bool] = []
    if threading.current_thread() is not threading.main_thread():  # only it may handle signals
        yield came
        return
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: came.append(True))
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, previous)
