"""One of several processes of a test: `python host_worker.py WHAT FOLDER ID NUM PORT [FLAGS]`."""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path

import numpy as np

CONFIG = f'{Path(__file__).parents[2]}/configs/digits_lt.py'
# A run that takes seconds.
SMALL = {
    'model.options.stage_sizes': (1,),
    'model.options.width': 8,
    'stage1.epochs': 2,
    'stage1.warmup_epochs': 1,
    'stage2.epochs': 2,
    'evaluation.every': 1,
    'evaluation.batch_size': 272,
    'checkpoint_every': 1,
    'figures': False,
}


def one_update(data_dir):
    """The rows of this process of each stage's first batches, and the result of an update."""
    import jax
    from rich.console import Console

    from metriclt_jax.data.pipeline import eval_batches
    from metriclt_jax.devices import local_rows
    from metriclt_jax.training.loop import make_batches, make_loss_inputs
    from metriclt_jax.training.setup import make_run
    from metriclt_jax.training.step import make_train_step

    config = runpy.run_path(CONFIG)['get_config']('ce_sc_crw')
    config.update_from_flattened_dict(SMALL | {'data.data_dir': str(data_dir)})
    run = make_run(config, Path(data_dir) / 'unused', Console(quiet=True))
    batches, update = {}, {}
    for stage in run.stages:
        first = list(make_batches(run, stage, 0, 3))
        for step, batch in enumerate(first):
            for name, array in batch.items():
                batches[f'{stage.name} {step} {name}'] = np.asarray(array)
        if stage.name != 'stage1':
            continue
        step = make_train_step(run.models[stage.name], stage, 5, run.devices)
        state, logs = step(run.initial_state(stage), first[0], make_loss_inputs(run, stage)(0))
        # After one step the momentum is the gradient (and the weight decay).
        made = {'logs': logs, 'momentum': state.opt_state, 'batch_stats': state.batch_stats}
        for path, leaf in jax.tree_util.tree_leaves_with_path(made):
            update[f'{stage.name} {jax.tree_util.keystr(path)}'] = np.asarray(leaf)
    rows = local_rows(40, run.devices)
    for number, batch in enumerate(eval_batches(run.dataset, 'test', 40, rows)):
        for name, array in batch.items():
            batches[f'test {number} {name}'] = array.reshape(-1, 5, *array.shape[1:])
    return batches, update


def agreements(process):
    """What the processes tell each other, as the report of one of them."""
    import jax

    from metriclt_jax import hosts
    from metriclt_jax.devices import choose_devices
    from metriclt_jax.errors import HostFailed, InputError

    def fail_in(number, error):
        try:
            with hosts.together():
                if process == number:
                    raise error
        except (HostFailed, InputError, OSError) as raised:
            return f'{type(raised).__name__}: {raised}'

    long = 'ä' * 5000
    stop = hosts.StopConsensus(choose_devices())
    votes = [stop(process == 1 and step == 3) for step in range(20)]
    return {
        'from first': hosts.from_first(lambda: [process, long]) == [0, long],
        'failure in 1': fail_in(1, InputError('the disk is full')),
        'failure in 0': fail_in(0, OSError('gone')),
        'any': [hosts.any_of(process == 1), hosts.any_of(False)],
        'votes': votes,
        'devices': [device.process_index for device in choose_devices()],
        'count': jax.device_count(),
    }


def run_on(data_dir, workdir):
    """How a run with the records in `data_dir` ends, and whether it has written anything."""
    from rich.console import Console

    from metriclt_jax.errors import HostFailed, InputError
    from metriclt_jax.training.train import train

    config = runpy.run_path(CONFIG)['get_config']('ce')
    config.update_from_flattened_dict(SMALL | {'data.data_dir': str(data_dir)})
    end = 'finished'
    try:
        train(config, workdir, Console(quiet=True))
    except (HostFailed, InputError) as error:
        end = str(error)
    return end, workdir.exists()


def report_writes(folder, process):
    """Notes every file below `folder` that Python writes, moves or makes, but checkpoints."""
    log = os.open(folder.parent / f'writes{process}', os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def hook(event, arguments):
        if event == 'open':
            path, _, flags = arguments
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not isinstance(path, str | bytes | os.PathLike) or not writes:
                return
        elif event in ('os.rename', 'os.mkdir', 'os.remove'):
            path = arguments[0]
        else:
            return
        path = os.path.abspath(os.fsdecode(path))
        if path.startswith(f'{folder}/') and '/checkpoints' not in path:
            os.write(log, f'{event} {path}\n'.encode())

    sys.addaudithook(hook)


def main():
    what, folder, process, num_processes, port, *rest = sys.argv[1:]
    folder, process = Path(folder), int(process)
    address = f'127.0.0.1:{port}'
    if what in ('train', 'evaluate'):
        command = importlib.import_module(f'metriclt_jax.cli.{what}')
        report_writes(folder, process)
        meeting = [f'--coordinator={address}', f'--num_processes={num_processes}']
        sys.argv = [what, *meeting, f'--process_id={process}', f'--workdir={folder}', *rest]
        command.main()
        return
    from metriclt_jax import hosts

    hosts.connect(address, int(num_processes), process)
    batches, update = one_update(rest[0])
    np.savez(folder / f'batches{process}.npz', **batches)
    np.savez(folder / f'update{process}.npz', **update)
    report = agreements(process)
    report['with other data'] = run_on(rest[process], folder / 'run')
    (folder / f'report{process}.json').write_text(json.dumps(report))


if __name__ == '__main__':
    main()
