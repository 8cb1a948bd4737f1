"""What this machine reaches at best, measured: the rates that a floor is computed from."""

import os
import platform
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from metriclt_jax.benchmark.timing import time_steps
from metriclt_jax.models.classifier import DTYPES

# Side of the square matrices and number of float32 values: far above what caches hold, and long
# enough to time.
MATRIX = {'cpu': 2048, 'default': 8192}
VALUES = {'cpu': 2**25, 'default': 2**28}
REPEATS = 5
SECONDS = 0.25  # of one timing


class Rates(NamedTuple):
    """The machine's rates: of matrix products of a dtype, and of its memory (read and written)."""

    flops_per_second: float
    bytes_per_second: float


def measure_rates(dtype: str, device: jax.Device) -> Rates:
    """The rates of one device: the best of a few timings of a large product and a large sum.

    The matrices are random, since a product of zeros draws less power and runs faster.
    """
    size = MATRIX.get(device.platform, MATRIX['default'])
    matrix = jax.random.normal(jax.random.key(0), (size, size), DTYPES[dtype]) * size**-0.5
    matrix = jax.device_put(matrix, device)
    product = jax.jit(jnp.matmul)
    seconds = _best(lambda x: product(matrix, x), matrix)
    flops_per_second = 2 * size**3 / seconds

    count = VALUES.get(device.platform, VALUES['default'])
    values = jax.device_put(jnp.zeros(count), device)
    seconds = _best(jax.jit(lambda x: x + 1, donate_argnums=0), values)
    return Rates(flops_per_second, 2 * values.dtype.itemsize * count / seconds)


def _best(step, carry) -> float:
    carry, _ = time_steps(step, carry, 1)  # compiles
    carry, seconds = time_steps(step, carry, 1)
    count = max(1, round(SECONDS / seconds))
    best = seconds
    for _ in range(REPEATS):
        carry, seconds = time_steps(step, carry, count)
        best = min(best, seconds)
    return best


def describe(device: jax.Device) -> dict[str, Any]:
    """The machine: device, processor, cores that this process may use, load before it began."""
    affinity = getattr(os, 'sched_getaffinity', None)  # Linux
    return {
        'platform': device.platform,
        'device': device.device_kind,
        'processor': _processor(),
        'cores': len(affinity(0)) if affinity else os.cpu_count(),
        'load_average': os.getloadavg()[0],  # of the last minute
        'system': platform.platform(),
    }


def _processor() -> str:
    try:
        for line in Path('/proc/cpuinfo').read_text().splitlines():
            if line.startswith('model name'):
                return line.partition(':')[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()
