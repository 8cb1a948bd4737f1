"""The loop over the steps of a stage."""

import collections
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from metriclt_jax.data.pipeline import prefetch_to_devices, train_batches
from metriclt_jax.devices import local_rows, place
from metriclt_jax.errors import InputError, Interrupted
from metriclt_jax.evaluation.evaluate import evaluate, make_eval_step
from metriclt_jax.hosts import Vote
from metriclt_jax.training.checkpoints import Best
from metriclt_jax.training.progress import Progress, Stopwatch
from metriclt_jax.training.results import evaluate_part
from metriclt_jax.training.schedules import (
    Schedule,
    cumulative_alpha,
    deferred,
    make_class_weights,
)
from metriclt_jax.training.second_heads import Features
from metriclt_jax.training.setup import Run
from metriclt_jax.training.stages import Stage
from metriclt_jax.training.state import TrainState
from metriclt_jax.training.steps import make_train_step
from metriclt_jax.training.workdir import EpochLog

# Updates that may be under way at once. The host waits for an older one, so that it cannot run
# ahead and fill the memory with batches; the devices never wait for the host.
IN_FLIGHT = 8


def train_stage(
    this: Run,
    stage: Stage,
    previous: Any,
    metrics: EpochLog,
    timing: EpochLog,
    terminated: list[bool],
) -> Any:
    """Trains a stage from where its checkpoints say, to its end.

    Args:
        this: the run.
        stage: what to train.
        previous: the variables that the stage before left; for the first, pretrained ones or None.
        metrics: gets the line of each epoch's losses and metrics.
        timing: gets the line of each epoch's times.
        terminated: becomes non-empty when the run is to stop; in one process of several will do.

    Returns:
        The model's variables at the end of the stage.

    Raises:
        Interrupted: the run was to stop, and the state was saved.
        InputError: the loss is not finite.
    """
    steps_per_epoch = this.steps_per_epoch(stage)
    last_step = stage.epochs * steps_per_epoch
    checkpoints = this.checkpoints(stage)
    best = None
    if checkpoints.latest_step() is not None:
        state, best = checkpoints.restore(like=this.initial_state(stage))
    else:
        if stage.head_rule is not None:
            previous = with_computed_head(this, stage, previous)
        state = this.initial_state(stage, previous)
        if last_step == 0:
            checkpoints.save(0, state, best)
    first_step = int(state.step)
    if first_step:
        this.console.print(f'{stage.name} goes on from step {first_step} of {last_step}')

    train_step = make_train_step(this.models[stage.name], stage, steps_per_epoch, this.devices)
    schedule = make_schedule(this, stage)
    batches = make_batches(this, stage, first_step, last_step - first_step)
    progress = Progress(this.console, stage.name, stage.epochs, steps_per_epoch, stage.batch_size)
    stopwatch = Stopwatch(stage.batch_size)
    in_flight = collections.deque()
    to_stop = Vote(this.devices)
    for step in range(first_step + 1, last_step + 1):
        batch = stopwatch.fetch(batches, in_flight)
        state, loss = train_step(state, batch, schedule(step - 1))
        in_flight.append(loss)
        if len(in_flight) > IN_FLIGHT:
            progress.update(step, in_flight.popleft().block_until_ready())

        if step % steps_per_epoch == 0:
            epoch = step // steps_per_epoch
            line = _line(this, stage, epoch, state)
            times = stopwatch.stop()
            if epoch % this.config.evaluation.every == 0 or step == last_step:
                line['validation'], best = _validate(this, stage, state, step, best)
            timing.append({name: line[name] for name in ('stage', 'epoch', 'step')} | times)
            metrics.append(line)
            progress.epoch(line)
            improved = best is not None and best.step == step
            if improved or epoch % this.config.checkpoint_every == 0 or step == last_step:
                checkpoints.save(step, state, best)
            stopwatch.start()
        if to_stop(bool(terminated)):
            if checkpoints.latest_step() != step:
                checkpoints.save(step, state, best)
            checkpoints.close()
            raise Interrupted(f'saved {stage.name} at step {step} of {last_step}')
    checkpoints.close()
    return state.variables


