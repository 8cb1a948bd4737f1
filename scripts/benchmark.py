"""`benchmark.py [--models=NAMES] [--sizes=64,224] [--batches=8,32] ...`: speed on this machine.

Times the training step (augmentation, forward and backward pass, update) and the forward pass of
each model, image size, batch size and dtype on one device; with --compare_torch beside PyTorch.
With --config=FILE:METHOD also the input pipeline of that config: images a second beside a plain
copy in memory, and training steps with real input beside steps that repeat one batch. All that is
compared takes turns, sample by sample. Lists have commas.
"""

import datetime
import itertools
import json
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_flags

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

SMALLEST_SIZE = 32  # the models halve an image five times
SMALLEST_BATCH = 2  # BatchNorm takes the variance of a batch
WHAT = ('train', 'forward', 'input')
TORCH_OPTIONS = ('default', 'channels_last', 'compile')

NUM_CLASSES = 7  # as Skin7
STEPS_PER_EPOCH = 1000  # seen by the learning rate only
PAUSE = 0.3  # seconds between samples: threads that have just computed spin for a while

Sample = Callable[[int], float]  # runs k steps and returns the seconds of one

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME]: also measure its input'
)
_MODELS = flags.DEFINE_list('models', ['resnet50', 'densenet121', 'mobilenet_v2'], 'models')
_SIZES = flags.DEFINE_list('sizes', ['64', '224'], 'sides of the images, in pixels')
_BATCHES = flags.DEFINE_list('batches', ['8', '32'], 'images in a step')
_DTYPES = flags.DEFINE_list('dtypes', ['float32'], 'of the computation: float32, bfloat16')
_WHAT = flags.DEFINE_list(
    'what', None, 'train, forward, input; default: train,forward, and input with --config'
)
_REMAT = flags.DEFINE_bool('remat', False, 'rematerialize blocks: less memory, more time')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'samples of each', lower_bound=1)
_SAMPLE_SECONDS = flags.DEFINE_float(
    'sample_seconds', 1.0, 'about how long a sample is', lower_bound=0, upper_bound=600
)
_COMPARE = flags.DEFINE_bool('compare_torch', False, 'take turns with PyTorch and torchvision')
_TORCH_OPTIONS = flags.DEFINE_list(
    'torch_options',
    None,
    'default, channels_last, compile (channels_last with torch.compile); default: '
    'default,channels_last on a CPU, compile on a GPU',
)
_OUTPUT = flags.DEFINE_string('output', None, 'also write all samples to this JSON file')


class Case(NamedTuple):
    """A program to time: the training step ('train') or the logits ('forward') of a model."""

    what: str
    model: str
    size: int
    dtype: str
    batch: int


@cli.command
def main() -> None:
    """Measures what the flags say; prints a table and writes the file."""
    what = _what()
    cases = [case for case in _cases() if case.what in what]
    output = _OUTPUT.value and Path(_OUTPUT.value).expanduser()
    if output and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise InputError(f'--output is {output}; it must be a file in a folder that exists')
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # leaves memory to PyTorch
    cli.keep_freed_memory()
    import jax
    from rich.console import Console

    from metriclt_jax.progress import say
    from metriclt_jax.training.train import versions

    jax.config.update('jax_enable_compilation_cache', False)  # compiling is measured
    device, console = jax.local_devices()[0], Console()
    torch_options = _torch_options(device.platform) if _COMPARE.value else ()
    others = ('torch', 'torchvision') if _COMPARE.value else ()
    document = {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'machine': _machine(device),
        'versions': versions() | {name: metadata.version(name) for name in others},
        'results': [],
    }
    measurements = (measure(case, device, torch_options) for case in cases)
    if 'input' in what:
        from benchmark_input import measure_input

        measurements = itertools.chain(
            measurements, measure_input(_CONFIG.value, console, _take_turns)
        )
    for result in measurements:
        document['results'].append(result)
        about = (f'{name} {value}' for name, value in result.items() if name != 'samples')
        say(', '.join(about), console)
        if output:  # after each, so that a kill loses little
            output.write_text(json.dumps(document, indent=1) + '\n')
    console.print(table(document['results']))
    if output:
        say(f'written to {output}', console)


