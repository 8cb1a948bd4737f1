"""`report.py --runs=DIR [--output=DIR] [--table=2|3|4|5]`, or `report.py --paper --output=DIR`.

Writes a report on all finished runs below a folder, beside the paper's numbers: one HTML page,
Markdown with figures, LaTeX tables and CSV. With --paper, tables 2 to 5 with the paper's numbers.
"""

from pathlib import Path

from absl import flags

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_RUNS = flags.DEFINE_string('runs', None, 'folder with work directories, at any depth')
_OUTPUT = flags.DEFINE_string('output', None, 'folder to write to; RUNS/report by default')
_TABLE = flags.DEFINE_integer('table', None, 'only the methods of this table of the paper: 2 to 5')
_REFERENCE = flags.DEFINE_string(
    'reference', None, 'method to compare the others with; ce_crw or, without it, ce by default'
)
_TUNED = flags.DEFINE_list(
    'tuned', [], 'config fields that were chosen for each row, so that rows may differ in them'
)
_PAPER = flags.DEFINE_bool('paper', False, "the paper's own numbers instead of runs")


@cli.command
def main() -> None:
    """Writes what the flags ask for and prints where the page is."""
    from metriclt_jax.reports.report import report_paper, report_runs

    if _PAPER.value == (_RUNS.value is not None):
        raise InputError('give either --runs=DIR or --paper')
    if _PAPER.value:
        if _OUTPUT.value is None:
            raise InputError('--output is missing; --paper needs it')
        if _TABLE.value is not None or _REFERENCE.value is not None or _TUNED.value:
            raise InputError(
                '--table, --reference and --tuned go with --runs; --paper writes all tables'
            )
        page = report_paper(_OUTPUT.value)
    else:
        runs = Path(_RUNS.value).expanduser()
        options = {'reference': _REFERENCE.value, 'tuned': _TUNED.value}
        page = report_runs(runs, _OUTPUT.value, table=_TABLE.value, **options)
    print(f'written to {page}')
