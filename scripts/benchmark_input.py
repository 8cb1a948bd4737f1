"""The input pipeline of a config: its batches alone, and the training that waits for them."""

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax.training.loop import IN_FLIGHT, make_batches, make_loss_inputs
from metriclt_jax.training.setup import make_run
from metriclt_jax.training.step import make_train_step

WARM_UP = 16  # batches before a sample: more than are made ahead of time
ENDLESS = 10**9  # steps


def measure_input(
    config: ConfigDict, console: Console, take_turns: Callable[[dict[str, Any]], dict[str, Any]]
) -> Iterator[dict[str, Any]]:
    """Times the input of the config's first stage: its batches alone, and training with them."""
    run = make_run(config, Path(), console)
    stage, pixels = run.stages[0], run.dataset.images.pixels
    size = stage.batch_size
    about = {
        'model': config.model.name,
        'size': config.augment.crop,
        'dtype': config.model.dtype,
        'batch': size,
    }
    batches = make_batches(run, stage, 0, ENDLESS)
    first = next(batches)
    block = np.empty((size, *pixels.shape[1:]), np.uint8)
    starts = itertools.cycle(range(0, max(len(pixels) - size, 1), size))

    def deliver(count: int) -> float:
        for _ in range(WARM_UP):
            next(batches)
        started = time.perf_counter()
        for _ in range(count):
            jax.block_until_ready(next(batches))
        return (time.perf_counter() - started) / count

    def copy(count: int) -> float:
        started = time.perf_counter()
        for start in itertools.islice(starts, count):
            np.copyto(block, pixels[start : start + size])
        return (time.perf_counter() - started) / count

    yield {'what': 'batches', **about} | take_turns({'pipeline': deliver, 'copy': copy})

    step = make_train_step(run.models[stage.name], stage, run.steps_per_epoch(stage), run.devices)
    inputs = make_loss_inputs(run, stage)(0)
    state, shares = run.initial_state(stage), []

    def train(source: Iterator[Any], count: int) -> float:
        nonlocal state
        in_flight, waited = [], 0.0
        started = time.perf_counter()
        for _ in range(count):
            asked = time.perf_counter()
            batch = next(source)
            if in_flight and in_flight[-1].is_ready():  # the devices had nothing to do
                waited += time.perf_counter() - asked
            state, logs = step(state, batch, inputs)
            in_flight = [*in_flight, logs['loss']][-IN_FLIGHT:]
            in_flight[0].block_until_ready()
        jax.block_until_ready(state)
        seconds = time.perf_counter() - started
        if source is batches:
            shares.append(waited / seconds)
        return seconds / count

    samples = {
        'real input': lambda count: train(batches, count),
        'one batch': lambda count: train(itertools.repeat(first), count),
    }
    result = {'what': 'train', **about} | take_turns(samples)
    batches.close()
    warm = shares[2:]  # without the samples that compile and that are timed to choose their length
    yield result | {'input_wait_share': round(max(warm), 5)}
