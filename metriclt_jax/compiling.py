"""Compiles the programs of a run for TPUs and GPUs that are not here; nothing is executed.

The compilers for TPU (libtpu) and CUDA run on any machine. They tell whether a program fits into
the memory of a chip, what the chips exchange and, for TPU, how many cycles each part should take.
"""

import importlib.util
import os
import re
import time
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from ml_collections import ConfigDict

from metriclt_jax import hlo
from metriclt_jax.config import validate
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.evaluate import make_eval_step
from metriclt_jax.models import initialize
from metriclt_jax.training.schedule import LossInputs
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.state import create_state
from metriclt_jax.training.step import make_train_step


class Chip(NamedTuple):
    """A kind of accelerator, from its vendor's data sheet."""

    platform: str
    gib: int  # of memory
    clock: float | None = None  # Hz, of the estimated cycles


CHIPS = {
    'v4': Chip('tpu', 32, 1.05e9),
    'v5e': Chip('tpu', 16, 1.5e9),
    'v5p': Chip('tpu', 95, 1.75e9),
    'v6e': Chip('tpu', 32),
    'h100': Chip('cuda', 80),
}
"""What programs are compiled for, by the first part of a target such as v5e:16x16 or h100:8."""

# Of each platform: the compiler's package, its extra, and the topology of a target.
_COMPILERS = {
    'tpu': ('libtpu', 'tpu', r'\d+(x\d+)+'),
    'cuda': ('jax_cuda13_plugin', 'cuda', r'[1-9]\d*'),
}
# Without these, libtpu waits for the metadata server of a TPU machine.
_NO_TPU_HERE = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}
_OPTIONS = {'cuda': {'xla_gpu_autotune_level': 0}}  # tuning would run kernels
_STEPS_PER_EPOCH = 100  # seen by the learning rate only


def target_devices(target: str) -> tuple[Chip, tuple[Any, ...]]:
    """The chip and the devices of a target; `InputError` if it or its compiler is not there."""
    name, _, topology = target.partition(':')
    chip = CHIPS.get(name)
    package, extra, shape = _COMPILERS[chip.platform if chip else 'tpu']
    if chip is None or not re.fullmatch(shape, topology):
        raise InputError(
            f'--target is {target!r}; it must be a chip ({", ".join(CHIPS)}) with the shape of a '
            'TPU slice or the number of GPUs, such as v5e:4x4, v4:2x2x1 or h100:8'
        )
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"compiling for {name} needs {package}; install it: pip install 'metriclt-jax[{extra}]'"
        )
    if chip.platform == 'tpu':
        os.environ.update({**_NO_TPU_HERE, **os.environ})
        options = {}
    else:
        text = resources.files('metriclt_jax').joinpath(f'{name}.txtpb').read_text()
        target, options = name, {'topology': f'1x{topology}x1', 'target_config': text}
    try:
        found = topologies.get_topology_desc(target, chip.platform, **options)
    except Exception as error:  # each compiler has its own
        raise InputError(f'--target {target} cannot be compiled for: {error}') from None
    return chip, tuple(found.devices)


