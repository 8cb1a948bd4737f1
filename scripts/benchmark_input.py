"""Does the input keep up? benchmark_input.py --config=FILE:METHOD [--compare_torch] ...

Measures with the data set of the config, and prints:

- delivery: images a second that reach the devices, out of the cache and decoded each time, at each
  of --sizes and with each of --threads, beside what the same threads copy in memory, and with
  --compare_torch beside a PyTorch DataLoader that does the same work. All take turns.
- augmentation: images a second of the augmentation alone, on the device.
- training: how much of the time a training of what the config says waits for input. Steps with real
  input and steps that repeat one batch take turns.
"""

import collections
import datetime
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from absl import flags
from ml_collections import config_flags
from rich.console import Console

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

WHAT = ('delivery', 'augmentation', 'training')

_CONFIG = config_flags.DEFINE_config_file('config', None, 'FILE:METHOD[,scale=NAME]')
_WHAT = flags.DEFINE_list('what', list(WHAT), 'delivery, augmentation, training')
_SIZES = flags.DEFINE_list('sizes', ['64', '224'], 'sides of the images that a model sees')
_THREADS = flags.DEFINE_list('threads', ['1', '2', '4'], 'threads, or processes of PyTorch')
_BATCH = flags.DEFINE_integer('batch', 64, 'images in a batch of delivery', lower_bound=1)
_REPEATS = flags.DEFINE_integer('repeats', 5, 'samples of each', lower_bound=1)
_SECONDS = flags.DEFINE_float('sample_seconds', 1.0, 'length of a sample', lower_bound=0.01)
_PAIRS = flags.DEFINE_integer('pairs', 5, 'pairs in training', lower_bound=1)
_STEPS = flags.DEFINE_integer('steps', 0, 'training steps in one of a pair; 0: an epoch')
_COMPARE = flags.DEFINE_bool('compare_torch', False, 'run PyTorch, too')
_TORCH_PYTHON = flags.DEFINE_string(
    'torch_python', sys.executable, 'Python interpreter that has torch, torchvision and Pillow'
)
_OUTPUT = flags.DEFINE_string('output', None, 'also write all samples to this JSON file')
flags.mark_flag_as_required('config')


def benchmark() -> None:
    """Measures what the flags say; prints it and writes the file."""
    what, sizes, threads = _words(_WHAT), _numbers(_SIZES), _numbers(_THREADS)
    output = _OUTPUT.value and Path(_OUTPUT.value).expanduser()
    if output and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise InputError(f'--output is {output}; allowed: a file in a folder that is there')
    cli.keep_freed_memory()
    import jax

    from metriclt_jax.benchmark.machine import describe
    from metriclt_jax.versions import versions

    device, console = jax.local_devices()[0], Console()
    document = {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'machine': describe(device),
        'versions': versions(),
    }
    if 'delivery' in what or 'augmentation' in what:
        document |= _data(what, sizes, threads, device, console)
    if 'training' in what:
        document['training'] = _training(console)
    if output:
        output.write_text(json.dumps(document, indent=1) + '\n')
        console.print(f'written to {output}', highlight=False, soft_wrap=True)


def _data(what, sizes, threads, device, console) -> dict:
    """Delivery and augmentation."""
    from metriclt_jax.benchmark import input
    from metriclt_jax.benchmark.torch_process import DEVICES, start_torch

    config, document = _CONFIG.value, {}
    with ExitStack() as stack:
        torch = folder = None
        if _COMPARE.value and 'delivery' in what:
            worker = Path(input.__file__).with_name('input_torch.py')
            torch = start_torch(_TORCH_PYTHON.value, DEVICES[device.platform], worker)
            torch = stack.enter_context(torch)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            document['torch'] = torch.about
        subjects = {size: input.make_subject(config, size) for size in sizes}
        document['first_images_per_second'] = {
            subject.size: subject.first_images_per_second for subject in subjects.values()
        }
        if torch:
            input.write_for_torch(list(subjects.values()), config.data.data_dir, folder)
        if 'delivery' in what:
            results = document['delivery'] = []
            for size, cached, number in itertools.product(sizes, (True, False), threads):
                case = input.Case(size, cached, number)
                result = input.measure(
                    case,
                    subjects[size],
                    [device],
                    batch=_BATCH.value,
                    repeats=_REPEATS.value,
                    seconds=_SECONDS.value,
                    torch=torch,
                    folder=folder,
                )
                results.append(result)
            console.print(input.table(results))
        if 'augmentation' in what:
            document['augmentation'] = {
                size: [
                    input.augmented(subject, size, _BATCH.value, device, _SECONDS.value)
                    for _ in range(_REPEATS.value)
                ]
                for size, subject in subjects.items()
            }
            for size, samples in document['augmentation'].items():
                median = statistics.median(samples)
                console.print(
                    f'augmentation alone, {size} px: {median:.0f} images a second', highlight=False
                )
    return document


