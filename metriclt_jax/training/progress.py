"""What a person sees while training runs, and the times that are logged."""

import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax
from rich.console import Console

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_UPDATES = 0.5


class Progress:
    """Rate, loss and time left of a stage, without making the device wait.

    The loss shown is that of a step whose result had already arrived; nothing is fetched for it.
    """

    def __init__(self, console: Console, stage: str, epochs: int, steps_per_epoch: int, batch: int):
        self._console = console
        self._stage = stage
        self._epochs = epochs
        self._steps_per_epoch = steps_per_epoch
        self._batch = batch
        self._start: tuple[float, int] | None = None  # after the first step, which compiles
        self._shown = time.monotonic()
        self._interval = _SECONDS_BETWEEN_UPDATES if console.is_terminal else _SECONDS_BETWEEN_LINES

    def update(self, step: int, loss: jax.Array) -> None:
        """Tells that update `step` is under way and that `loss` has arrived."""
        now = time.monotonic()
        if self._start is None:
            self._start = (now, step)
        if now - self._shown < self._interval:
            return
        self._shown = now
        self._show(f'{self.status(step)}  loss {float(loss):.4f}')

    def status(self, step: int) -> str:
        """Epoch, rate and time left, as one line."""
        total = self._epochs * self._steps_per_epoch
        epoch = min(step // self._steps_per_epoch + 1, self._epochs)
        text = f'{self._stage} epoch {epoch}/{self._epochs} step {step}/{total}'
        if self._start is not None and step > self._start[1]:
            rate = (step - self._start[1]) / (time.monotonic() - self._start[0])
            left = (total - step) / rate
            text += f'  {rate * self._batch:.0f} images/s  {_clock(left)} left in {self._stage}'
        return text

    def epoch(self, line: dict[str, Any]) -> None:
        """Prints the line of a finished epoch."""
        text = (
            f'{line["stage"]} epoch {line["epoch"]}/{self._epochs}'
            f'  loss {line["train"]["loss"]:.4f}'
        )
        if 'accuracy' in line['train']:
            text += f'  accuracy {100 * line["train"]["accuracy"]:.1f} %'
        if line['validation'] is not None:
            text += f'  validation MCR {100 * line["validation"]["mcr_all"]:.1f} %'
        status = self.status(line['step']).split('  ', 1)
        if len(status) == 2:
            text += '  ' + status[1]
        self._clear()
        self._console.print(text, highlight=False, soft_wrap=True)
        self._shown = time.monotonic()

    def _show(self, text: str) -> None:
        if self._console.is_terminal:
            self._clear()
            sys.stdout.write(text[: self._console.width - 1])
            sys.stdout.flush()
        else:
            self._console.print(text, highlight=False, soft_wrap=True)

    def _clear(self) -> None:
        if self._console.is_terminal:
            sys.stdout.write('\r\x1b[K')
            sys.stdout.flush()


class Stopwatch:
    """Times of an epoch: how long it took, and how long input was waited for."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self.start()

    def start(self) -> None:
        """Begins an epoch, or what is left of one."""
        self._begin = time.monotonic()
        self._steps = 0
        self._waited = 0.0

    def fetch(self, batches: Iterator[Any], in_flight: Sequence[jax.Array]) -> Any:
        """The next batch; counts as waiting if the devices had nothing left to do meanwhile.

        Args:
            batches: where it comes from.
            in_flight: results of the steps under way, the newest last.
        """
        asked = time.monotonic()
        batch = next(batches)
        if in_flight and in_flight[-1].is_ready():
            self._waited += time.monotonic() - asked
        self._steps += 1
        return batch

    def stop(self) -> dict[str, float]:
        """The times of an epoch whose last result has arrived."""
        seconds = time.monotonic() - self._begin
        return {
            'seconds': round(seconds, 3),
            'images_per_second': round(self._steps * self._batch_size / seconds, 1),
            'input_wait_share': round(self._waited / seconds, 5),
        }


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'
