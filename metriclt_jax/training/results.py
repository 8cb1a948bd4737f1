"""What the stages of a run left, evaluated: the contents of `results.json`."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.evaluate import Evaluation, evaluate, make_eval_step
from metriclt_jax.evaluation.metrics import summarize
from metriclt_jax.training.setup import Run
from metriclt_jax.training.stages import Stage
from metriclt_jax.training.state import TrainState


@dataclass(frozen=True)
class PartResult:
    """What the images of a part gave, and their metrics as `results.json` has them."""

    evaluation: Evaluation
    summary: dict[str, Any]


def evaluate_stages(
    this: Run, check_stop: Callable[[], None]
) -> tuple[dict[str, Any], Evaluation | None]:
    """Evaluates what the stages' checkpoints hold: all of `results.json` but times and versions.

    Args:
        this: the run.
        check_stop: called before each state, to raise what ends the evaluation.

    Returns:
        The results, and the outputs for the test part at the end of the last stage, with features
        (None if it trained no classifier).
    """
    stages = []
    final = None
    for stage in this.stages:
        entry = {'name': stage.name, 'last': None, 'best': None}
        for which, state in trained_states(this, stage).items():
            check_stop()
            is_final = stage is this.stages[-1] and which == 'last'
            parts = {
                part: evaluate_part(this, stage, state.variables, part, features=is_final)
                for part in ('validation', 'test')
            }
            entry[which] = {part: result and result.summary for part, result in parts.items()}
            if is_final and parts['test'] is not None:
                final = parts['test']
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
        'final': final and final.summary,
    }
    return results, final and final.evaluation


def predictions(this: Run, part: str, evaluation: Evaluation) -> bytes:
    """The outputs for a part as the content of a `.npz` file, the same bytes for the same values.

    It holds `ids` str `[N]`, `labels` int32 `[N]`, `probabilities` float32 `[N, C]` and, where the
    evaluation has them, `features` float16 `[N, D]`.
    """
    arrays = {
        'ids': this.dataset.ids[this.dataset.parts[part]].astype(str),
        'labels': evaluation.labels,
        'probabilities': evaluation.probabilities,
    }
    if evaluation.features is not None:
        arrays['features'] = evaluation.features.astype(np.float16)
    content = io.BytesIO()
    np.savez_compressed(content, **arrays)
    return content.getvalue()


def trained_states(this: Run, stage: Stage) -> dict[str, TrainState]:
    """The states that a finished stage left: `last` and, where it was validated, `best`."""
    if this.latest_step(stage) is None:
        raise InputError(f'{this.workdir} has no checkpoint of {stage.name}; run its train command')
    checkpoints = this.checkpoints(stage)
    like = this.initial_state(stage)
    states = {'last': checkpoints.restore_latest_state(like)}
    if checkpoints.best_step() is not None:
        states['best'] = checkpoints.restore_best_state(like)
    checkpoints.close()
    return states


def evaluate_part(
    this: Run, stage: Stage, variables: Any, part: str, features: bool = False
) -> PartResult | None:
    """Evaluates a part; None where it is empty or the stage has trained no classifier."""
    if not stage.trains_classifier or len(this.dataset.parts[part]) == 0:
        return None
    step = make_eval_step(this.models[stage.name], stage.augment, this.devices)
    batch_size = this.config.evaluation.batch_size
    evaluation = evaluate(
        step, variables, this.dataset, part, batch_size, this.devices, features=features
    )
    summary = summarize(
        evaluation.probabilities,
        evaluation.labels,
        evaluation.confusion,
        this.groups,
        this.dataset.class_names,
    )
    return PartResult(evaluation, summary)
