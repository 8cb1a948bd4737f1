"""What all commands share: flags in, errors out."""

import ctypes
import functools
import io
import os
import platform
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from absl import app, flags, logging

from metriclt_jax import config_files
from metriclt_jax.errors import HostFailed, InputError, Interrupted, TrainingDiverged
from metriclt_jax.paths import is_remote, to_path
from metriclt_jax.quoting import quote_names

# Of glibc's malloc.h: M_MMAP_MAX, M_TRIM_THRESHOLD, M_ARENA_MAX and M_TOP_PAD.
_MALLOC_OPTIONS = {-4: 0, -1: 2**31 - 1, -8: 1, -2: 2**28}

EXIT_CODES = {
    InputError: 2,
    TrainingDiverged: 3,
    HostFailed: 4,
    Interrupted: os.EX_TEMPFAIL,  # 75: saved, run the same command again
    KeyboardInterrupt: 130,  # Ctrl-C with nothing to save
}


def command(function: Callable[[], int | None]) -> Callable[[], NoReturn]:
    """Makes a command of a function whose arguments are flags; it exits with what that returns.

    Bad flags and the errors of `EXIT_CODES` end in one sentence on stderr, without a traceback.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        if '--help' in argv or '-h' in argv:
            module = sys.modules[function.__module__]
            print(f'{module.__doc__}\n{flags.FLAGS.module_help(module)}')
            raise SystemExit(0)
        words = [word for word in argv[1:] if not word.startswith('-')]
        if words:
            _fail(f'argument {words[0]!r} is not a flag; flags look like --name=value')
        try:
            rest = flags.FLAGS(quote_names([_with_config_file(argument) for argument in argv]))
            if flags.FLAGS['verbosity'].using_default_value:
                flags.FLAGS.verbosity = logging.WARNING  # absl would take INFO
        except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            # ml_collections raises plain Python errors for overrides that do not fit the config.
            _fail(_reason(error, argv))
        except OSError as error:
            _fail(str(error))
        return rest

    def main(_: Sequence[str]) -> int | None:
        _print_errors_once()
        try:
            return function()
        except Interrupted as error:
            print(f'{error}; run the same command again to resume')
            return EXIT_CODES[Interrupted]
        except (InputError, TrainingDiverged, HostFailed) as error:
            _fail(error, next(EXIT_CODES[kind] for kind in EXIT_CODES if isinstance(error, kind)))
        except KeyboardInterrupt:
            print('interrupted', file=sys.stderr, flush=True)
            os._exit(EXIT_CODES[KeyboardInterrupt])  # other libraries' threads would complain

    @functools.wraps(function)
    def run() -> NoReturn:
        for name in ('stdout', 'stderr'):
            setattr(sys, name, _Output.instead_of(getattr(sys, name)))
        app.run(main, flags_parser=parse)

    return run


def run_config_file(argument: str | None) -> None:
    """Runs a config file (FILE or FILE:METHOD) for the methods and losses that it adds."""
    if argument is not None:
        config_files.load(Path(argument.partition(':')[0]))


def keep_compiled_programs() -> None:
    """Caches compiled programs in the user's cache, or in JAX_COMPILATION_CACHE_DIR.

    Machines that share a home directory may differ in their instruction sets, so each has its own.
    """
    import jax

    if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
        directory = Path('~/.cache/metriclt_jax').expanduser() / platform.node()
        jax.config.update('jax_compilation_cache_dir', str(directory))


def keep_freed_memory() -> None:
    """Makes glibc keep the memory that XLA frees after each step, for the next step.

    On a CPU, XLA takes its buffers from malloc, and glibc returns large blocks to the system, which
    then clears every page again. Without glibc this does nothing.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # no glibc
        return
    for option, value in _MALLOC_OPTIONS.items():
        mallopt(option, value)


def _print_errors_once() -> None:
    """Hides what threads of Orbax and TensorStore print about an error that they then raise."""
    error = logging.converter.STANDARD_ERROR
    logging.get_absl_logger().addFilter(
        lambda record: record.levelno < error or 'orbax' not in record.pathname
    )
    show = sys.unraisablehook

    def show_others(unraisable) -> None:
        if str(unraisable.exc_value) != 'Event loop is closed':  # said by writes that came later
            show(unraisable)

    sys.unraisablehook = show_others


def file_to_write(flag: flags.FlagHolder[str | None]) -> Path | None:
    """The file that a flag names, local or an address, in a folder that exists."""
    path = flag.value and to_path(flag.value)
    if path and not is_remote(path) and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f'--{flag.name} is {path}; it must be a file in a folder that exists')
    return path


class _Output(io.FileIO):
    """Output that may be lost: a closed pipe, as of `| head`, must not end hours of training."""

    @classmethod
    def instead_of(cls, stream: TextIO | None) -> TextIO | None:
        """The stream with this output below it; streams without a file stay as they are."""
        try:
            buffer = io.BufferedWriter(cls(stream.fileno(), 'w', closefd=False))
        except (AttributeError, OSError):
            return stream
        stream.flush()
        options = {'line_buffering': stream.line_buffering, 'write_through': stream.write_through}
        return io.TextIOWrapper(buffer, stream.encoding, 'backslashreplace', **options)

    def write(self, content: Any) -> int:
        """Writes, unless nobody reads."""
        try:
            return super().write(content)
        except BrokenPipeError:
            return len(content)


def _with_config_file(argument: str) -> str:
    """`--config=NAME:METHOD` with the path of the file instead of its name."""
    flag, _, value = argument.partition('=')
    if flag.lstrip('-') != 'config' or not value:
        return argument
    name, *rest = value.split(':', 1)
    return f'{flag}={":".join([str(config_files.find(name)), *rest])}'


def _reason(error: Exception, argv: Sequence[str]) -> str:
    """What is wrong with the flags, of which ml_collections names the last part of a field only."""
    message = str(error.args[0])
    if 'must have a value other than None' in message:
        return f'{message.removeprefix("flag ").partition("=")[0]} is missing'
    if isinstance(error, AttributeError | KeyError):
        _, _, similar = message.partition('Did you mean ')
        hint = similar and f'; did you mean {similar.split()[0]}?'
        for argument in argv:
            field = argument.partition('=')[0].rpartition('.')[2]
            if argument.startswith('--config.') and field in message:
                return f'{argument}: the config has no field {field}{hint}'
    return message.rpartition('metriclt_jax.errors.InputError: ')[2]


def _fail(problem: Exception | str, code: int = 2) -> NoReturn:
    print(f'error: {" ".join(str(problem).split())}', file=sys.stderr)
    raise SystemExit(code)
