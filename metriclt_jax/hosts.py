"""The processes of a run on several hosts: how they meet, which one writes, what they agree on.

All of them run the same program and must come to each function here equally often, in the same
order. With one process nothing is exchanged.
"""

import collections
import json
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.console import Console

from metriclt_jax.devices import AXIS, split
from metriclt_jax.errors import InputError

T = TypeVar('T')

# A process is taken for dead after this time without a sign of life; the others then end too.
_HEARTBEAT_SECONDS = 30
# A process that ends waits this long for the others, and then ends them.
_SHUTDOWN_SECONDS = 30
# How long the first process is waited for.
_MEETING_SECONDS = 300
# Steps between the asking and the counting of a vote: by then the devices are long past it.
_VOTES_UNDER_WAY = 8
# What the processes tell each other is padded to a multiple of this, so that few lengths compile.
_BLOCK = 4096


def connect(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Makes this process one of several that share a run; comes before any computation.

    Args:
        coordinator: HOST:PORT of the first process, where all of them meet. Without arguments all
            is found out, which works on TPU pods, under Slurm and under Open MPI.
        num_processes: how many there are.
        process_id: which of them this is, from 0.

    Raises:
        InputError: the others were not found.
    """
    if coordinator is not None and process_id:
        _wait_for(coordinator)
    # It would take SIGTERM away from us, and Orbax would ask it for other steps than the run's.
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
        hint = '; name the others by coordinator, num_processes and process_id'
        raise InputError(
            f'this process cannot join the others: {error}{"" if coordinator else hint}'
        ) from None


def is_first() -> bool:
    """Whether this process is the one that writes and prints."""
    return jax.process_index() == 0


def console() -> Console:
    """The terminal in the first process; nothing in the others."""
    return Console() if is_first() else Console(file=open(os.devnull, 'w'))


def together(function: Callable[[], T]) -> T:
    """What `function` returns; where it fails in one process, it fails in all.

    Raises:
        InputError: it failed in another process.
        Exception: what it raised in this one.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as raised:
        if jax.process_count() == 1:
            raise
        error = raised
    messages = _exchange('' if error is None else str(error) or repr(error))
    if error is not None:
        raise error
    for process, message in enumerate(messages):
        if message:
            raise InputError(f'process {process}: {message}')
    return result


def of_first(function: Callable[[], Any]) -> Any:
    """What `function` returns in the first process, in all of them; a value that JSON can hold."""
    if jax.process_count() == 1:
        return function()
    text = together(lambda: json.dumps(function()) if is_first() else '')
    return json.loads(_exchange(text)[0])


def on_first(function: Callable[[], None]) -> None:
    """Calls `function` in the first process, while the others wait; see `together`."""
    together(lambda: function() if is_first() else None)


def any_of(wish: bool) -> bool:
    """Whether any process has the wish; waits for all of them."""
    return any(_exchange('wish' if wish else ''))


class Vote:
    """Whether any process has a wish, without waiting: the answer counts an earlier step's wishes.

    All processes get the same answer at the same step. One process gets its own wish at once.
    """

    def __init__(self, devices: Sequence[jax.Device]) -> None:
        self._under_way: collections.deque[jax.Array] = collections.deque()
        if jax.process_count() == 1:
            return
        self._count = jax.pmap(
            lambda wish: jax.lax.pmax(wish, AXIS), AXIS, out_axes=None, devices=tuple(devices)
        )
        wishes = np.repeat(np.arange(2, dtype=np.int32), jax.local_device_count()).reshape(2, -1)
        self._wishes = [jax.device_put(wish, split(devices)) for wish in wishes]

    def __call__(self, wish: bool) -> bool:
        """Tells this process' wish; called once a step by all."""
        if jax.process_count() == 1:
            return wish
        self._under_way.append(self._count(self._wishes[wish]))
        return len(self._under_way) > _VOTES_UNDER_WAY and bool(self._under_way.popleft())


def leave(error: Exception) -> NoReturn:
    """Ends this process on an error of its own, without waiting for the others as an exit would.

    They then fail in what they share with it. Without others, the error is raised.
    """
    if jax.process_count() == 1:
        raise error
    if isinstance(error, jax.errors.JaxRuntimeError):
        reason = str(error).strip().splitlines()[0]
        print(
            f'error: process {jax.process_index()} cannot compute with the others; one of them may '
            f'have ended, see its output; run the same commands again to go on ({reason})',
            file=sys.stderr,
        )
    else:
        traceback.print_exception(error)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def _wait_for(coordinator: str) -> None:
    """Returns when there is someone at HOST:PORT; JAX alone would abort the process if not."""
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
