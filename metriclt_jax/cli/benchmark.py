"""`benchmark.py [--models=NAMES] [--sizes=64,224] [--batches=8,32] ...`: how fast on this machine.

Measures each model at each image size, batch size and dtype on one device and prints tables; with
--compare_torch beside torchvision's model in PyTorch, in alternation. Lists have commas.
"""

import itertools
import math
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from absl import flags

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

SMALLEST_SIZE = 32  # the models halve an image five times
SMALLEST_BATCH = 2  # BatchNorm takes the variance of a batch
WHAT = ('train', 'forward')

_MODELS = flags.DEFINE_list('models', ['resnet50', 'densenet121', 'mobilenet_v2'], 'models')
_SIZES = flags.DEFINE_list('sizes', ['64', '224'], 'sides of the images, in pixels')
_BATCHES = flags.DEFINE_list('batches', ['8', '32'], 'images in a step')
_DTYPES = flags.DEFINE_list('dtypes', ['float32'], 'of the computation: float32, bfloat16')
_WHAT = flags.DEFINE_list('what', list(WHAT), 'train (a training step), forward (evaluation mode)')
_AUGMENT = flags.DEFINE_bool(
    'augment',
    True,
    'augment images on the device, as training does; else the bare step',
)
_REMAT = flags.DEFINE_bool('remat', False, 'rematerialise blocks: less memory, more time')
_REPEATS = flags.DEFINE_integer('repeats', 5, 'samples of each')
_SAMPLE_SECONDS = flags.DEFINE_float('sample_seconds', 1.0, 'about how long a sample is')
_COMPARE = flags.DEFINE_bool('compare_torch', False, 'run the same in PyTorch, in alternation')
_TORCH_PYTHON = flags.DEFINE_string(
    'torch_python', sys.executable, 'Python interpreter that has torch and torchvision'
)
_TORCH_OPTIONS = flags.DEFINE_list(
    'torch_options',
    None,
    'default, channels_last, compile (channels_last, torch.compile), compile_graphs (with CUDA '
    'graphs); if not given: default,channels_last on a CPU, compile on a GPU',
)
_OUTPUT = flags.DEFINE_string('output', None, 'also write all samples to this JSON file')


def benchmark() -> None:
    """Measures what the flags say; prints tables and writes the file."""
    import jax
    from rich.console import Console

    from metriclt_jax.benchmark.programs import Case
    from metriclt_jax.benchmark.run import run
    from metriclt_jax.benchmark.torch_process import (
        DEFAULT_OPTIONS,
        DEVICES,
        OPTIONS,
        start_torch,
    )
    from metriclt_jax.models.classifier import BACKBONES, DTYPES

    cases = [
        Case(
            what,
            model,
            size,
            dtype,
            batch,
            augment=_AUGMENT.value and what == 'train',
            remat=_REMAT.value and what == 'train',
        )
        for what, dtype, model, size, batch in itertools.product(
            _names(_WHAT, WHAT),
            _names(_DTYPES, DTYPES),
            _names(_MODELS, BACKBONES),
            _numbers(_SIZES, SMALLEST_SIZE),
            _numbers(_BATCHES, SMALLEST_BATCH),
        )
    ]
    if _REPEATS.value < 1:
        raise InputError(f'--repeats is {_REPEATS.value}; allowed: 1 or more')
    if not 0 < _SAMPLE_SECONDS.value < math.inf:
        raise InputError(f'--sample_seconds is {_SAMPLE_SECONDS.value}; allowed: above 0')
    output = _OUTPUT.value and Path(_OUTPUT.value).expanduser()
    if output and (output.is_dir() or not os.access(output.parent, os.W_OK)):
        raise InputError(
            f'--output is {output}; allowed: a file in a folder that can be written to'
        )
    options = _TORCH_OPTIONS.value and _names(_TORCH_OPTIONS, OPTIONS)

    cli.keep_freed_memory()
    if _COMPARE.value:  # on a GPU, JAX would take three quarters of the memory for itself
        os.environ.setdefault('XLA_PYTHON_CLIENT_MEM_FRACTION', '0.5')
    jax.config.update('jax_enable_compilation_cache', False)  # compiling is measured
    device, console = jax.local_devices()[0], Console()
    with ExitStack() as stack:
        torch = None
        if _COMPARE.value:
            if device.platform not in DEVICES:
                raise InputError(
                    f'--compare_torch is not possible on {device.platform}; allowed: on '
                    f'{", ".join(DEVICES)}'
                )
            torch_device = DEVICES[device.platform]
            torch = stack.enter_context(start_torch(_TORCH_PYTHON.value, torch_device))
            options = options or DEFAULT_OPTIONS[torch_device]
        run(
            cases,
            device,
            console,
            repeats=_REPEATS.value,
            sample_seconds=_SAMPLE_SECONDS.value,
            torch=torch,
            torch_options=options if torch else (),
            output=output,
        )
    if output:
        console.print(f'written to {output}', highlight=False, soft_wrap=True)


def _names(flag: flags.FlagHolder, allowed: Iterable[str]) -> list[str]:
    if not flag.value or not set(flag.value) <= set(allowed):
        raise InputError(
            f'--{flag.name} is {",".join(flag.value)!r}; allowed: one or more of '
            f'{", ".join(allowed)}'
        )
    return flag.value


def _numbers(flag: flags.FlagHolder, smallest: int) -> list[int]:
    if not flag.value or not all(word.isdecimal() and int(word) >= smallest for word in flag.value):
        raise InputError(
            f'--{flag.name} is {",".join(flag.value)!r}; allowed: one or more whole numbers, '
            f'each {smallest} or more'
        )
    return [int(word) for word in flag.value]


def main() -> None:
    """Entry point."""
    cli.run(benchmark)


if __name__ == '__main__':
    main()
