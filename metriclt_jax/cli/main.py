"""What all commands share: flags in, errors out."""

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from absl import app, flags, logging

from metriclt_jax.errors import InputError

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8

BAD_INPUT = 2  # exit code: the command line, the config or the data cannot be used


def run(command: Callable[[], int | None]) -> None:
    """Parses the flags, calls `command` and exits with what it returns (None is 0).

    Bad flags and `InputError` end in one sentence on stderr and exit code 2, without a traceback.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
            if flags.FLAGS['verbosity'].using_default_value:
                flags.FLAGS.verbosity = logging.WARNING  # absl would take INFO
        except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            # ml_collections raises plain Python errors for overrides that do not fit the config.
            _fail(_with_flag(error, argv))
        except OSError as error:
            _fail(str(error))
        if len(rest) > 1:
            _fail(f'argument {rest[1]!r} is not a flag; flags look like --name=value')
        return rest

    def main(argv: Sequence[str]) -> int | None:
        del argv
        try:
            return command()
        except InputError as error:
            _fail(error)

    app.run(main, flags_parser=parse)


def keep_compiled_programs() -> None:
    """Has JAX keep what it compiles in the user's cache, so that a further run starts at once.

    The environment variable JAX_COMPILATION_CACHE_DIR names another directory. Machines that share
    a home directory may differ in their instructions, so each has a part of its own.
    """
    import jax

    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        directory = Path('~/.cache/metriclt_jax').expanduser() / platform.node()
        jax.config.update('jax_compilation_cache_dir', str(directory))


def keep_freed_memory() -> None:
    """Has the C library keep the memory that XLA frees after each step, for the next step.

    On a CPU, XLA takes its buffers from malloc. glibc hands large blocks back to the system, which
    then clears every page again: about a fifth of a training step (Linux, 2 cores). Elsewhere this
    does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    for parameter, value in (
        (_M_MMAP_MAX, 0),
        (_M_TRIM_THRESHOLD, 2**31 - 1),
        (_M_ARENA_MAX, 1),
        (_M_TOP_PAD, 2**28),
    ):
        mallopt(parameter, value)


def _with_flag(error: Exception, argv: Sequence[str]) -> str:
    """The message, after the `--config.FIELD` that it is about if it does not name one itself."""
    message = ' '.join(str(error.args[0]).replace('\\n', ' ').split())
    for argument in argv:
        name = argument.split('=')[0].lstrip('-')
        if name.startswith('config.') and name not in message and name.split('.')[-1] in message:
            return f'{argument}: {message}'
    return message


def _fail(problem: Exception | str) -> None:
    print(f'error: {" ".join(str(problem).split())}', file=sys.stderr)
    raise SystemExit(BAD_INPUT)
