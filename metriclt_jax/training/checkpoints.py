"""Checkpoints of a stage, `directory/STEP`: the latest step and the one that validated best.

A step has three items: `variables` (parameters and BatchNorm statistics, all that inference needs),
`training` (the rest of the state) and `best` (which step validated best so far). Orbax makes a
step count only when it is complete, by renaming its folder or, behind gs://, by an object in it.
So a killed run resumes from the newest complete one.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from metriclt_jax.devices import replicated_globally, to_global, to_local
from metriclt_jax.errors import InputError
from metriclt_jax.files import written
from metriclt_jax.paths import absolute, is_remote, reached, walk
from metriclt_jax.training.state import TrainState


class Best(NamedTuple):
    """The step that validated best so far, and its value."""

    step: int
    value: float


def latest_step(directory: Path) -> int | None:
    """The newest complete step below `directory`, or None; unlike a manager, it creates nothing."""
    with reached(directory):
        if (directory / 'latest').is_dir():
            raise InputError(
                f'{directory} was written by version 0.1.0, whose checkpoints this version cannot '
                'read; use that version, or train again with another --workdir'
            )
        steps = ocp.path.step.standard_name_format().find_all(directory)
        return max((found.step for found in steps), default=None)


class StageCheckpoints:
    """Reads and writes the checkpoints of one stage; writing happens in the background."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._best: Best | None = None
        options = ocp.CheckpointManagerOptions(preservation_policy=self)
        with written(self._directory):
            self._manager = ocp.CheckpointManager(absolute(directory), options=options)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Says which complete steps stay on disk: Orbax's preservation policy."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        return [step == max(steps) or (self._best and step == self._best.step) for step in steps]

    def save(self, step: int, state: TrainState, best: Best | None) -> None:
        """Starts to write the state of `step`; afterwards only it and `best.step` stay on disk."""
        items = {n: ocp.args.StandardSave(tree) for n, tree in _items(to_global(state)).items()}
        items['best'] = ocp.args.JsonSave(None if best is None else best._asdict())
        with written(self._directory):
            self._manager.wait_until_finished()
            self._best = best
            self._manager.save(step, args=ocp.args.Composite(**items))

    def restore(self, like: TrainState) -> tuple[TrainState, Best | None]:
        """The latest state, placed as `like`, and the best step so far."""
        items = {n: ocp.args.StandardRestore(tree) for n, tree in _items(to_global(like)).items()}
        items = ocp.args.Composite(**items, best=ocp.args.JsonRestore())
        restored = self._manager.restore(self._manager.latest_step(), args=items)
        state = like.replace(**to_local(restored['variables']), **to_local(restored['training']))
        self._best = None if restored['best'] is None else Best(**restored['best'])
        return state, self._best

    def close(self) -> None:
        """Returns when everything is written."""
        with written(self._directory):
            self._manager.close()


def restore_variables(directory: Path, which: str, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """The variables of a 'last' or 'best' checkpoint on `devices`; `InputError` without one."""
    if which not in ('last', 'best'):
        raise InputError(f"checkpoint is {which!r}; it must be 'last' or 'best'")
    step = latest_step(directory)
    if step is None:
        raise InputError(f'{directory} has no checkpoint; run the train command to its end')
    folder = absolute(directory)
    if which == 'best':
        with reached(directory):
            best = ocp.JsonCheckpointHandler().restore(folder / str(step) / 'best')
        if best is None:
            raise InputError(f'{directory} has no best checkpoint: it was never validated')
        step = best['step']
    path = folder / str(step) / 'variables'
    place = replicated_globally(devices)
    # A checkpointer would warn that the item, a part of a step, has no metadata of a whole one.
    reader = ocp.StandardCheckpointHandler()
    with reached(directory):
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            reader.metadata(path).tree,
        )
        return to_local(reader.restore(path, args=ocp.args.StandardRestore(like)))


def copy_checkpoints(source: Path, target: Path) -> None:
    """Copies a stage's checkpoints; behind gs://, a step counts only once all of it is there."""
    if not is_remote(source):
        shutil.copytree(source, target)
        return
    files = [folder / name for folder, _, names in walk(source) for name in names]

    def order(file: Path) -> tuple:  # the latest step last, and last in each what completes it
        parts = file.relative_to(source).parts
        return int(parts[0]), parts[-1] == ocp.path.atomicity.COMMIT_SUCCESS_FILE, -len(parts)

    for file in sorted(files, key=order):
        file.copy(target / file.relative_to(source), overwrite=True)


def _items(state: TrainState) -> dict[str, dict[str, Any]]:
    """The fields of a state as the items `variables` and `training`."""
    rest = {name: value for name, value in vars(state).items() if name not in state.variables}
    return {'variables': state.variables, 'training': rest}
