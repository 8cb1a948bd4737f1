"""The examples in the docstrings of the reports."""

import doctest
import importlib
import pkgutil

import pytest

import metriclt_jax.reports

MODULES = [module.name for module in pkgutil.iter_modules(metriclt_jax.reports.__path__)]


@pytest.mark.parametrize('name', MODULES)
def test_examples_are_right(name):
    module = importlib.import_module(f'metriclt_jax.reports.{name}')
    assert doctest.testmod(module).failed == 0


def test_there_are_examples():
    names = ('names', 'published', 'sections', 'statistics')
    finder = doctest.DocTestFinder()
    modules = [importlib.import_module(f'metriclt_jax.reports.{name}') for name in names]
    assert all(any(test.examples for test in finder.find(module)) for module in modules)