def _training(console) -> list[dict]:
    """Pairs of steps with real input and steps with one batch."""
    from metriclt_jax.training.loop import IN_FLIGHT, make_batches, make_schedule
    from metriclt_jax.training.progress import Stopwatch
    from metriclt_jax.training.setup import check_batches, make_run
    from metriclt_jax.training.steps import make_train_step

    this = make_run(_CONFIG.value, Path(), console)
    check_batches(this)
    stage = this.stages[0]
    per_epoch = this.steps_per_epoch(stage)
    steps = _STEPS.value or per_epoch
    step = make_train_step(this.models[stage.name], stage, per_epoch, this.devices)
    schedule = make_schedule(this, stage)
    state = this.initial_state(stage)

    def run(state, number, repeat_first):
        batches = make_batches(this, stage, number * steps, steps, repeat_first)
        stopwatch, in_flight = Stopwatch(stage.batch_size), collections.deque()
        cpu = time.process_time()
        for _ in range(steps):
            batch = stopwatch.fetch(batches, in_flight)
            state, loss = step(state, batch, schedule(0))
            in_flight.append(loss)
            if len(in_flight) > IN_FLIGHT:
                in_flight.popleft().block_until_ready()
        loss.block_until_ready()
        return state, stopwatch.stop() | {'cpu_seconds': time.process_time() - cpu}

    def ratios(pairs, name):
        return [pair['real'][name] / pair['repeated'][name] for pair in pairs]

    state, _ = run(state, 0, repeat_first=False)  # compiles, and checks the cached images
    pairs = []
    for number in range(_PAIRS.value):
        pair = {}
        for name, repeat_first in (('repeated', True), ('real', False)):
            state, pair[name] = run(state, number, repeat_first)
        pairs.append(pair)
        console.print(
            f'{this.config.model.name} {this.config.augment.crop} px x {stage.batch_size}, {steps} '
            f'steps: real {pair["real"]["seconds"]:.2f} s, repeated '
            f'{pair["repeated"]["seconds"]:.2f} s, ratio {ratios([pair], "seconds")[0]:.4f}, of '
            f'CPU seconds {ratios([pair], "cpu_seconds")[0]:.4f}, waiting '
            f'{100 * pair["real"]["input_wait_share"]:.2f} %',
            highlight=False,
            soft_wrap=True,
        )
    console.print(
        f'median ratio {statistics.median(ratios(pairs, "seconds")):.4f}, of CPU seconds '
        f'{statistics.median(ratios(pairs, "cpu_seconds")):.4f}, longest waiting share '
        f'{100 * max(pair["real"]["input_wait_share"] for pair in pairs):.2f} %',
        highlight=False,
        soft_wrap=True,
    )
    return pairs


def _words(flag: flags.FlagHolder) -> list[str]:
    if not flag.value or not set(flag.value) <= set(WHAT):
        raise InputError(
            f'--{flag.name} is {",".join(flag.value)!r}; allowed: one or more of {", ".join(WHAT)}'
        )
    return flag.value


def _numbers(flag: flags.FlagHolder) -> list[int]:
    if not flag.value or not all(word.isdecimal() and int(word) > 0 for word in flag.value):
        raise InputError(
            f'--{flag.name} is {",".join(flag.value)!r}; allowed: whole numbers of 1 or more'
        )
    return [int(word) for word in flag.value]


if __name__ == '__main__':
    cli.run(benchmark)
