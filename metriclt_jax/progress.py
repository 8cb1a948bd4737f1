"""How far a long task is: bars in a terminal, lines elsewhere."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

import jax
from rich import progress
from rich.console import Console
from rich.markup import escape

T = TypeVar('T')

_SECONDS_BETWEEN_LINES = 30.0


def say(message: str, console: Console | None = None) -> None:
    """Prints a line as it is, without colors or wrapping; on stderr without a console."""
    console = console or Console(stderr=True)
    console.print(message, highlight=False, markup=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Yields `items`, of which there are `total`, and shows progress in a terminal, on stderr."""
    options = _in_terminal(Console(stderr=True))
    return progress.track(items, escape(description), total=total, **options)


def _in_terminal(console: Console) -> dict[str, Any]:
    return {'console': console, 'transient': True, 'disable': not console.is_terminal}


class StageProgress:
    """Rate, loss and time left of a stage of `total` steps; never makes the devices wait.

    The rate is that of the steps alone: without the first one, which compiles, and without the
    pauses between epochs, which count for the time left.
    """

    def __init__(
        self, console: Console, stage: str, total: int, epochs: int, done: int, batch_size: int
    ):
        self._console = console
        self._stage = stage
        self._total, self._epochs, self._batch_size = total, epochs, batch_size
        self._printed = time.monotonic()
        self._epoch = self._printed, done  # when and after which step it began
        self._waited = 0.0  # seconds for input, in this epoch
        self._timed: tuple[float, int] | None = None  # when and after which step timing began
        self._rate: float | None = None  # steps a second
        self._paused_at: float | None = None
        self._pauses: list[float] = []  # seconds of validation and checkpoint after each epoch
        self._bar = progress.Progress(
            progress.TextColumn('{task.description}', markup=False),
            progress.BarColumn(bar_width=16),
            progress.MofNCompleteColumn(),
            progress.TextColumn('{task.fields[status]}', markup=False),
            **_in_terminal(console),
        )
        self._task = self._bar.add_task(stage, total=total, completed=done, status='compiling')

    def __enter__(self) -> 'StageProgress':
        self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.stop()

    def fetch(self, batches: Iterator[T], in_flight: Sequence[jax.Array]) -> T:
        """The next batch; waiting for it counts if the devices have nothing left to do."""
        asked = time.monotonic()
        batch = next(batches)
        if in_flight and in_flight[-1].is_ready():
            self._waited += time.monotonic() - asked
        return batch

    def update(self, step: int, loss: jax.Array) -> None:
        """Shows that `step` is done; `loss` must have arrived already."""
        now = time.monotonic()
        if self._timed is None:
            self._timed = now, step
        elif step > self._timed[1]:
            self._rate = (step - self._timed[1]) / (now - self._timed[0])
        if self._console.is_terminal:
            status = '  '.join([f'loss {float(loss):.4g}', *self._status(step)])
            self._bar.update(self._task, completed=step, status=status)
        elif now - self._printed > _SECONDS_BETWEEN_LINES:
            self.line([f'{self._stage} step {step}/{self._total}', f'loss {float(loss):.4g}'], step)

    def pause(self, step: int) -> dict[str, float]:
        """Ends the timing of an epoch, all of whose steps are done, and returns its times."""
        self._paused_at = time.monotonic()
        if self._timed and step > self._timed[1]:
            self._rate = (step - self._timed[1]) / (self._paused_at - self._timed[0])
        begun, first = self._epoch
        seconds = self._paused_at - begun
        return {
            'seconds': round(seconds, 3),
            'images_per_second': round((step - first) * self._batch_size / seconds, 1),
            'input_wait_share': round(self._waited / seconds, 5),
        }

    def line(self, parts: Sequence[str], step: int) -> None:
        """Prints a line that stays, with the rate and the time left."""
        self._printed = time.monotonic()
        say('  '.join([*parts, *self._status(step)]), self._console)

    def resume(self, step: int) -> None:
        """Begins the timing of the next epoch."""
        self._timed = self._epoch = time.monotonic(), step
        self._waited = 0.0
        self._pauses.append(self._timed[0] - self._paused_at)

    def _status(self, step: int) -> list[str]:
        if not self._rate:
            return []
        seconds = (self._total - step) / self._rate
        if usual := sorted(self._pauses)[:-1]:  # the longest one compiles the evaluation
            left = self._epochs * (1 - step / self._total)
            seconds += left * sum(usual) / len(usual)
        return [f'{self._rate * self._batch_size:.0f} images/s', f'{short(seconds)} left']


def short(seconds: float) -> str:
    """A time in three digits or so.

    >>> short(59), short(61), short(7199), short(86399), short(864000)
    ('59 s', '61 s', '120 min', '24 h', '10 days')
    """
    for unit, size, most in (('s', 1, 90), ('min', 60, 600), ('h', 3600, 72)):
        if round(seconds / size) < most:
            return f'{seconds / size:.0f} {unit}'
    return f'{seconds / 86400:.0f} days'
