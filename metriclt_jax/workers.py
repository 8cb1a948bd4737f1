"""Worker processes on one machine, each with cores and accelerators of its own."""

import glob
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

from metriclt_jax.errors import HostFailed, InputError, Interrupted

_TPU_BOUNDS = {1: '1,1,1', 2: '1,2,1', 4: '2,2,1'}  # chips of a process, by their number


class Share(NamedTuple):
    """What a worker may use."""

    cores: Sequence[int]
    environment: dict[str, str]


def shares(number: int) -> list[Share]:
    """Divides this process's cores and GPUs or TPU chips; `InputError` if they are too few."""
    cores = _divided(sorted(os.sched_getaffinity(0)), number, 'cores')
    environments = [{} for _ in range(number)]
    if 'cpu' not in os.environ.get('JAX_PLATFORMS', ''):
        if gpus := _chips('CUDA_VISIBLE_DEVICES', '/dev/nvidia[0-9]*'):
            divided = _divided(gpus, number, 'GPUs')
            environments = [{'CUDA_VISIBLE_DEVICES': ','.join(share)} for share in divided]
        elif chips := _chips('TPU_VISIBLE_CHIPS', '/dev/accel[0-9]*', '/dev/vfio/[0-9]*'):
            divided = _divided(chips, number, 'chips')
            for of_worker, share in zip(environments, divided, strict=True):
                if len(share) not in _TPU_BOUNDS:
                    raise InputError(
                        f'--workers is {number}; a worker must get 1, 2 or 4 of {len(chips)} chips'
                    )
                of_worker['TPU_VISIBLE_CHIPS'] = ','.join(share)
                of_worker['TPU_CHIPS_PER_PROCESS_BOUNDS'] = _TPU_BOUNDS[len(share)]
                of_worker['TPU_PROCESS_BOUNDS'] = '1,1,1'
    return [Share(*share) for share in zip(cores, environments, strict=True)]


def work_in_processes(
    tasks: Iterable[Any],
    work: Callable[[Any], Iterator[Any]],
    number: int,
    prepare: Callable[[], None],
) -> Iterator[Any]:
    """Yields what `work(task)` yields for each task, as it comes, from `number` processes.

    A process takes the next task when it has finished one; each calls `prepare` first. SIGTERM goes
    to all of them. `tasks`, `work` and `prepare` must be picklable. Raises `Interrupted` at SIGTERM
    or Ctrl-C, when the work under way has ended, `HostFailed` when a process has died, and the
    `InputError` of `work`; the others are stopped as by SIGTERM.
    """
    tasks = list(tasks)
    context = multiprocessing.get_context('spawn')  # JAX does not survive a fork
    processes: dict[Connection, multiprocessing.Process] = {}

    told, tell = os.pipe()  # wakes up the parent wherever a signal has found it
    stop = lambda signum, frame: os.write(tell, b'.')  # noqa: E731
    previous = {kind: signal.signal(kind, stop) for kind in (signal.SIGTERM, signal.SIGINT)}
    try:
        for share in shares(number)[: len(tasks)]:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, share, prepare, work))
            process.start()
            theirs.close()
            processes[ours] = process
            ours.send(tasks.pop(0))
        while processes:
            ready = wait([told, *processes])
            if told in ready:
                raise Interrupted('the runs under way are saved')
            for connection in ready:
                try:
                    message = connection.recv()
                except EOFError:
                    _require_success(processes.pop(connection))
                    continue
                if isinstance(message, InputError):
                    raise message
                if message is not None:
                    yield message
                else:
                    connection.send(tasks.pop(0) if tasks else None)
    finally:
        for process in processes.values():
            process.terminate()
        for process in processes.values():
            process.join()
        for kind, handler in previous.items():
            signal.signal(kind, handler)
        os.close(told)
        os.close(tell)


def _serve(connection: Connection, share: Share, prepare: Callable, work: Callable) -> None:
    os.environ.update(share.environment)
    os.sched_setaffinity(0, share.cores)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        prepare()
        while (task := connection.recv()) is not None:
            for message in work(task):
                connection.send(message)
            connection.send(None)
    except InputError as error:
        connection.send(error)
    except (Interrupted, KeyboardInterrupt):
        raise SystemExit(os.EX_TEMPFAIL) from None


def _end_with_parent() -> None:
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)  # it was killed, and the same command may have started again


def _require_success(process: multiprocessing.Process) -> None:
    process.join()
    if process.exitcode in (os.EX_TEMPFAIL, -signal.SIGTERM):
        raise Interrupted('the runs under way are saved')
    if process.exitcode:
        raise HostFailed(
            f'a worker process ended with exit code {process.exitcode} (-9 is often '
            'a lack of memory); run the same command again, perhaps with fewer --workers'
        )


def _chips(variable: str, *patterns: str) -> list[str]:
    """Numbers of the visible accelerators, from the variable that limits them or from /dev."""
    if os.environ.get(variable):
        return os.environ[variable].split(',')
    devices = (sorted(glob.glob(pattern)) for pattern in patterns)
    return [str(number) for number in range(len(next(filter(None, devices), [])))]


def _divided(items: Sequence[Any], number: int, what: str) -> list[Sequence[Any]]:
    if not 1 <= number <= len(items):
        raise InputError(f'--workers is {number}; it must be 1 to {len(items)} (the {what})')
    ends = [len(items) * place // number for place in range(number + 1)]
    return [items[begin:end] for begin, end in itertools.pairwise(ends)]
