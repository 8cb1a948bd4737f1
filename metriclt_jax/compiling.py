"""Compiles the programs of a run for TPUs and GPUs that are not here; nothing is executed.

The compilers for TPU (libtpu) and CUDA run on any machine. They tell whether a program fits into
the memory of a chip, what the chips exchange and, for TPU, how many cycles each part should take.
"""

import importlib.util
import os
import re
import time
from collections.abc import Sequence
from functools import partial
from importlib import resources
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from metriclt_jax import hlo
from metriclt_jax.config import validate
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.evaluate import make_eval_step
from metriclt_jax.models import initialize
from metriclt_jax.training.schedule import LossInputs
from metriclt_jax.training.stages import Stage, make_models, make_stages
from metriclt_jax.training.state import create_state
from metriclt_jax.training.step import make_train_step

GIB = 2**30


class Chip(NamedTuple):
    """A kind of accelerator, from its vendor's data sheet."""

    platform: str
    memory: int  # bytes
    clock: float | None = None  # Hz, of the estimated cycles


CHIPS = {
    'v4': Chip('tpu', 32 * GIB, 1.05e9),
    'v5e': Chip('tpu', 16 * GIB, 1.5e9),
    'v5p': Chip('tpu', 95 * GIB, 1.75e9),
    'v6e': Chip('tpu', 32 * GIB),
    'h100': Chip('cuda', 80 * GIB),
}
"""What programs are compiled for, by the first part of a target such as v5e:16x16 or h100:8."""

# Packages of each compiler and the extra that installs them.
_COMPILERS = {'tpu': ('libtpu', 'tpu'), 'cuda': ('jax_cuda13_plugin', 'cuda')}
# Without these, libtpu waits for the metadata server of a TPU machine.
_NO_TPU_HERE = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-8',
    'TPU_WORKER_HOSTNAMES': 'localhost',
}

# Of the data sets of the paper; others are taken to have ten.
_NUM_CLASSES = {'skin7': 7, 'xray9': 9, 'pathmnist_lt': 9, 'flower_lt': 102, 'dogs_lt': 120}
_STEPS_PER_EPOCH = 100  # seen by the learning rate only


def parse_target(target: str) -> tuple[Chip, str, str]:
    """Splits v5e:16x16 or h100:8 into chip, its name, and topology.

    Raises:
        InputError: the chip is unknown, or the topology is not a shape or number.
    """
    name, _, topology = target.partition(':')
    if name not in CHIPS:
        raise InputError(
            f'--target is {target!r}; use CHIP:TOPOLOGY with one of {", ".join(CHIPS)}, such as '
            'v5e:4x4 or h100:8'
        )
    shape = r'\d+(x\d+)+' if CHIPS[name].platform == 'tpu' else r'[1-9]\d*'
    if not re.fullmatch(shape, topology):
        kind = 'shape, as v5e:4x4' if CHIPS[name].platform == 'tpu' else 'number of GPUs, as h100:8'
        raise InputError(f'--target is {target!r}; after the colon comes the {kind}')
    return CHIPS[name], name, topology


def target_devices(target: str) -> tuple[Any, ...]:
    """The devices of a target, to compile for; see `parse_target`.

    Raises:
        InputError: the compiler is not installed, or does not know the topology.
    """
    from jax.experimental import topologies

    chip, name, topology = parse_target(target)
    package, extra = _COMPILERS[chip.platform]
    if importlib.util.find_spec(package) is None:
        raise InputError(
            f"compiling for {name} needs {package}; install it: pip install 'metriclt-jax[{extra}]'"
        )
    if chip.platform == 'tpu':
        os.environ.update({k: v for k, v in _NO_TPU_HERE.items() if k not in os.environ})
        options = {}
    else:
        text = resources.files('metriclt_jax').joinpath(f'{name}.txtpb').read_text()
        target, options = name, {'topology': f'1x{topology}x1', 'target_config': text}
    try:
        found = topologies.get_topology_desc(target, chip.platform, **options)
    except Exception as error:  # each compiler has its own errors
        raise InputError(f'--target {target} cannot be compiled for: {error}') from None
    return tuple(found.devices)


