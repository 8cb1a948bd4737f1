import doctest
import importlib
import subprocess
import sys
import warnings

import pytest

from metriclt_jax import losses


def test_public_names():
    assert set(losses.__all__) == {
        'adjust_logits',
        'arcface',
        'balanced_contrastive',
        'center',
        'class_weights',
        'cosface',
        'cross_entropy',
        'focal',
        'ldam',
        'ldam_margins',
        'logit_adjusted',
        'supervised_contrastive',
        'triplet',
        'weighted_mean',
    }
    assert all(hasattr(losses, name) for name in losses.__all__)


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


def test_warnings_are_errors():
    with pytest.raises(UserWarning, match='as an error'):
        warnings.warn('as an error', UserWarning, stacklevel=1)
