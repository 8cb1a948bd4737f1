"""PyTorch in a process of its own, so that its threads and its memory do not mix with JAX's."""

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from metriclt_jax.errors import InputError

WORKER = Path(__file__).with_name('torch_worker.py')

# Ways to run a model in PyTorch: arguments of the worker's `make_program`.
OPTIONS = {
    'default': {},
    'channels_last': {'channels_last': True},
    'compile': {'channels_last': True, 'compiled': 'default'},
    'compile_graphs': {'channels_last': True, 'compiled': 'reduce-overhead'},
}
# PyTorch's name of the device by JAX's, and the options where none are named.
DEVICES = {'cpu': 'cpu', 'gpu': 'cuda', 'cuda': 'cuda'}
DEFAULT_OPTIONS = {'cpu': ('default', 'channels_last'), 'cuda': ('compile',)}


class Torch(NamedTuple):
    """A running worker: `ask(do=..., ...)` returns its answer; `about` says what is installed."""

    ask: Callable[..., dict[str, Any]]
    about: dict[str, Any]


@contextmanager
def start_torch(python: str, device: str, worker: Path = WORKER) -> Iterator[Torch]:
    """Starts `worker`, a program, with the interpreter `python`; it ends with the block.

    Raises:
        InputError: there is no such interpreter, or it has no torch for `device` or no torchvision.
    """
    allowed = 'allowed: an interpreter that has torch and torchvision'
    try:
        process = subprocess.Popen(
            [python, str(worker)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent, which ends the worker
        )
    except OSError as error:
        raise InputError(
            f'--torch_python is {python}, which cannot be run ({error.strerror}); {allowed}'
        ) from None

    def answer() -> dict[str, Any]:
        line = process.stdout.readline()
        if not line:
            raise RuntimeError(f'the PyTorch process ended with exit code {process.wait()}')
        return json.loads(line)

    def ask(**request: Any) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # then there is no answer either
            print(json.dumps(request), file=process.stdin, flush=True)
        return answer()

    try:
        try:
            about = answer()
        except (RuntimeError, ValueError):
            about = {'error': 'it does not run the Python program that it is given'}
        if 'error' in about:
            raise InputError(f'--torch_python is {python}: {about["error"]}; {allowed}')
        if device not in about['devices']:
            raise InputError(
                f'--torch_python is {python}, whose torch {about["torch"]} has no {device} device; '
                f'{allowed} for it'
            )
        yield Torch(ask, about)
    finally:
        with suppress(BrokenPipeError):
            process.stdin.close()  # the worker ends when it has read this
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
