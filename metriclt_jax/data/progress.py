"""A progress bar for the few things in data preparation that take minutes."""

from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar('T')


def progress(items: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Yields `items` and shows how many are done, on stderr and only in a terminal."""
    console = Console(stderr=True)
    return track(
        items,
        description,
        total=total,
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
