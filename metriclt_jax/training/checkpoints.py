"""Checkpoints of a stage: the latest state, and apart from it the best one on validation data.

Everything that a run needs to go on is in the latest checkpoint and in the lines of
`metrics.jsonl` up to its step. The order of writing keeps the two kinds consistent under a kill at
any moment: nothing new is written before all that was written earlier is complete, and a best
state that equals the latest can be made again from it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp

from metriclt_jax.devices import replicated, to_global, to_local
from metriclt_jax.errors import InputError
from metriclt_jax.training.state import TrainState


class Best(NamedTuple):
    """Where the validation measure was best so far: the step and the value."""

    step: int
    value: float


class StageCheckpoints:
    """The checkpoints of one stage below `directory`: `latest/STEP` and `best/STEP`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._latest = _manager(directory / 'latest', max_to_keep=1)
        # Pruned by hand: the previous best goes only after the latest state knows the new one.
        self._best = _manager(directory / 'best', max_to_keep=None)

    def latest_step(self) -> int | None:
        """The step of the newest complete checkpoint, or None."""
        return self._latest.latest_step()

    def best_step(self) -> int | None:
        """The step of the best state, or None where nothing was evaluated."""
        return self._best.latest_step()

    def save(self, step: int, state: TrainState, best: Best | None) -> None:
        """Writes the state in the background; also as the best one if `best.step` is `step`."""
        self.wait()
        self._prune()
        state = _stored(state)
        if best is not None and best.step == step:
            self._best.save(step, args=ocp.args.StandardSave(state))
            if jax.process_count() > 1:
                # The barriers of two managers have the same names; at once they would mix.
                self._best.wait_until_finished()
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            best=ocp.args.JsonSave(None if best is None else best._asdict()),
        )
        self._latest.save(step, args=args)

    def restore(self, like: TrainState) -> tuple[TrainState, Best | None]:
        """The latest state, placed as `like` is, and what it knows of the best one.

        Best states after it are forgotten: an undisturbed run will meet them again.
        """
        step = self._latest.latest_step()
        restored = self._latest.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(_stored(like)), best=ocp.args.JsonRestore()
            ),
        )
        best = None if restored['best'] is None else Best(**restored['best'])
        for other in self._best.all_steps():
            if best is None or other > best.step:
                self._best.delete(other)
        if best is not None and best.step not in self._best.all_steps():
            if best.step != step:
                raise FileNotFoundError(f'the best state of step {best.step} is missing in {self}')
            self._best.save(step, args=ocp.args.StandardSave(restored['state']))
        return _placed(restored['state']), best

    def restore_latest_state(self, like: TrainState) -> TrainState:
        """The latest state alone, changing nothing on disk."""
        step = self._latest.latest_step()
        args = ocp.args.Composite(state=ocp.args.StandardRestore(_stored(like)))
        return _placed(self._latest.restore(step, args=args)['state'])

    def restore_best_state(self, like: TrainState) -> TrainState:
        """The best state, changing nothing on disk."""
        step = self._best.latest_step()
        return _placed(self._best.restore(step, args=ocp.args.StandardRestore(_stored(like))))

    def wait(self) -> None:
        """Returns when all that was saved is complete on disk."""
        self._best.wait_until_finished()
        self._latest.wait_until_finished()

    def close(self) -> None:
        """Waits, drops superseded best states, and releases the threads."""
        self.wait()
        self._prune()
        self._latest.close()
        self._best.close()

    def _prune(self) -> None:
        """Drops best states that the latest complete checkpoint has superseded."""
        steps = sorted(self._best.all_steps())
        for step in steps[:-1]:
            self._best.delete(step)

    def __repr__(self) -> str:
        return f'StageCheckpoints({self.directory})'


def _stored(state: TrainState) -> TrainState:
    """The state as it is written: arrays that span all processes, a typed key."""
    return to_global(state.replace(key=jax.random.wrap_key_data(state.key)))


def _placed(stored: TrainState) -> TrainState:
    """The inverse of `_stored`."""
    state = to_local(stored)
    return state.replace(key=jax.random.key_data(state.key))


def _manager(directory: Path, max_to_keep: int | None) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, create=True, enable_async_checkpointing=True
    )
    return ocp.CheckpointManager(directory.absolute(), options=options)


def restore_variables(directory: Path, which: str, devices: Sequence[jax.Device]) -> dict[str, Any]:
    """The variables of a stage's checkpoint on each of `devices`; changes nothing on disk."""
    if which not in ('last', 'best'):
        raise InputError(f"checkpoint is {which!r}; it must be 'last' or 'best'")
    folder, item = (
        (directory / 'latest', 'state') if which == 'last' else (directory / 'best', 'default')
    )
    steps = [int(path.name) for path in folder.glob('*') if path.name.isdecimal()]
    if not steps:
        raise InputError(f'{directory} has no {which} checkpoint')
    path = folder.absolute() / str(max(steps)) / item
    with ocp.StandardCheckpointer() as reader:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(devices)),
            reader.metadata(path).item_metadata.tree,
        )
        state = reader.restore(path, like)
    return {name: state[name] for name in ('params', 'batch_stats')}