def measure(case: Case, device: Any, torch_options: Iterable[str]) -> dict[str, Any]:
    """Compiles and times a case, in turns with PyTorch."""
    sample, about = _program(case, device)
    samples = {'ours': sample}
    for option in torch_options:
        from benchmark_torch import make_sample

        samples[f'PyTorch {option}'] = make_sample(
            case, NUM_CLASSES, gpu=device.platform != 'cpu', option=option
        )
    return case._asdict() | about | _take_turns(samples)


def _program(case: Case, device: Any) -> tuple[Sample, dict[str, Any]]:
    """Compiles the case for random images; also returns seconds of compiling and MiB of memory."""
    import jax
    import numpy as np

    from metriclt_jax.config import paper_config
    from metriclt_jax.devices import place, split
    from metriclt_jax.models import initialize
    from metriclt_jax.training.schedule import LossInputs
    from metriclt_jax.training.stages import make_models, make_stages
    from metriclt_jax.training.state import create_state
    from metriclt_jax.training.step import make_train_step

    config = paper_config()
    config.method, config.model.name, config.model.dtype = 'ce', case.model, case.dtype
    if _REMAT.value:
        config.model.options.remat = True
    # Cached images are larger than what the model sees, in the paper's proportion.
    config.data.resize = round(case.size * config.data.resize / config.augment.crop)
    config.augment.crop = case.size
    (stage,) = make_stages(config)
    model = make_models(config, (stage,), NUM_CLASSES)[stage.name]
    variables = initialize(model, 0)
    random = np.random.default_rng(0)
    started = time.perf_counter()
    if case.what == 'train':
        shape = (1, case.batch, config.data.resize, config.data.resize, 3)
        batch = {
            'image': random.integers(0, 256, shape, np.uint8),
            'label': random.integers(0, NUM_CLASSES, shape[:2], np.int32),
            'aspect': np.full(shape[:2], 4 / 3, np.float32),
        }
        batch = jax.device_put(batch, split([device]))
        ones = np.ones(NUM_CLASSES, np.float32)
        inputs = place(LossInputs(ones, ones), [device])
        state = create_state(stage, variables, jax.random.key(0), STEPS_PER_EPOCH, NUM_CLASSES)
        carry = place(state, [device])
        step = make_train_step(model, stage, STEPS_PER_EPOCH, [device])
        compiled = step.lower(carry, batch, inputs).compile()
        advance = lambda state: compiled(state, batch, inputs)[0]  # noqa: E731
    else:
        images = random.standard_normal((case.batch, case.size, case.size, 3), np.float32)
        variables, images = jax.device_put((variables, images), device)

        def forward(last, variables, images):
            del last  # makes one call wait for the other; a CPU would run them side by side
            return model.apply(variables, images, train=False).logits

        carry = jax.device_put(np.zeros((case.batch, NUM_CLASSES), np.float32), device)
        compiled = jax.jit(forward, keep_unused=True).lower(carry, variables, images).compile()
        advance = lambda last: compiled(last, variables, images)  # noqa: E731
    seconds = time.perf_counter() - started
    memory = compiled.memory_analysis()
    used = memory.argument_size_in_bytes + memory.output_size_in_bytes
    used += memory.temp_size_in_bytes - memory.alias_size_in_bytes

    def sample(count: int) -> float:
        nonlocal carry
        jax.block_until_ready(carry)
        started = time.perf_counter()
        for _ in range(count):
            carry = advance(carry)
        jax.block_until_ready(carry)
        return (time.perf_counter() - started) / count

    return sample, {'compile_seconds': round(seconds, 2), 'memory_mib': round(used / 2**20)}


def _take_turns(samples: dict[str, Sample]) -> dict[str, Any]:
    """Seconds of a step in each sample, by what is compared, of equally many steps each."""
    reference = next(iter(samples.values()))
    for sample in samples.values():
        sample(1)  # compiles, and the first steps are slower
    steps = max(1, round(_SAMPLE_SECONDS.value / reference(2)))
    seconds = {name: [] for name in samples}
    for _ in range(_REPEATS.value):
        for name, sample in samples.items():
            time.sleep(PAUSE)
            seconds[name].append(sample(steps))
    return {'steps': steps, 'samples': seconds}


