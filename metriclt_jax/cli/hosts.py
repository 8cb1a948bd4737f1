"""The flags of a command that several hosts run together."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from absl import flags

from metriclt_jax.errors import HostFailed, InputError, Interrupted, NotWritten, TrainingDiverged

_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'join a multi-host job, detected on TPU pods, Slurm and Open MPI'
)
_COORDINATOR = flags.DEFINE_string('coordinator', None, 'HOST:PORT of process 0, where all meet')
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'how many meet at --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'which of them this is, from 0')


def connect() -> None:
    """Joins the processes that the flags name, if any; must come before any computation."""
    meeting = {flag.name: flag.value for flag in (_COORDINATOR, _NUM_PROCESSES, _PROCESS_ID)}
    if not check(_DISTRIBUTED.value, meeting):
        return
    from metriclt_jax import hosts

    if _PROCESS_ID.value == 0:
        print(f'waiting for {_NUM_PROCESSES.value} processes at {_COORDINATOR.value}', flush=True)
    hosts.connect(**meeting)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends this process on an error that the others may not have; see `hosts.leave`."""
    from metriclt_jax import hosts

    try:
        yield
    except Exception as error:
        shared = isinstance(error, HostFailed | InputError | Interrupted | TrainingDiverged)
        if shared and not isinstance(error, NotWritten):
            raise
        hosts.leave(error)


def check(distributed: bool, meeting: Mapping[str, Any]) -> bool:
    """Whether these flags name one of several processes; `InputError` if they do not fit."""
    coordinator, num_processes, process_id = meeting.values()
    missing = [f'--{name}' for name, value in meeting.items() if value is None]
    if len(missing) == len(meeting):
        return distributed
    if distributed:
        raise InputError('use either --distributed, which detects addresses, or --coordinator')
    if missing:
        raise InputError(f'a multi-host run needs {" and ".join(missing)} too')
    host, _, port = coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f'--coordinator is {coordinator}; it must be HOST:PORT, as 10.0.0.1:1234')
    if num_processes < 1:
        raise InputError(f'--num_processes is {num_processes}; it must be 1 or more')
    if not 0 <= process_id < num_processes:
        raise InputError(f'--process_id is {process_id}; it must be 0 to {num_processes - 1}')
    return True
