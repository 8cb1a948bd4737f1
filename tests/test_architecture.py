"""Imports go down only, also those inside functions, and no file needs itself."""

import ast
import graphlib
import itertools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'metriclt_jax'
FILES = sorted(path for path in PACKAGE.rglob('*.py') if path != PACKAGE / '__init__.py')
# From the bottom up: a module imports from lower lines, or from its own package.
LAYERS = [
    'errors',
    'paths progress losses class_groups methods quoting config_files workers',
    'files',
    'config devices',
    'hosts',
    'models augment data',
    'evaluation',
    'training',
    'hlo inference',
    'compiling',
    'predictions reports exporting',
    'grids',
    'reproduce',
    'cli',
]
LAYER = {room: i for i, layer in enumerate(LAYERS) for room in layer.split()}


def room(module):
    return module.split('.')[1]


def module_of(path):
    parts = path.relative_to(ROOT).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


def imports(path):
    """The modules of the package that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('metriclt_jax'):
            for alias in node.names:
                inner = PACKAGE.parent.joinpath(*node.module.split('.'), alias.name)
                is_module = inner.is_dir() or inner.with_suffix('.py').exists()
                found.add(f'{node.module}.{alias.name}' if is_module else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith('metriclt_jax.')}
    return found


@pytest.mark.parametrize('path', FILES, ids=lambda path: module_of(path))
def test_a_module_imports_from_lower_layers_only(path):
    own = room(module_of(path))
    for module in imports(path):
        other = room(module)
        assert other == own or LAYER[other] < LAYER[own], f'{module_of(path)} imports {module}'


def test_no_circles():
    graph = {module_of(path): imports(path) for path in FILES}
    # A package is what its __init__ imports.
    order = list(graphlib.TopologicalSorter(graph).static_order())
    assert len(order) >= len(FILES)


def test_no_module_is_too_long():
    long = {module_of(p): n for p in FILES if (n := p.read_text().count('\n')) > 350}
    assert not long


def test_the_path_from_the_command_to_the_loss_is_as_documented():
    """docs/architecture.md lists at most eight files, each of which imports the next."""
    text = (ROOT / 'docs' / 'architecture.md').read_text()
    section = text.partition('## From the command line to a loss')[2].partition('\n## ')[0]
    path = re.findall(r'^\| `([\w/]+\.py)`', section, flags=re.M)
    assert path[0] == 'scripts/train.py'
    assert path[-1] == 'metriclt_jax/losses/metric.py'
    assert len(path) <= 8
    for first, second in itertools.pairwise(path):
        found = imports(ROOT / first)
        wanted = module_of(ROOT / second)
        assert any(wanted == module or wanted.startswith(f'{module}.') for module in found), first
