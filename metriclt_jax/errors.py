"""The errors that end a command with one sentence instead of a traceback."""

import contextlib
from collections.abc import Iterator


class InputError(ValueError):
    """Bad input: a config field, a file or an argument that cannot be used.

    The message is one sentence: what is wrong, where, and what to do.
    """


class Busy(InputError):
    """Another process holds a lock."""


class NotWritten(InputError):
    """A file that cannot be written, perhaps by this process only: its disk is full."""


class TrainingDiverged(ArithmeticError):
    """The loss became infinite or NaN, or rose far above that of a constant prediction."""


class HostFailed(RuntimeError):
    """Another process of a multi-host run failed; the message names it and its error."""


class Interrupted(Exception):
    """SIGTERM or Ctrl-C arrived; the state is saved and the same command resumes from it."""


# These say what happened, or no sentence about a file would.
CLEAR = (InputError, TrainingDiverged, HostFailed, Interrupted, MemoryError)


@contextlib.contextmanager
def explained(problem: str) -> Iterator[None]:
    """Turns any error but the clear ones into an `InputError` that starts with `problem`."""
    try:
        yield
    except CLEAR:
        raise
    except Exception as error:  # parsers of damaged files fail in many ways
        raise InputError(f'{problem}: {type(error).__name__}: {error}') from error
