"""Reads what a compiler tells of a program: exchanges, gathers, and the cycles that it estimates.

All is read from the text of the compiled program, HLO, where each line of a computation is an
instruction: its name, the type of its result, the operation, and remarks.
"""

import math
import re
from collections import Counter
from typing import NamedTuple

COLLECTIVES = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')

# The first that is found in an instruction's name stack says which part of the step it belongs to;
# the scopes are set in the code of these parts.
PARTS = {
    'augmentation': r'/augmentation\b',
    'metric_loss': r'\bmetric_loss\b',
    'optimizer': r'/optimizer\b',
    'pooling': r'reduce_window|select_and_scatter',
    'batch_norm': r'/batch_norm\b',
    'backward': r'transpose\(',
    'forward': r'jvp\(|Classifier',
    'other': '',
}

_BYTES = {'pred': 1, 's8': 1, 'u8': 1, 'bf16': 2, 'f16': 2, 's32': 4, 'u32': 4, 'f32': 4}
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$', re.MULTILINE)
_INSTRUCTION = re.compile(r'^ +(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\((.*)$', re.MULTILINE)
_CALLED = re.compile(r'(?:body|to_apply|calls)=%?([\w.-]+)|branch_computations=\{([^}]*)\}')


class Summary(NamedTuple):
    """What a compiled program does on each device."""

    collectives: dict[str, int]  # number of instructions by kind
    collective_bytes: dict[str, int]  # of their results, by kind
    pixel_gathers: int  # gathers of at least as many slices as there are pixels
    estimated_cycles: dict[str, int]  # by part; empty where the compiler estimates none


def summarize(text: str, pixels: int) -> Summary:
    """Reads the HLO of a program; a gather of `pixels` slices or more gathers pixels.

    Bytes and cycles of a loop count as often as it runs, if the text says how often.
    """
    blocks = re.split(r'^\}', text, flags=re.MULTILINE)
    named = [(name, block) for block in blocks if (name := _COMPUTATION.search(block))]
    computations = {name[2]: block for name, block in named}
    counts, sizes, cycles = Counter(), Counter(), Counter()
    gathers = 0

    def visit(computation: str, times: int) -> None:
        nonlocal gathers
        for result, operation, rest in _INSTRUCTION.findall(computation):
            kind = operation.removesuffix('-start')
            if kind in COLLECTIVES:
                counts[kind] += 1
                sizes[kind] += times * sum(n * _BYTES.get(t, 8) for t, n in _shapes(result))
            if operation == 'gather':
                slice_sizes = re.search(r'slice_sizes=\{([\d,]*)\}', rest)[1]
                elements = math.prod(map(int, slice_sizes.split(',')))
                gathers += sum(n for _, n in _shapes(result)) >= pixels * elements
            if estimate := re.search(r'"estimated_cycles":"(\d+)"', rest):
                cycles[_part(rest)] += times * int(estimate[1])
            runs = _runs(rest, computations) if operation == 'while' else 1
            for called in ','.join(map(''.join, _CALLED.findall(rest))).split(','):
                visit(computations.get(called.strip(' %'), ''), times * runs)

    visit(next(block for name, block in named if name[1]), 1)
    by_part = {part: cycles[part] for part in PARTS if cycles[part]}
    return Summary(dict(counts), dict(sizes), gathers, by_part)


def _runs(loop: str, computations: dict[str, str]) -> int:
    """How often a loop runs; where its remarks do not say it, its condition counts up to that."""
    if known := re.search(r'"known_trip_count":\{"n":"(\d+)"', loop):
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', loop)
    bounds = re.findall(r's32\[\]\S* constant\((\d+)\)', computations[condition[1]])
    return int(bounds[0]) if len(bounds) == 1 else 1


def _part(instruction: str) -> str:
    name = re.search(r'op_name="([^"]*)"', instruction)
    stack = name[1] if name else ''
    return next(part for part, pattern in PARTS.items() if re.search(pattern, stack))


def _shapes(result: str) -> list[tuple[str, int]]:
    """The type and number of elements of each array of an instruction's result."""
    found = re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', result)
    return [(kind, math.prod(int(n) for n in dims.split(',') if n)) for kind, dims in found]
