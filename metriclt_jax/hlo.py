"""Reads what a compiler tells of a program: exchanges, gathers, and the cycles that it estimates.

All is read from the text of the compiled program, HLO, where each line of a computation is an
instruction: its name, the type of its result, the operation, and remarks.
"""

import collections
import math
import re
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
_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(?:ROOT )?%?[\w.-]+ = (\(.*?\)|\S+) ([\w-]+)\(')
_CALLED = re.compile(r'(?:body|condition|to_apply|calls)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


class Summary(NamedTuple):
    """What a compiled program does on each device."""

    collectives: dict[str, int]  # number by kind
    collective_bytes: dict[str, int]  # of their results, by kind
    pixel_gathers: int  # gathers of at least an image's pixels
    estimated_cycles: dict[str, int]  # by part; empty where the compiler estimates none


def summarize(text: str, pixels: int) -> Summary:
    """Reads the HLO of a program; a gather of `pixels` elements or more gathers pixels.

    Loops count as often as they run, if the compiler knows how often.
    """
    computations, entry = _computations(text)
    counts, sizes, cycles = (collections.Counter() for _ in range(3))
    gathers = 0

    def visit(name: str, times: int) -> None:
        nonlocal gathers
        for line in computations.get(name, ()):
            found = _INSTRUCTION.match(line)
            if not found:
                continue
            result, operation = found.groups()
            kind = operation.removesuffix('-start')
            if kind in COLLECTIVES:
                counts[kind] += 1
                sizes[kind] += times * _num_bytes(result)
            gathers += operation == 'gather' and _num_elements(result) >= pixels
            estimate = re.search(r'"estimated_cycles":"(\d+)"', line)
            if estimate:
                cycles[_part(line)] += times * int(estimate[1])
            runs = re.search(r'"known_trip_count":\{"n":"(\d+)"', line)
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [branch.strip().lstrip('%') for branch in branches.split(',')]
            for other in called:
                visit(other, times * int(runs[1]) if runs else times)

    visit(entry, 1)
    by_part = {part: cycles[part] for part in PARTS if cycles[part]}
    return Summary(dict(counts), dict(sizes), gathers, by_part)


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, by its name, and the name of the one that runs first."""
    computations, entry, lines = {}, '', []
    for line in text.splitlines():
        starts = _COMPUTATION.match(line)
        if starts:
            computations[starts[2]] = lines = []
            entry = starts[2] if starts[1] else entry
        else:
            lines.append(line)
    return computations, entry


def _part(line: str) -> str:
    name = re.search(r'op_name="([^"]*)"', line)
    stack = name[1] if name else ''
    return next(part for part, pattern in PARTS.items() if re.search(pattern, stack))


def _shapes(result: str) -> list[tuple[str, int]]:
    found = re.findall(r'\b([a-z]+\d*)\[([\d,]*)\]', result)
    return [(kind, math.prod(int(n) for n in dims.split(',') if n)) for kind, dims in found]


def _num_elements(result: str) -> int:
    return sum(count for _, count in _shapes(result))


def _num_bytes(result: str) -> int:
    return sum(_BYTES.get(kind, 8) * count for kind, count in _shapes(result))
