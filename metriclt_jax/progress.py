"""How far a long task is: bars in a terminal, lines elsewhere."""

import time
from collections.abc import Iterable
from typing import TypeVar

import jax
from rich import progress
from rich.console import Console

T = TypeVar('T')

_SECONDS_BETWEEN_LINES = 30.0


def say(message: str, console: Console | None = None) -> None:
    """Prints a line as it is, without colors or wrapping; on stderr without a console."""
    console = console or Console(stderr=True)
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Yields `items`, of which there are `total`, and shows progress in a terminal, on stderr."""
    console = Console(stderr=True)
    return progress.track(
        items,
        description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


class StageProgress:
    """Rate, loss and time left of a stage of `total` steps; never makes the devices wait."""

    def __init__(self, console: Console, stage: str, total: int, done: int, batch_size: int):
        self._console = console
        self._stage = stage
        self._total, self._batch_size = total, batch_size
        self._start: tuple[float, int] | None = None  # after the first step, which compiles
        self._printed = time.monotonic()
        self._bar = progress.Progress(
            progress.TextColumn('{task.description}'),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TextColumn('{task.fields[status]}'),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, status='compiling')

    def __enter__(self) -> 'StageProgress':
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def update(self, step: int, loss: jax.Array) -> None:
        """Shows that `step` is done; `loss` must have arrived already."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        if self._console.is_terminal:
            status = f'{self._status(step)}  loss {float(loss):.4f}'
            self._bar.update(self._task, completed=step, status=status)
        elif now - self._printed > _SECONDS_BETWEEN_LINES:
            self.line(f'{self._stage} step {step}/{self._total}  loss {float(loss):.4f}', step)

    def line(self, text: str, step: int) -> None:
        """Prints a line that stays, with the rate and the time left."""
        self._printed = time.monotonic()
        say('  '.join(filter(None, (text, self._status(step)))), self._console)

    def _status(self, step: int) -> str:
        if self._start is None or step <= self._start[1]:
            return ''
        rate = (step - self._start[1]) / (time.monotonic() - self._start[0])
        minutes, seconds = divmod(round((self._total - step) / rate), 60)
        hours, minutes = divmod(minutes, 60)
        clock = f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
        return f'{rate * self._batch_size:.0f} images/s  {clock} left in {self._stage}'
