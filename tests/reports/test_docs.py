"""The numbers of the documents and the examples of the docstrings are right."""

import doctest
from pathlib import Path

import pytest

from metriclt_jax.reports import published, tables
from metriclt_jax.reports.report import report_runs

DOCS = Path(__file__).parents[2] / 'docs'


@pytest.mark.slow
def test_the_report_on_skin7_follows_from_the_results(tmp_path, blank_figures):
    report_runs(DOCS / 'results' / 'skin7', tmp_path)
    for name in ('results.csv', 'differences.csv', 'report.md'):
        written = (DOCS / 'skin7_report' / name).read_text()
        assert (tmp_path / name).read_text() == written, f'make docs/skin7_report/{name} again'
    figures = {path.name for path in (tmp_path / 'figures').iterdir()}
    assert figures == {path.name for path in (DOCS / 'skin7_report' / 'figures').iterdir()}


@pytest.mark.parametrize('module', [published, tables])
def test_examples_are_right(module):
    result = doctest.testmod(module)
    assert result.attempted
    assert not result.failed
