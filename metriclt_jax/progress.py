"""What a user sees of the few things in data preparation that take minutes."""

from collections.abc import Iterable
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar('T')


def say(message: str) -> None:
    """Prints a line that a user should know before something long, on stderr."""
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


def track(items: Iterable[T], description: str, total: int, done: int = 0) -> Iterable[T]:
    """Yields `items` and shows how many are done, on stderr and only in a terminal.

    Args:
        items: what is to do.
        description: stands before the bar.
        total: how many there are, those that are done already included.
        done: how many are done already.
    """
    console = Console(stderr=True)
    return progress.track(
        items,
        description,
        total=total,
        completed=done,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
