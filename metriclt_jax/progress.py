"""What a user sees of the few things in data preparation that take minutes."""

from collections.abc import Iterable
from typing import TypeVar

from rich import progress
from rich.console import Console

T = TypeVar('T')


def say(message: str) -> None:
    """Prints a line on stderr, for what a user should know before something that takes long."""
    Console(stderr=True).print(message, highlight=False, markup=False, soft_wrap=True)


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