def compile_run(config: ConfigDict, target: str) -> dict[str, Any]:
    """Compiles the training steps of all stages and the evaluation step of a run.

    Returns:
        `target`, `devices` (their number), `method`, `model`, `num_classes`, `clock_hz` (None if
        unknown) and `programs`: for each its `name`, `batch_size` over all devices, what
        `compile_program` returns, and the `largest_batch` that fits if memory is linear in it.

    Raises:
        InputError: the config or the target cannot be used.
    """
    validate(config)
    chip, *_ = parse_target(target)
    devices = target_devices(target)
    num_classes = len(config.data.classes) or _NUM_CLASSES.get(config.data.name, 10)
    stages = make_stages(config)
    models = make_models(config, stages, num_classes)
    lowered = {
        stage.name: (stage.batch_size, partial(lower_training, models[stage.name], stage))
        for stage in stages
        if stage.epochs
    }
    size = -(-config.evaluation.batch_size // len(devices)) * len(devices)
    evaluated = partial(lower_evaluation, models[stages[-1].name], stages[-1], size)
    lowered['evaluate'] = size, evaluated
    programs = []
    for name, (batch_size, lower) in lowered.items():
        if batch_size % len(devices):
            raise InputError(
                f'config field {name}.batch_size is {batch_size}; it must be a multiple of the '
                f'{len(devices)} devices of {target}'
            )
        found = compile_program(lower(devices, num_classes), chip, config.augment.crop**2)
        if 'memory_bytes' in found:
            images = batch_size // len(devices)
            pixels = images * config.data.resize**2 * 3
            fixed = found['argument_bytes'] - pixels
            growing = (found['temporary_bytes'] + found['output_bytes'] + pixels) / images
            largest = int((chip.memory - fixed) / growing) * len(devices)
            found['largest_batch'] = max(largest, 0)
        programs.append({'name': name, 'batch_size': batch_size, **found})
    return {
        'target': target,
        'devices': len(devices),
        'method': config.method,
        'model': config.model.name,
        'num_classes': num_classes,
        'clock_hz': chip.clock,
        'programs': programs,
    }


def lower_training(
    model: nn.Module, stage: Stage, devices: Sequence[Any], num_classes: int
) -> jax.stages.Lowered:
    """Lowers the training step of a stage for `devices`, from shapes."""
    variables = jax.tree.map(_shape_of, initialize(model, 0))
    state = jax.eval_shape(
        lambda v: create_state(stage, v, jax.random.key(0), _STEPS_PER_EPOCH, num_classes),
        variables,
    )
    batch = _batch(stage, stage.batch_size, len(devices))
    batch['aspect'] = batch['label'].update(dtype=jnp.float32)
    if stage.second_sampler:
        batch['second'] = dict(batch)
    of_class = jax.ShapeDtypeStruct((num_classes,), jnp.float32)
    inputs = LossInputs(of_class, of_class, jax.ShapeDtypeStruct((), jnp.float32))
    step = make_train_step(model, stage, _STEPS_PER_EPOCH, devices)
    return step.lower(state, batch, inputs)


def lower_evaluation(
    model: nn.Module, stage: Stage, batch_size: int, devices: Sequence[Any], num_classes: int
) -> jax.stages.Lowered:
    """Lowers the evaluation of a batch for `devices`, from shapes."""
    variables = jax.tree.map(_shape_of, initialize(model, 0))
    batch = _batch(stage, batch_size, len(devices))
    batch['mask'] = batch['label'].update(dtype=jnp.float32)
    return make_eval_step(model, stage.augment, tuple(devices)).lower(variables, batch)


def compile_program(lowered: jax.stages.Lowered, chip: Chip, pixels: int) -> dict[str, Any]:
    """Compiles a program and reads what the compiler tells, for each device.

    Returns:
        Whether it `fits` into the chip's `memory_bytes`, beside `argument_bytes`,
        `temporary_bytes` and `output_bytes` (those that do not reuse arguments); `compile_seconds`;
        `flops` and `bytes_accessed` (None where the compiler does not count them); `collectives`
        (kind to count) and `collective_bytes`; `pixel_gathers` and `estimated_cycles` as in
        `hlo.Summary`. A program that does not fit may have only `fits` and `reason`.
    """
    started = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        reason = ' '.join(str(error).split())[:300]
        return {'fits': False, 'reason': reason}
    seconds = time.monotonic() - started
    memory = compiled.memory_analysis()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    needed = memory.argument_size_in_bytes + memory.temp_size_in_bytes + outputs
    costs = compiled.cost_analysis() or {}
    summary = hlo.summarize(compiled.as_text(), pixels)
    return {
        'fits': needed <= chip.memory,
        'memory_bytes': chip.memory,
        'argument_bytes': memory.argument_size_in_bytes,
        'temporary_bytes': memory.temp_size_in_bytes,
        'output_bytes': outputs,
        'compile_seconds': round(seconds, 1),
        'flops': costs.get('flops'),
        'bytes_accessed': costs.get('bytes accessed'),
        **summary._asdict(),
    }


def _shape_of(array: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _batch(stage: Stage, batch_size: int, num_devices: int) -> dict[str, jax.ShapeDtypeStruct]:
    shape, side = (num_devices, batch_size // num_devices), stage.augment.resize
    return {
        'image': jax.ShapeDtypeStruct((*shape, side, side, 3), jnp.uint8),
        'label': jax.ShapeDtypeStruct(shape, jnp.int32),
    }
