import doctest
import importlib
import subprocess
import sys

import pytest


def test_losses_import_nothing_else_of_the_package():
    program = 'import sys, metriclt_jax.losses; print(*sys.modules)'
    modules = subprocess.run(
        [sys.executable, '-c', program], capture_output=True, text=True, check=True
    ).stdout.split()
    ours = {name for name in modules if name.startswith('metriclt_jax.')}
    assert {name for name in ours if not name.startswith('metriclt_jax.losses')} == set()
    assert not {'flax', 'optax', 'matplotlib', 'tensorflow_datasets'} & set(modules)


@pytest.mark.parametrize('name', ['class_weights', 'classification', 'metric', 'reductions'])
def test_examples_in_docstrings(name):
    result = doctest.testmod(importlib.import_module(f'metriclt_jax.losses.{name}'))
    assert result.attempted > 0
    assert result.failed == 0