def table(results: Iterable[dict[str, Any]]) -> Any:
    """Times, rates and ratios of all results, at most 80 columns wide."""
    from rich import box
    from rich.table import Table

    caption = (
        'min, median: ms a step. ratio: first row over this one, median of neighboring samples '
        '(below 1 the first is faster). wait: longest share of a sample without input.'
    )
    shown = Table(caption=caption, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column('', no_wrap=True)
    for heading in ('min', 'median', 'images/s', 'ratio'):
        shown.add_column(heading, justify='right', no_wrap=True)
    for result in results:
        samples, size = result['samples'], result['batch']
        shown.add_row(f'{result["what"]} {result["model"]} {result["size"]} px x {size}')
        first = next(iter(samples.values()))
        for name, seconds in samples.items():
            median = statistics.median(seconds)
            ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
            shown.add_row(
                f'  {name}, {result["dtype"]}',
                f'{1000 * min(seconds):.4g}',
                f'{1000 * median:.4g}',
                f'{size / median:.0f}',
                f'{ratio:.2f}',
            )
        if 'input_wait_share' in result:
            shown.add_row(f'  wait {100 * result["input_wait_share"]:.2f} %')
    return shown


def _cases() -> list[Case]:
    from metriclt_jax.models.classifier import BACKBONES, DTYPES

    return [
        Case(what, model, size, dtype, batch)
        for what, dtype, model, size, batch in itertools.product(
            ('train', 'forward'),
            _names(_DTYPES, DTYPES),
            _names(_MODELS, BACKBONES),
            _numbers(_SIZES, SMALLEST_SIZE),
            _numbers(_BATCHES, SMALLEST_BATCH),
        )
    ]


def _what() -> list[str]:
    if _WHAT.value is None:
        return list(WHAT if _CONFIG.value else WHAT[:2])
    if 'input' in _names(_WHAT, WHAT) and not _CONFIG.value:
        raise InputError('--what has input, which needs --config=FILE:METHOD')
    return _WHAT.value


def _torch_options(platform: str) -> list[str]:
    try:
        import torch
        import torchvision  # noqa: F401
    except ImportError as error:
        raise InputError(f'--compare_torch needs torch and torchvision ({error})') from None
    if platform != 'cpu' and not torch.cuda.is_available():
        raise InputError(f'--compare_torch: torch {torch.__version__} has no {platform} device')
    if _TORCH_OPTIONS.value:
        return _names(_TORCH_OPTIONS, TORCH_OPTIONS)
    return list(TORCH_OPTIONS[:2] if platform == 'cpu' else TORCH_OPTIONS[2:])


def _names(flag: flags.FlagHolder, known: Iterable[str]) -> list[str]:
    if not flag.value or not set(flag.value) <= set(known):
        raise InputError(f'--{flag.name} is {",".join(flag.value)!r}; use {", ".join(known)}')
    return flag.value


def _numbers(flag: flags.FlagHolder, smallest: int) -> list[int]:
    words = flag.value
    if not words or not all(word.isdecimal() and int(word) >= smallest for word in words):
        raise InputError(f'--{flag.name} is {",".join(words)!r}; use integers from {smallest} on')
    return [int(word) for word in words]


def _machine(device: Any) -> dict[str, Any]:
    """Device, processor, cores that this process may use, and the load before it began."""
    info = Path('/proc/cpuinfo')  # Linux
    found = re.search(r'model name\s*: (.*)', info.read_text() if info.exists() else '')
    return {
        'platform': device.platform,
        'device': device.device_kind,
        'processor': found[1] if found else platform.processor() or platform.machine(),
        'cores': len(os.sched_getaffinity(0)) if info.exists() else os.cpu_count(),
        'load_average': os.getloadavg()[0],
        'system': platform.platform(),
    }


if __name__ == '__main__':
    main()
