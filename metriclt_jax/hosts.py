"""The processes of a multi-host run: how they meet, which one writes, what they agree on.

All processes run the same program and must reach each function here equally often, in the same
order. A single process exchanges nothing.
"""

import collections
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from metriclt_jax.devices import AXIS, split
from metriclt_jax.errors import HostFailed, InputError, NotWritten

_HEARTBEAT_SECONDS = 30  # after which a silent process counts as dead, and the others end too
_SHUTDOWN_SECONDS = 30  # that a process waits for the others before it ends
_MEETING_SECONDS = 300  # to wait for the first process
_VOTES_IN_FLIGHT = 8  # steps from casting a vote to counting it; the devices are past it by then
_BLOCK = 4096  # messages are padded to a multiple of this, so that few lengths compile


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Joins a multi-host run; must come before any computation.

    `coordinator` is HOST:PORT of the first process, where all meet, `process_id` which of the
    `num_processes` this is, from 0. Without arguments everything is detected, which works on TPU
    pods, Slurm and Open MPI. Raises `InputError` if the others are not found.
    """
    if coordinator is not None and process_id:
        _wait_for(coordinator)
    # The service would take SIGTERM away from us and make Orbax save steps of its own choice.
    jax.config.update('jax_enable_preemption_service', False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        hint = '' if coordinator else '; pass coordinator, num_processes and process_id'
        raise InputError(f'this process cannot join the others: {error}{hint}') from None


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def console() -> Console:
    """The terminal in the first process; nothing in the others."""
    return Console() if is_first() else Console(file=open(os.devnull, 'w'))


@contextmanager
def together() -> Iterator[None]:
    """Makes an error in the block of one process a `HostFailed` in the others.

    The block exchanges nothing.
    """
    error = None
    try:
        yield
    except Exception as raised:
        if jax.process_count() == 1:
            raise
        error = raised
    messages = _exchange('' if error is None else str(error) or repr(error))
    if isinstance(error, NotWritten):
        raise InputError(str(error)) from error  # as the others know of it
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message:
            raise HostFailed(f'process {process}: {message}')


def from_first(function: Callable[[], Any]) -> Any:
    """What `function` returns in the first process, in all of them; a value that JSON can hold."""
    if jax.process_count() == 1:
        return function()
    text = ''
    with together():
        if is_first():
            text = json.dumps(function())
    return json.loads(_exchange(text)[0])


def require_same(value: str, problem: str) -> None:
    """Raises `InputError(problem)` in each process whose value is not that of the first."""
    first = from_first(lambda: value)
    with together():
        if value != first:
            raise InputError(problem)


def any_of(wish: bool) -> bool:
    """Whether any process has the wish; waits for all of them."""
    return any(_exchange('wish' if wish else ''))


class StopConsensus:
    """Whether any process wants to stop, without waiting: it counts an earlier step's votes.

    All processes get the same answer at the same step. A single process gets its own at once.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self._in_flight: collections.deque[jax.Array] = collections.deque()
        if jax.process_count() == 1:
            return
        self._count = jax.pmap(
            lambda vote: jax.lax.pmax(vote, AXIS), AXIS, out_axes=None, devices=tuple(devices)
        )
        votes = np.repeat(np.arange(2, dtype=np.int32), jax.local_device_count()).reshape(2, -1)
        self._votes = [jax.device_put(vote, split(devices)) for vote in votes]

    def __call__(self, wants_to_stop: bool) -> bool:
        """Casts this process's vote; all processes call it once a step."""
        if jax.process_count() == 1:
            return wants_to_stop
        self._in_flight.append(self._count(self._votes[wants_to_stop]))
        return len(self._in_flight) > _VOTES_IN_FLIGHT and bool(self._in_flight.popleft())


def leave(error: Exception) -> NoReturn:
    """Ends this process on an error that the others may not share; exiting would wait for them.

    The others then fail in what they compute together. A single process raises the error.
    """
    if jax.process_count() == 1:
        raise error
    code = 1
    cause = error.__cause__ if isinstance(error, NotWritten) else error
    if isinstance(cause, jax.errors.JaxRuntimeError):
        reason = str(cause).strip().splitlines()[0]
        print(
            f'error: process {jax.process_index()} lost contact with the others. Check their '
            f'output for the cause, then run the same commands again to resume ({reason})',
            file=sys.stderr,
        )
    elif isinstance(error, NotWritten):
        print(f'error: {error}', file=sys.stderr)
        code = 2
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _wait_for(coordinator: str) -> None:
    """Returns when someone listens at HOST:PORT; JAX alone would abort the process."""
    host, _, port = coordinator.rpartition(':')
    deadline = time.monotonic() + _MEETING_SECONDS
    while True:
        try:
            socket.create_connection((host.strip('[]'), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise InputError(
                    f'process 0 was not found at {coordinator} within {_MEETING_SECONDS} s '
                    f'({error.strerror or error}); start it there, with the same --coordinator'
                ) from None
        time.sleep(0.2)


def _exchange(text: str) -> list[str]:
    """The texts of all processes."""
    if jax.process_count() == 1:
        return [text]
    content = np.frombuffer(text.encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.int32(len(content)))
    padded = np.zeros(-(-max(lengths.max(), 1) // _BLOCK) * _BLOCK, np.uint8)
    padded[: len(content)] = content
    contents = multihost_utils.process_allgather(padded)
    pairs = zip(contents, lengths, strict=True)
    return [content[:length].tobytes().decode() for content, length in pairs]
