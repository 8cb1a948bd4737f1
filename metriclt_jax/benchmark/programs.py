"""What is measured: compiled programs of this package, and the work that they have to do."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax.config import paper_config
from metriclt_jax.devices import AXIS, place, split
from metriclt_jax.models import Classifier, create_model, initialize
from metriclt_jax.models.classifier import DTYPES
from metriclt_jax.training.schedules import Schedule
from metriclt_jax.training.stages import Stage, make_stages
from metriclt_jax.training.state import TrainState, create_state
from metriclt_jax.training.steps import make_train_step

NUM_CLASSES = 7  # as Skin7
STEPS_PER_EPOCH = 1000  # seen by the learning rate only


class Case(NamedTuple):
    """One row of the table.

    Attributes:
        what: 'train' (a training step) or 'forward' (the logits, in evaluation mode).
        model: a name of `create_model`.
        size: side of the images that the model sees, in pixels.
        dtype: of the computation.
        batch: images in a step.
        augment: whether it gets uint8 images and augments them on the device, as training does;
            not for 'forward'.
        remat: whether blocks are rematerialised; not for 'forward'.
    """

    what: str
    model: str
    size: int
    dtype: str
    batch: int
    augment: bool
    remat: bool


class Program(NamedTuple):
    """A compiled program, ready to be repeated: `carry = step(carry)`; `carry` is donated."""

    step: Callable[[Any], Any]
    carry: Any
    trace_seconds: float
    compile_seconds: float
    memory_bytes: int


def make_program(case: Case, device: jax.Device) -> Program:
    """Compiles what the case asks for and puts random images on the device."""
    model, stage = _model_and_stage(case)
    if case.what == 'forward':
        return _forward(case, model, device)
    return _train(case, model, stage, device)


class Work(NamedTuple):
    """The least that a case asks of any machine: arithmetic and traffic with the memory."""

    flops: int
    bytes: int


def count_work(case: Case) -> Work:
    """The work of a step of the case, counted from the shapes of its layers.

    A multiplication and an addition count as two, only convolutions and linear layers count, and
    each in the textbook form: the forward pass once, the backward pass twice (once for the first
    layer, since nobody asks for the gradient of the images). The augmentation and what `remat`
    computes again are left out. Bytes are those of an implementation that fuses all else into these
    layers: each reads its input and writes its output; backward, each reads both the input and the
    output's gradient and writes the input's. Parameters are float32: read in each pass, written as
    gradients; the optimizer reads parameter, momentum and gradient and writes the first two.
    """
    model, _ = _model_and_stage(case._replace(augment=False, remat=False))
    layers = []

    def remember(call, args, kwargs, context):
        outputs = call(*args, **kwargs)
        module = context.module
        if context.method_name == '__call__' and module.has_variable('params', 'kernel'):
            kernel = module.get_variable('params', 'kernel')
            positions = outputs.size // outputs.shape[-1]
            flops = 2 * positions * kernel.size
            inputs = sum(array.size for array in jax.tree.leaves(args))
            layers.append((flops, inputs, outputs.size, kernel.size))
        return outputs

    images = jax.ShapeDtypeStruct((case.batch, case.size, case.size, 3), jnp.float32)
    with nn.intercept_methods(remember):
        jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), images)
    flops, inputs, outputs, parameters = (sum(column) for column in zip(*layers, strict=True))
    itemsize = jnp.dtype(DTYPES[case.dtype]).itemsize
    if case.what == 'forward':
        return Work(flops, itemsize * (inputs + outputs) + 4 * parameters)
    first_flops, first_inputs, *_ = layers[0]
    values = 3 * inputs - first_inputs + 2 * outputs
    return Work(3 * flops - first_flops, itemsize * values + 4 * 8 * parameters)


def _model_and_stage(case: Case) -> tuple[Classifier, Stage]:
    """The case's model, and the stage of the paper's recipe with plain cross-entropy."""
    model = create_model(
        case.model,
        NUM_CLASSES,
        dtype=case.dtype,
        axis_name=AXIS,
        remat=case.remat,
    )
    config = paper_config()
    config.method = 'ce'
    # Cached images are larger than what the model sees, in the paper's proportion.
    config.data.resize = round(case.size * config.data.resize / config.augment.crop)
    config.augment.crop = case.size
    config.stage1.batch_size = case.batch
    (stage,) = make_stages(config)
    return model, stage if case.augment else dataclasses.replace(stage, augment=None)


def _train(case: Case, model: Classifier, stage: Stage, device: jax.Device) -> Program:
    """The step that `train` runs, on one device; without augmentation the images are ready."""
    random = np.random.default_rng(0)
    batch = {'label': random.integers(0, NUM_CLASSES, case.batch, dtype=np.int32)}
    if case.augment:
        shape = (case.batch, stage.augment.resize, stage.augment.resize, 3)
        batch['image'] = random.integers(0, 256, shape, dtype=np.uint8)
        batch['aspect'] = np.full(case.batch, 4 / 3, np.float32)
    else:
        batch['image'] = _images(case)
    batch = jax.device_put({name: array[None] for name, array in batch.items()}, split([device]))
    schedule = place(Schedule(jnp.ones(NUM_CLASSES), jnp.ones(NUM_CLASSES)), [device])
    state = place(_state(model, stage), [device])
    step = make_train_step(model, stage, STEPS_PER_EPOCH, [device])
    return _compile(step, state, batch, schedule, carried=lambda outputs: outputs[0])


def _forward(case: Case, model: Classifier, device: jax.Device) -> Program:
    """The logits of images that are ready."""
    variables = jax.device_put(initialize(model, 0), device)
    images = jax.device_put(_images(case), device)

    def forward(last, variables, images):
        del last  # one call waits for the other: a CPU would run independent calls side by side
        return model.apply(variables, images, train=False).logits

    forward = jax.jit(forward, donate_argnums=0, keep_unused=True)
    logits = jax.device_put(jnp.zeros((case.batch, NUM_CLASSES)), device)
    return _compile(forward, logits, variables, images)


def _images(case: Case) -> np.ndarray:
    shape = (case.batch, case.size, case.size, 3)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _state(model: Classifier, stage: Stage) -> TrainState:
    return create_state(
        stage, initialize(model, 0), jax.random.key(0), STEPS_PER_EPOCH, NUM_CLASSES
    )


def _compile(function, carry, *rest, carried=lambda outputs: outputs) -> Program:
    """Compiles `function(carry, *rest)` ahead of time; `carried` picks the next carry."""
    started = time.perf_counter()
    lowered = function.lower(carry, *rest)
    traced = time.perf_counter()
    compiled = lowered.compile()
    done = time.perf_counter()
    memory = compiled.memory_analysis()
    return Program(
        step=lambda carry: carried(compiled(carry, *rest)),
        carry=carry,
        trace_seconds=traced - started,
        compile_seconds=done - traced,
        memory_bytes=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes,
    )
