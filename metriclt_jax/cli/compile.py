"""`compile.py --config=FILE:METHOD --target=CHIP:TOPOLOGY`: compiles a run for machines elsewhere.

Targets are TPUs, as v5e:16x16, v4:2x2x1, v5p:2x2x1 or v6e:2x2, and GPUs, as h100:8. Needs neither
data nor weights; the compilers come with pip install 'metriclt-jax[tpu]' or 'metriclt-jax[cuda]'.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags
from rich.table import Table

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError
from metriclt_jax.reports.terminal import new_table

_CONFIG = config_flags.DEFINE_config_file(
    'config', None, 'FILE:METHOD[,scale=NAME]; set single fields by --config.model.dtype=bfloat16'
)
_TARGET = flags.DEFINE_string('target', None, 'CHIP:TOPOLOGY, as v5e:16x16 or h100:8')
_BATCH_SIZE = flags.DEFINE_integer(
    'batch_size', None, 'of both stages, over all devices; default: as in the config', lower_bound=1
)
_OUTPUT = flags.DEFINE_string('output', None, 'also write the numbers to this JSON file')
flags.mark_flags_as_required(['config', 'target'])


_UNKNOWN = (
    'Compiled, not run. Not known from here: time to exchange data between chips, to load it on '
    'the hosts, and what instructions without an estimate take (collectives, gathers).'
)


@cli.command
def main() -> int | None:
    """Compiles what the flags say and prints a table; returns 1 if a program does not fit."""
    # Autotuning would run kernels on a GPU.
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} --xla_gpu_autotune_level=0'
    import jax
    from rich.console import Console

    from metriclt_jax.compiling import compile_run
    from metriclt_jax.files import write_atomically

    jax.config.update('jax_platforms', 'cpu')  # what is compiled for is not here
    config = _CONFIG.value
    if _BATCH_SIZE.value:
        config.stage1.batch_size = config.stage2.batch_size = _BATCH_SIZE.value
    output = _OUTPUT.value and Path(_OUTPUT.value).expanduser()
    if output and not output.parent.is_dir():
        raise InputError(f'--output is {output}; its folder must exist')
    found = compile_run(config, _TARGET.value)
    if output:
        write_atomically(output, json.dumps(found, indent=1) + '\n')
    Console().print(_table(found))
    print(_UNKNOWN)
    return None if all(program['fits'] for program in found['programs']) else 1


def _table(found: Mapping[str, Any]) -> Table:
    """A column for each program; all numbers are those of one device."""
    programs, devices = found['programs'], found['devices']
    table = new_table('{method}, {model} on {target}, {devices} devices'.format_map(found))
    table.add_column('of each device')
    for program in programs:
        table.add_column(program['name'], justify='right')

    def row(heading: str, cell: Callable[[Mapping[str, Any]], str]) -> None:
        table.add_row(heading, *(cell(p) if 'compile_seconds' in p else '-' for p in programs))

    def mib(field: str) -> None:
        row(f'{field.removesuffix("_bytes")}, MiB', lambda p: f'{p[field] / 2**20:,.0f}')

    table.add_row('batch of all devices', *(f'{p["batch_size"]:,}' for p in programs))
    table.add_row('fits', *('yes' if p['fits'] else 'does not fit' for p in programs))
    for field in ('memory_bytes', 'argument_bytes', 'temporary_bytes', 'output_bytes'):
        mib(field)
    row('largest batch, about', lambda p: f'{p["largest_batch"]:,}')
    row('compiled in, s', lambda p: f'{p["compile_seconds"]:.0f}')
    row('GFLOP', lambda p: f'{(p["flops"] or 0) / 1e9:,.0f}' if p['flops'] else '-')
    for kind in sorted({kind for p in programs for kind in p.get('collectives', ())}):
        row(f'{kind}, number', lambda p: str(p['collectives'].get(kind, 0)))  # noqa: B023
        row(f'{kind}, MiB', lambda p: f'{p["collective_bytes"].get(kind, 0) / 2**20:,.1f}')  # noqa: B023
    row('gathers of pixels', lambda p: str(p['pixel_gathers']))
    parts = dict.fromkeys(part for p in programs for part in p.get('estimated_cycles', ()))
    for part in parts:
        row(f'{part}, M cycles', lambda p: f'{p["estimated_cycles"].get(part, 0) / 1e6:.2f}')  # noqa: B023
    if parts:
        row('all, M cycles', lambda p: f'{sum(p["estimated_cycles"].values()) / 1e6:.2f}')
        rate = found['clock_hz'] and found['clock_hz'] / devices
        if rate:
            row(
                'images/s that they allow',
                lambda p: f'{rate * p["batch_size"] / sum(p["estimated_cycles"].values()):,.0f}',
            )
    for program in programs:
        if 'reason' in program:
            table.caption = program['reason']
    return table
