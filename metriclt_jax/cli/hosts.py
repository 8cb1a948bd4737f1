"""The flags of a command that several hosts run together."""

import contextlib
from collections.abc import Iterator

from absl import flags

from metriclt_jax.errors import InputError

_DISTRIBUTED = flags.DEFINE_bool(
    'distributed', False, 'one of several hosts, which TPU pods, Slurm and Open MPI make known'
)
_COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'HOST:PORT of process 0, where the processes of all hosts meet'
)
_NUM_PROCESSES = flags.DEFINE_integer('num_processes', None, 'how many meet at --coordinator')
_PROCESS_ID = flags.DEFINE_integer('process_id', None, 'which of them this is, from 0')


def connect() -> None:
    """Joins the processes that the flags name, if any; comes before any computation.

    Raises:
        InputError: flags that do not go together, or the other processes were not found.
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
        print(f'meeting {number} processes at {place}', flush=True)
    hosts.connect(**meeting)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Ends this process on an error in the block, which others may not have; see `hosts.leave`."""
    from metriclt_jax import hosts
    from metriclt_jax.errors import Interrupted

    try:
        yield
    except (InputError, Interrupted):
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
        InputError: they do not go together, or one is not what is allowed.
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
        raise InputError('--distributed finds out by itself what --coordinator would say; use one')
    if missing:
        raise InputError(f'{" and ".join(missing)} must be given too, as several hosts take part')
    host, _, port = coordinator.rpartition(':')
    if not (host and port.isdecimal() and 0 < int(port) < 2**16):
        raise InputError(f'--coordinator is {coordinator}; allowed: HOST:PORT, as 10.0.0.1:1234')
    if num_processes < 1:
        raise InputError(f'--num_processes is {num_processes}; allowed: 1 or more')
    if not 0 <= process_id < num_processes:
        raise InputError(f'--process_id is {process_id}; allowed: 0 to {num_processes - 1}')
    return True
