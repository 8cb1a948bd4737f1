"""The flags of a command that several hosts run together."""

import contextlib
from collections.abc import Iterator

from absl import flags

from metriclt_jax.errors import HostFailed, InputError, Interrupted, NotWritten, TrainingDiverged

_DISTRIBUTED = flags.DEFINE_bool(
    'distributed',
    False,
    'join a multi-host job; addresses are detected on TPU pods, Slurm and Open MPI',
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, where the processes of all hosts meet'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'how many meet at --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'which of them this is, from 0')


def connect() -> None:
    """Joins the processes that the flags name, if any; must come before any computation.

    Raises:
        InputError: the flags do not fit together, or the other processes were not found.
    """
    meeting = {
        'coordinator': _COORDINATOR.value,
        'num_processes': _NUM_PROCESSES.value,
        'process_id': _PROCESS_ID.value,
    }
    if not check(_DISTRIBUTED.value, **meeting):
        return
    from metriclt_jax import hosts

    if meeting['process_id'] == 0:
        number, place = meeting['num_processes'], meeting['coordinator']
        print(f'waiting for {number} processes at {place}', flush=True)
    hosts.connect(**meeting)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends this process on an error that the others may not have; see `hosts.leave`."""
    from metriclt_jax import hosts

    try:
        yield
    except NotWritten as error:
        hosts.leave(error)
    except (HostFailed, InputError, Interrupted, TrainingDiverged):
        raise
    except Exception as error:
        hosts.leave(error)


def check(
    distributed: bool,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> bool:
    """Whether the flags say that this is one of several processes.

    Raises:
        InputError: they do not fit together, or one is out of range.
    """
    meeting = {
        '--coordinator': coordinator,
        '--num_processes': num_processes,
        '--process_id': process_id,
    }
    missing = [name for name, value in meeting.items() if value is None]
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
