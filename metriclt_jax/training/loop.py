"""The loop over the steps of a stage."""

import collections
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from metriclt_jax import hosts
from metriclt_jax.data.pipeline import prefetch_to_devices, train_batches
from metriclt_jax.devices import local_rows, place
from metriclt_jax.errors import Interrupted, TrainingDiverged
from metriclt_jax.progress import StageProgress, say
from metriclt_jax.training.checkpoints import Best, StageCheckpoints, latest_step
from metriclt_jax.training.profiling import traced
from metriclt_jax.training.schedule import LossInputs, cumulative_alpha, make_class_weights
from metriclt_jax.training.setup import Run
from metriclt_jax.training.stages import Stage
from metriclt_jax.training.state import TrainState
from metriclt_jax.training.step import make_train_step
from metriclt_jax.training.workdir import EpochLog

# The mean classification loss of an epoch that counts as divergence, over that of a constant
# prediction. Healthy losses rise to some hundred where a large rate meets large features.
DIVERGED = 1e4
# Updates that may be in flight at once. The host waits for an older one, so that it cannot run
# ahead and fill the memory with batches; the devices never wait for the host.
IN_FLIGHT = 8


def train_stage(
    run: Run,
    stage: Stage,
    previous: Any,
    metrics: EpochLog,
    timing: EpochLog,
    terminated: list[bool],
    profile: int = 0,
) -> Any:
    """Trains a stage from its latest checkpoint, or from `previous`, and returns its variables.

    `previous` are the variables that the stage before left, for the first one pretrained ones or
    None. `metrics` and `timing` get a line each epoch, and `profile` steps are traced. The run is
    to stop when `terminated` becomes non-empty in any process.

    Raises:
        Interrupted: the run was to stop, and the state is saved.
        TrainingDiverged: the loss is not finite, or far above that of a constant prediction.
    """
    steps_per_epoch = run.steps_per_epoch(stage)
    last_step = stage.epochs * steps_per_epoch
    checkpoints = StageCheckpoints(run.checkpoints(stage))
    state, best = _start(run, stage, previous, checkpoints)
    first_step = saved = int(state.step)
    if first_step:
        say(f'{stage.name} resumes from step {first_step} of {last_step}', run.console)

    train_step = make_train_step(run.models[stage.name], stage, steps_per_epoch, run.devices)
    inputs = make_loss_inputs(run, stage)
    batches = make_batches(run, stage, first_step, last_step - first_step)
    stop = hosts.StopConsensus(run.devices)
    in_flight = collections.deque()
    progress = StageProgress(
        run.console, stage.name, last_step, stage.epochs, first_step, stage.batch_size
    )
    trace = traced(train_step, profile, run.workdir / 'profile' / stage.name)
    with progress, trace as train_step:
        for step in range(first_step + 1, last_step + 1):
            batch = progress.fetch(batches, in_flight)
            state, logs = train_step(state, batch, inputs(step - 1))
            in_flight.append(logs['loss'])
            if len(in_flight) > IN_FLIGHT:
                progress.update(step - IN_FLIGHT, in_flight.popleft().block_until_ready())

            if step % steps_per_epoch == 0:
                epoch = step // steps_per_epoch
                line = _epoch_line(run, stage, epoch, state)
                times = progress.pause(step)
                if epoch % run.config.evaluation.every == 0 or step == last_step:
                    line['validation'], best = _validate(run, stage, state, step, best)
                timing.append({name: line[name] for name in ('stage', 'epoch', 'step')} | times)
                metrics.append(line)
                progress.line(_describe(line, stage.epochs), step)
                improved = best is not None and best.step == step
                if improved or epoch % run.config.checkpoint_every == 0 or step == last_step:
                    checkpoints.save(step, state, best)
                    saved = step
                progress.resume(step)
            if stop(bool(terminated)):
                if saved != step:
                    checkpoints.save(step, state, best)
                checkpoints.close()
                raise Interrupted(f'saved {stage.name} at step {step} of {last_step}')
    checkpoints.close()
    return state.variables


