"""Tables 2 to 5 from the paper's numbers."""

import re

import pytest

from metriclt_jax.reports.document import Cell
from metriclt_jax.reports.paper_tables import arrange, contradictions, number, published_table

# (table, column of "All") -> best and second best by value, read off the printed tables.
BEST = {
    (2, 'Skin7'): ('86.50 ± 0.34', '86.43 ± 0.44'),
    (2, 'X-ray9'): ('52.93 ± 0.26', '52.87 ± 0.27'),
    (2, 'PathMNIST-LT'): ('87.45 ± 0.25', '86.50 ± 0.42'),
    (3, 'Skin7'): ('86.43 ± 0.44', '84.36'),
    (3, 'X-ray9'): ('52.77 ± 0.33', '51.81 ± 1.03'),
    (4, 'DenseNet121'): ('86.30', '85.93'),
    (4, 'MobileNetV2'): ('86.26', '85.96'),
    (5, 'Flower-LT'): ('90.99', '90.94'),
    (5, 'Stanford Dogs-LT'): ('34.71', '34.49'),
}


@pytest.mark.parametrize(('table', 'column'), BEST)
def test_best_and_second_best_by_value(table, column):
    made = published_table(table)
    start = 0
    for text, columns in made.groups:
        if text == column:
            break
        start += columns
    cells = [row[start] for row in made.rows]
    marked = {cell.mark: cell.text for cell in cells if cell.mark}
    assert (marked['bold'], marked['underline']) == BEST[table, column]
    assert made.header[start] == 'All'


@pytest.mark.parametrize(
    ('table', 'shape'), [(2, (21, 10)), (3, (5, 10)), (4, (6, 5)), (5, (7, 9))]
)
def test_tables_are_whole(table, shape):
    made = published_table(table)
    assert (len(made.rows), len(made.header)) == shape
    assert {len(row) for row in made.rows} == {shape[1]}
    assert sum(columns for _, columns in made.groups) == shape[1]
    marks = [cell.mark for row in made.rows for cell in row if isinstance(cell, Cell) and cell.mark]
    columns = sum(text == 'All' for text in made.header)
    assert sorted(marks) == ['bold'] * columns + ['underline'] * columns
    assert not any(isinstance(cell, Cell) and cell.text == '-' for row in made.rows for cell in row)


def test_components_of_table_3():
    rows = [row[:4] for row in published_table(3).rows]
    assert rows == [
        ('CE', '✓', '-', '-'),
        ('CE+SC', '✓', '✓', '-'),
        ('CE → cRW', '✓', '-', '✓'),
        ('SC → cRW', '-', '✓', '✓'),
        ('CE+SC → cRW', '✓', '✓', '✓'),
    ]


def test_the_paper_contradicts_itself_once():
    assert [contradictions(table) for table in (3, 4, 5)] == [[], [], []]
    (sentence,) = contradictions(2)
    assert sentence.startswith('X-ray9')
    assert re.findall(r'\d\d\.\d\d', sentence) == ['52.77', '52.87']


def test_what_was_not_run_is_a_dash():
    made = arrange(5, ['here'], lambda *cell: None, 'caption')
    assert {cell.text for row in made.rows for cell in row[1:]} == {'-'}
    assert {cell.mark for row in made.rows for cell in row[1:]} == {''}


def test_ties_in_print_share_a_mark():
    def values(method, metric, column):
        return ({'ce': 90.001, 'ce_crw': 90.004, 'ldam_drw': 89}.get(method, 80.0), None)

    marks = [row[1].mark for row in arrange(5, ['here'], values, '').rows]
    assert marks == ['bold', 'bold', 'underline', '', '', '', '']


def test_numbers_as_printed():
    assert number(84.126, 0.5) == '84.13 ± 0.50'
    assert number(-0.5) == '−0.50'
