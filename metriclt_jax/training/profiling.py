"""A trace of a few training steps, for TensorBoard's profiler."""

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax

from metriclt_jax import hosts
from metriclt_jax.files import make_folder, write_atomically

# The first step compiles, and the second may still move arrays to where they stay.
_WARM_UP = 2


@contextmanager
def traced(step: Callable[..., Any], steps: int, directory: Path) -> Iterator[Callable[..., Any]]:
    """`step`, of which the first process traces `steps` calls into `directory`, after warm-up.

    The devices are waited for before and after the trace, and at no other time.
    """
    if not (steps and hosts.is_first()):
        yield step
        return
    calls = itertools.count(1)
    with ExitStack() as trace:

        def traced_step(*arguments: Any) -> Any:
            number = next(calls)
            with jax.profiler.StepTraceAnnotation('train', step_num=number):
                results = step(*arguments)
            if number == _WARM_UP:
                jax.block_until_ready(results)
                trace.enter_context(_trace(directory))
            elif number == _WARM_UP + steps:
                jax.block_until_ready(results)
                trace.close()
            return results

        yield traced_step


@contextmanager
def _trace(directory: Path) -> Iterator[None]:
    """Traces into files below `directory`, which may be an address: the profiler writes no such."""
    with tempfile.TemporaryDirectory() as temporary:
        with jax.profiler.trace(temporary):
            yield
        for file in filter(Path.is_file, Path(temporary).rglob('*')):
            folder = make_folder((directory / file.relative_to(temporary)).parent)
            write_atomically(folder / file.name, file.read_bytes())