def make_loss_inputs(run: Run, stage: Stage) -> Callable[[int], LossInputs]:
    """What the stage's objective needs beside the batch, on the devices, by completed updates.

    Class weights are uniform until `reweight_start`: deferred re-weighting (Cao et al. 2019).
    """
    counts, steps_per_epoch = run.dataset.train_counts, run.steps_per_epoch(stage)
    reweight_start = round(stage.reweight_start * stage.epochs * steps_per_epoch)

    @functools.lru_cache(maxsize=1)  # values change rarely; the devices get each once
    def placed(kind: str, alpha: float) -> LossInputs:
        weights = make_class_weights(kind, counts, run.config.weighting.beta)
        inputs = LossInputs(weights, counts.astype(np.float32), np.float32(alpha))
        return place(inputs, run.devices)

    def at(step: int) -> LossInputs:
        kind = stage.class_weights if step >= reweight_start else 'uniform'
        alpha = cumulative_alpha(step // steps_per_epoch + 1, max(stage.epochs, 1))
        return placed(kind, alpha if stage.branches > 1 else 1.0)

    return at


def make_batches(run: Run, stage: Stage, first_step: int, num_steps: int) -> Iterator[Any]:
    """The stage's batches from `first_step` on, on the devices ahead of time."""
    batches = train_batches(
        run.dataset,
        sampler=stage.sampler,
        seed=run.seed(stage),
        batch_size=stage.batch_size,
        first_step=first_step,
        num_steps=num_steps,
        second_sampler=stage.second_sampler,
        rows=local_rows(stage.batch_size, run.devices),
    )
    return prefetch_to_devices(batches, run.devices)


def _start(
    run: Run, stage: Stage, previous: Any, checkpoints: StageCheckpoints
) -> tuple[TrainState, Best | None]:
    """The latest checkpoint, or the stage's state at step 0."""
    if hosts.from_first(lambda: latest_step(run.checkpoints(stage))) is not None:
        return checkpoints.restore(like=run.initial_state(stage))
    if stage.posthoc_head is not None:
        previous = with_posthoc_head(run, stage, previous)
    state = run.initial_state(stage, previous)
    if stage.epochs == 0:
        checkpoints.save(0, state, None)
    return state, None


def with_posthoc_head(run: Run, stage: Stage, previous: Any) -> Any:
    """The variables that the stage before left, with the head that this stage computes."""

    def features() -> tuple[np.ndarray, np.ndarray]:
        first = run.stages[0]  # whose model knows the head in `previous`
        variables = place(previous, run.devices)
        evaluation = run.evaluate(first, variables, 'train', features=True)
        return evaluation.features, evaluation.labels

    params = previous['params']
    head = stage.posthoc_head.compute(params['head'], run.dataset.train_counts, features)
    return {**previous, 'params': {**params, 'head': head}}


def _epoch_line(run: Run, stage: Stage, epoch: int, state: TrainState) -> dict[str, Any]:
    """The epoch's line of `metrics.jsonl`, before validation; waits for the devices."""
    steps_per_epoch = run.steps_per_epoch(stage)
    sums = jax.device_get(state.metric_sums)
    train = {name: float(value) / steps_per_epoch for name, value in sums.items()}
    constant = math.log(len(run.dataset.class_names))
    if not (math.isfinite(train['loss']) and train.get('classification', 0) < DIVERGED * constant):
        stages = run.stages[: run.stages.index(stage) + 1]
        rates = [f'{s.name}.learning_rate (now {s.optimizer.learning_rate})' for s in stages]
        raise TrainingDiverged(
            f'training diverged: the loss of {stage.name} is {train["loss"]:.3g} in epoch {epoch}; '
            f'lower {" or ".join(rates)}'
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
    run: Run, stage: Stage, state: TrainState, step: int, best: Best | None
) -> tuple[dict[str, Any] | None, Best | None]:
    """The metrics of the validation part, if there are any, and the best step so far."""
    if not run.can_evaluate(stage, 'validation'):
        return None, best
    summary = run.summarize(run.evaluate(stage, state.variables, 'validation'))
    if best is None or summary['mcr_all'] > best.value:
        best = Best(step, summary['mcr_all'])
    return {name: value for name, value in summary.items() if name != 'confusion'}, best


def _describe(line: dict[str, Any], epochs: int) -> list[str]:
    """Short enough to leave room for rate and time in 80 columns."""
    train, validation = line['train'], line['validation']
    parts = [f'{line["stage"]} {line["epoch"]}/{epochs}', f'loss {train["loss"]:.4g}']
    if 'accuracy' in train:
        parts.append(f'acc. {100 * train["accuracy"]:.1f} %')
    if validation is not None:
        parts.append(f'MCR {100 * validation["mcr_all"]:.1f} %')
    return parts
