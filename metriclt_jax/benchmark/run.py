"""The measurement, case by case, in alternation with PyTorch where it is asked for."""

import datetime
import itertools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from metriclt_jax.benchmark.machine import Rates, describe, measure_rates
from metriclt_jax.benchmark.programs import NUM_CLASSES, Case, count_work, make_program
from metriclt_jax.benchmark.tables import time_table, torch_table
from metriclt_jax.benchmark.timing import compare, summarize, time_steps
from metriclt_jax.benchmark.torch_process import DEVICES, OPTIONS, Torch
from metriclt_jax.files import write_atomically
from metriclt_jax.versions import versions

# Seconds between two sides: threads that have just computed spin for some milliseconds.
PAUSE = 0.05


def run(
    cases: Sequence[Case],
    device: jax.Device,
    console: Console,
    *,
    repeats: int,
    sample_seconds: float,
    torch: Torch | None = None,
    torch_options: Sequence[str] = (),
    output: Path | None = None,
) -> dict[str, Any]:
    """Measures all cases and prints a table for each kind of step and dtype.

    Args:
        cases: what to measure; those of a table stand together.
        device: where.
        console: where the tables go.
        repeats: samples of each side.
        sample_seconds: about how long a sample of ours is; PyTorch's has as many steps.
        torch: PyTorch, or None to measure ours alone.
        torch_options: keys of `torch_process.OPTIONS`.
        output: a JSON file to write after each case, so that what was measured is not lost.

    Returns:
        The contents of that file.
    """
    document = {
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'machine': describe(device),
        'versions': versions(),
        'torch': torch and torch.about,
        'rates': {},
        'results': [],
    }
    for (_, dtype), group in itertools.groupby(cases, key=lambda case: (case.what, case.dtype)):
        if dtype not in document['rates']:
            rates = measure_rates(dtype, device)
            document['rates'][dtype] = rates._asdict()
            console.print(
                f'{device.device_kind}: {dtype} matrix products at '
                f'{rates.flops_per_second / 1e12:.3g} TFLOP/s, memory at '
                f'{rates.bytes_per_second / 1e9:.3g} GB/s',
                highlight=False,
            )
        results = []
        for case in group:
            console.print(
                f'{case.what} {case.dtype} {case.model} {case.size} px x {case.batch}',
                highlight=False,
            )
            result = _measure(case, device, repeats, sample_seconds, torch, torch_options)
            results.append(result | _against_floor(case, Rates(**document['rates'][dtype]), result))
            document['results'].append(results[-1])
            for option, answer in results[-1].get('torch', {}).items():
                if 'error' in answer:
                    console.print(f'PyTorch {option}: {answer["error"]}', highlight=False)
            if output:
                write_atomically(output, json.dumps(document, indent=1) + '\n')
        console.print(time_table(results))
        if torch is not None:
            console.print(torch_table(results))
    return document


def _measure(
    case: Case,
    device: jax.Device,
    repeats: int,
    sample_seconds: float,
    torch: Torch | None,
    torch_options: Sequence[str],
) -> dict[str, Any]:
    """Compiles and times a case. A sample of ours, one of each option of PyTorch, and again."""
    program = make_program(case, device)
    carry, _ = time_steps(program.step, program.carry, 1)  # the first run is slower
    carry, seconds = time_steps(program.step, carry, 1)
    steps = max(1, round(sample_seconds / seconds))
    answers = {name: _build(torch, name, case, device) for name in torch_options}
    ours, theirs = [], {name: [] for name in answers if 'error' not in answers[name]}
    for _ in range(repeats):
        time.sleep(PAUSE)
        carry, seconds = time_steps(program.step, carry, steps)
        ours.append(seconds)
        for name in list(theirs):
            time.sleep(PAUSE)
            answer = torch.ask(do='steps', name=name, count=steps)
            if 'error' in answer:
                answers[name] = answer
                del theirs[name]
            else:
                theirs[name].append(answer['seconds'])
    result = case._asdict() | {
        'steps_in_a_sample': steps,
        'seconds': summarize(ours),
        'trace_seconds': program.trace_seconds,
        'compile_seconds': program.compile_seconds,
        'memory_bytes': program.memory_bytes,
        # The most that JAX has held on the device since the process began; a CPU does not say.
        'process_peak_bytes': (device.memory_stats() or {}).get('peak_bytes_in_use'),
    }
    if torch is not None:
        torch.ask(do='clear')
        for name, samples in theirs.items():
            answers[name] |= {'seconds': summarize(samples)} | compare(ours, samples)
        result['torch'] = answers
    return result


def _against_floor(case: Case, rates: Rates, result: dict[str, Any]) -> dict[str, Any]:
    """What the measured time means: images per second, and beside what the machine can do."""
    work, seconds = count_work(case), result['seconds']['median']
    return {
        'images_per_second': case.batch / seconds,
        'flops': work.flops,
        'floor_seconds': {
            'arithmetic': work.flops / rates.flops_per_second,
            'memory': work.bytes / rates.bytes_per_second,
        },
        'share_of_matrix_rate': work.flops / seconds / rates.flops_per_second,
    }


def _build(torch: Torch, name: str, case: Case, device: jax.Device) -> dict[str, Any]:
    return torch.ask(
        do='build',
        name=name,
        what=case.what,
        model=case.model,
        size=case.size,
        dtype=case.dtype,
        batch=case.batch,
        num_classes=NUM_CLASSES,
        device=DEVICES[device.platform],
        **OPTIONS[name],
    )