def with_computed_head(this: Run, stage: Stage, previous: Any) -> Any:
    """The variables that the stage before left, with the head that the stage's rule makes."""

    def features() -> Features:
        # Any stage's model has the features; that of the stage before knows its head.
        model = this.models[this.stages[0].name]
        step = make_eval_step(model, stage.augment, this.devices)
        batch_size = this.config.evaluation.batch_size
        variables = place(previous, this.devices)
        evaluation = evaluate(
            step, variables, this.dataset, 'train', batch_size, this.devices, features=True
        )
        return Features(evaluation.features, evaluation.labels)

    params = previous['params']
    head = stage.head_rule.compute(params['head'], this.dataset.train_counts, features)
    return {**previous, 'params': {**params, 'head': head}}


def make_schedule(this: Run, stage: Stage) -> Callable[[int], Schedule]:
    """What the stage's objective is told, on the devices, by the number of completed updates."""
    counts = this.dataset.train_counts
    steps_per_epoch = this.steps_per_epoch(stage)
    kind = deferred(
        'uniform',
        stage.class_weights,
        fraction=stage.weights_from,
        epochs=stage.epochs,
        steps_per_epoch=steps_per_epoch,
    )

    def alpha(step: int) -> float:
        epoch = step // steps_per_epoch + 1
        return cumulative_alpha(epoch, stage.epochs) if stage.branches > 1 else 1.0

    @functools.lru_cache(maxsize=1)  # the values change rarely, so the devices get them once
    def placed(kind: str, alpha: float) -> Schedule:
        weights = make_class_weights(kind, counts, this.config.weighting.beta)
        values = Schedule(weights, counts.astype(np.float32), np.float32(alpha))
        return place(values, this.devices)

    return lambda step: placed(kind(step), alpha(step))


def make_batches(
    this: Run, stage: Stage, first_step: int, num_steps: int, repeat_first: bool = False
) -> Any:
    """The stage's batches from `first_step` on, ahead of time on the devices."""
    batches = train_batches(
        this.dataset,
        sampler=stage.sampler,
        seed=this.seed(stage),
        batch_size=stage.batch_size,
        first_step=first_step,
        num_steps=num_steps,
        second_sampler=stage.second_sampler,
        rows=local_rows(stage.batch_size, this.devices),
    )
    return prefetch_to_devices(batches, this.devices)


def _line(this: Run, stage: Stage, epoch: int, state: TrainState) -> dict[str, Any]:
    """The epoch's line of `metrics.jsonl`, before validation; waits for the devices."""
    steps_per_epoch = this.steps_per_epoch(stage)
    train = {name: float(value) / steps_per_epoch for name, value in state.report.items()}
    if not math.isfinite(train['loss']):
        raise InputError(
            f'the loss of {stage.name} is {train["loss"]} in epoch {epoch}: training has diverged; '
            f'try a {stage.name}.learning_rate below {stage.optimizer.learning_rate}'
        )
    step = epoch * steps_per_epoch
    return {
        'stage': stage.name,
        'epoch': epoch,
        'step': step,
        'learning_rate': float(stage.learning_rate(steps_per_epoch)(step - 1)),
        'train': train,
        'validation': None,
    }


def _validate(
    this: Run, stage: Stage, state: TrainState, step: int, best: Best | None
) -> tuple[dict[str, Any] | None, Best | None]:
    """The metrics of the validation part, if there are any, and where the best ones were."""
    result = evaluate_part(this, stage, state.variables, 'validation')
    if result is None:
        return None, best
    if best is None or result.summary['mcr_all'] > best.value:
        best = Best(step, result.summary['mcr_all'])
    return {name: value for name, value in result.summary.items() if name != 'confusion'}, best
