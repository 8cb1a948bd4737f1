"""What all commands share: flags in, errors out."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags

from metriclt_jax.errors import InputError

BAD_INPUT = 2  # exit code: the command line, the config or the data cannot be used


def run(command: Callable[[], int | None]) -> None:
    """Parses the flags, calls `command` and exits with what it returns (None is 0).

    Bad flags and `InputError` end in one sentence on stderr and exit code 2, without a traceback.
    """

    def parse(argv: Sequence[str]) -> list[str]:
        try:
            rest = flags.FLAGS(argv)
        except (flags.Error, InputError, AttributeError, KeyError, TypeError, ValueError) as error:
            # ml_collections raises plain Python errors for overrides that do not fit the config.
            _fail(error)
        except OSError as error:
            _fail(f'{error.filename}: {error.strerror}')
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


def _fail(problem: Exception | str) -> None:
    message = ' '.join(str(problem.args[0] if isinstance(problem, KeyError) else problem).split())
    print(f'error: {message}', file=sys.stderr)
    raise SystemExit(BAD_INPUT)
