"""Progress, in a terminal and elsewhere."""

import doctest
import io

import numpy as np
import pytest
from rich.console import Console

from metriclt_jax import progress
from metriclt_jax.progress import StageProgress, track


def test_a_bar_shows_in_a_terminal_only(capfd, monkeypatch):
    for name in ('FORCE_COLOR', 'TTY_COMPATIBLE'):
        monkeypatch.delenv(name, raising=False)
    assert list(track(iter('abc'), 'Checking images', total=3)) == [*'abc']
    assert capfd.readouterr() == ('', '')
    monkeypatch.setenv('FORCE_COLOR', '1')  # rich takes it for a terminal
    assert list(track(iter('abc'), 'Checking [/images]', total=3)) == [*'abc']
    assert 'Checking [/images]' in capfd.readouterr().err


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now


def train(shown: StageProgress, clock: Clock, *, first: int, epochs: int, steps: int) -> None:
    """Epochs of `steps` steps of 0.1 s; the first step compiles for 50 s, as does the first pause.

    A pause takes 2 s.
    """
    step, compiling = first, 50
    with shown:
        for _ in range(epochs):
            for _ in range(steps):
                clock.now += 0.1 + compiling
                step, pause = step + 1, 2 + compiling
                shown.update(step, np.float32(1234.5678))
                compiling = 0
            shown.pause(step)
            shown.line(
                [f'stage1 {step // steps}/200', 'loss 1235', 'acc. 95.1 %', 'MCR 92.3 %'], step
            )
            clock.now += pause
            shown.resume(step)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(progress, 'time', clock := Clock())
    return clock


@pytest.mark.parametrize('first', [0, 500])
def test_the_rate_is_that_of_the_steps_and_the_time_left_has_the_pauses(clock, first):
    console = Console(file=io.StringIO())
    shown = StageProgress(console, 'stage1', 20_000, 200, first, batch_size=32)
    train(shown, clock, first=first, epochs=3, steps=100)
    *_, last = [line for line in console.file.getvalue().splitlines() if '/200' in line]
    assert '320 images/s' in last
    left = (197 - first // 100) * (100 * 0.1 + 2)
    assert last.endswith(f'{left / 60:.0f} min left')
    assert len(last) <= 80


def test_one_row_of_80_columns_in_a_terminal(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None)
    shown = StageProgress(console, 'stage1', 2_000_000, 200, 0, batch_size=4096)
    train(shown, clock, first=0, epochs=1, steps=10_000)
    console.print(shown._bar)
    row = console.file.getvalue().splitlines()[-1].replace('\x1b[1A', '').replace('\x1b[2K', '')
    assert len(row) <= 80
    for part in ('stage1', '10000/2000000', 'loss 1235', '40960 images/s', ' left'):
        assert part in row


def test_doctests():
    assert doctest.testmod(progress).failed == 0