def compile_run(config: ConfigDict, target: str) -> dict[str, Any]:
    """Compiles the training steps of all stages and the evaluation step of a run.

    Returns `target`, `devices` (their number), `method`, `model` and `programs`, each with `name`,
    `batch_size` over all devices and what `compile_program` returns. A data set whose classes the
    config does not list is taken to have ten.
    """
    validate(config)
    chip, devices = target_devices(target)
    num_classes = len(config.data.classes) or 10
    stages = make_stages(config)
    models = make_models(config, stages, num_classes)
    batch = partial(_batch, len(devices), config.data.resize)

    def training(stage, images):
        model = models[stage.name]
        key, sizes = jax.random.key(0), (_STEPS_PER_EPOCH, num_classes)
        state = jax.eval_shape(lambda: create_state(stage, initialize(model, 0), key, *sizes))
        batches = batch(images, 'aspect')
        if stage.second_sampler:
            batches['second'] = batch(images, 'aspect')
        of_class = jax.ShapeDtypeStruct((num_classes,), jnp.float32)
        inputs = LossInputs(of_class, of_class, jax.ShapeDtypeStruct((), jnp.float32))
        step = make_train_step(model, stage, _STEPS_PER_EPOCH, devices)
        return step.lower(state, batches, inputs)

    def evaluation(images):
        model = models[stages[-1].name]
        step = make_eval_step(model, stages[-1].augment, devices)
        return step.lower(jax.eval_shape(lambda: initialize(model, 0)), batch(images, 'mask'))

    trained = [stage for stage in stages if stage.epochs]
    lowerings = {stage.name: (stage.batch_size, partial(training, stage)) for stage in trained}
    size = -(-config.evaluation.batch_size // len(devices)) * len(devices)
    lowerings['evaluate'] = size, evaluation
    programs = []
    for name, (batch_size, lower) in lowerings.items():
        images, rest = divmod(batch_size, len(devices))
        if rest:
            raise InputError(
                f'config field {name}.batch_size is {batch_size}; it must be a multiple of the '
                f'{len(devices)} devices of {target}'
            )
        found = compile_program(lower, images, chip, config.data.resize, config.augment.crop)
        for field in ('compiled_batch', 'largest_batch'):
            found[field] *= len(devices)
        programs.append({'name': name, 'batch_size': batch_size, **found})
    return {
        'target': target,
        'devices': len(devices),
        'method': config.method,
        'model': config.model.name,
        'programs': programs,
    }


def compile_program(
    lower: Callable[[int], jax.stages.Lowered], images: int, chip: Chip, resize: int, crop: int
) -> dict[str, Any]:
    """Compiles `lower(images)` and reads what the compiler tells, all of it for one device.

    Returns:
        Whether it `fits` into the chip's `memory_bytes`, the `needed_bytes`, and the
        `largest_batch` if memory grows with the batch. Compilers for TPU refuse what does not fit,
        so the rest is for the `compiled_batch`, the first of `images`, a half, a quarter, ... that
        they take: `argument_bytes`, `temporary_bytes` and `output_bytes` (those that do not reuse
        arguments); `compile_seconds`; `flops` and `bytes_accessed` (None where they are not
        counted), what `hlo.Summary` has and, for TPU, `images_per_second` by the estimated cycles.
    """
    compiled_batch = images
    while True:
        started = time.monotonic()
        try:
            compiled = lower(compiled_batch).compile(_OPTIONS.get(chip.platform))
            break
        except jax.errors.JaxRuntimeError as error:
            if 'RESOURCE_EXHAUSTED' not in str(error) or compiled_batch == 1:
                raise
            compiled_batch //= 2
    seconds = time.monotonic() - started
    memory, costs = compiled.memory_analysis(), compiled.cost_analysis() or {}
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    pixels = compiled_batch * resize**2 * 3
    fixed = memory.argument_size_in_bytes - pixels
    of_image = (memory.temp_size_in_bytes + outputs + pixels) / compiled_batch
    needed, available = fixed + of_image * images, chip.gib * 2**30
    largest = max(0, int((available - fixed) / of_image))
    if compiled_batch < images:
        largest = min(largest, 2 * compiled_batch - 1)
    summary = hlo.summarize(compiled.as_text(), compiled_batch * crop**2)
    cycles = sum(summary.estimated_cycles.values())
    return {
        'fits': compiled_batch == images and needed <= available,
        'memory_bytes': available,
        'needed_bytes': round(needed),
        'largest_batch': largest,
        'compiled_batch': compiled_batch,
        'argument_bytes': memory.argument_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
        'output_bytes': outputs,
        'compile_seconds': round(seconds, 1),
        'flops': costs.get('flops'),
        'bytes_accessed': costs.get('bytes accessed'),
        **summary._asdict(),
        'images_per_second': chip.clock and cycles and round(compiled_batch * chip.clock / cycles),
    }


def _batch(devices: int, side: int, images: int, extra: str) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch with one more float for each image."""
    return {
        'image': jax.ShapeDtypeStruct((devices, images, side, side, 3), jnp.uint8),
        'label': jax.ShapeDtypeStruct((devices, images), jnp.int32),
        extra: jax.ShapeDtypeStruct((devices, images), jnp.float32),
    }
