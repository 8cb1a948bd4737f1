"""The examples in the docstrings of the reports."""

import doctest
import importlib
import pkgutil

import metriclt_jax.reports


def test_examples_are_right():
    attempted = {}
    for module in pkgutil.iter_modules(metriclt_jax.reports.__path__):
        found = importlib.import_module(f'metriclt_jax.reports.{module.name}')
        result = doctest.testmod(found)
        assert result.failed == 0
        attempted[module.name] = result.attempted
    assert all(attempted[name] for name in ('published', 'tables'))
