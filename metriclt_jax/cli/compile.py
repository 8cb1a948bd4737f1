"""`compile.py --config=FILE:METHOD --target=CHIP:TOPOLOGY`: compiles a run for machines elsewhere.

Targets are TPUs, as v5e:16x16, v4:2x2x1, v5p:2x2x1 or v6e:2x2, and GPUs, as h100:8. Needs neither
data nor weights; the compilers come with pip install 'metriclt-jax[tpu]' or 'metriclt-jax[cuda]'.
"""

import json
from collections.abc import Mapping
from typing import Any

from absl import flags
from ml_collections import config_flags

from metriclt_jax.cli import main as cli

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
    'Compiled, not run. The largest batch assumes that memory grows with the batch. Not known from '
    'here: how long exchanges between devices take, hosts need to load images, and instructions '
    'without an estimate take (gathers, collectives; on a GPU, all).'
)
_MIB = 2**20


@cli.command
def main() -> int | None:
    """Compiles what the flags say and prints a table; returns 1 if a program does not fit."""
    import jax
    from rich.console import Console

    from metriclt_jax.compiling import compile_run
    from metriclt_jax.files import write_atomically

    jax.config.update('jax_platforms', 'cpu')  # what is compiled for is not here
    jax.config.update('jax_enable_compilation_cache', False)
    config, output = _CONFIG.value, cli.file_to_write(_OUTPUT)
    if _BATCH_SIZE.value:
        config.stage1.batch_size = config.stage2.batch_size = _BATCH_SIZE.value
    found = compile_run(config, _TARGET.value)
    if output:
        write_atomically(output, json.dumps(found, indent=1) + '\n')
    console = Console()
    console.print(_table(found))
    console.print(_UNKNOWN, highlight=False)
    return None if all(program['fits'] for program in found['programs']) else 1


def _table(found: Mapping[str, Any]) -> Any:
    """A column for each program; from the second section on, what each device has and does."""
    from metriclt_jax.reports.terminal import new_table

    programs = found['programs']
    table = new_table('{method}, {model} on {target}: {devices} devices'.format_map(found))
    table.add_column('')
    for program in programs:
        table.add_column(program['name'], justify='right')

    def add(heading, values, unit=1, digits=0):
        if any(value is not None for value in values):
            table.add_row(heading, *(f'{(value or 0) / unit:,.{digits}f}' for value in values))

    def add_field(heading, field, *form):
        add(heading, [program[field] for program in programs], *form)

    def add_parts(heading, field, *form):
        for part in dict.fromkeys(part for program in programs for part in program[field]):
            values = [program[field].get(part, 0) for program in programs]
            add(heading.format(part.replace('_', ' ')), values, *form)

    add_field('batch of all devices', 'batch_size')
    table.add_row('fits', *('yes' if program['fits'] else 'no' for program in programs))
    add('largest batch, about', [float(f'{p["largest_batch"]:.2g}') for p in programs])
    if any(p['compiled_batch'] != p['batch_size'] for p in programs):
        add_field('below: with a batch of', 'compiled_batch')
    add_field('compiled in, s', 'compile_seconds')
    table.add_section()
    add_field('memory of a device, MiB', 'memory_bytes', _MIB)
    for kind in ('argument', 'temporary', 'output'):
        add_field(f'{kind}, MiB', f'{kind}_bytes', _MIB, 1)
    add_field('GFLOP', 'flops', 1e9, 1)
    add_field('gathers of pixels', 'pixel_gathers')
    add_parts('{}, number', 'collectives')
    add_parts('{}, MiB', 'collective_bytes', _MIB, 1)
    table.add_section()
    add_parts('{}, M cycles', 'estimated_cycles', 1e6, 2)
    add_field('images/s that they allow', 'images_per_second')
    return table
