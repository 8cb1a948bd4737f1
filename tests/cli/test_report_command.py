"""The command as a user calls it: flags in, files out, one sentence for each mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def call(*flags):
    command = [sys.executable, f'{ROOT}/scripts/report.py', *map(str, flags)]
    environment = {**os.environ, 'COLUMNS': '80'}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def test_the_papers_numbers_are_written(tmp_path):
    process = call('--paper', f'--output={tmp_path}/new/folder')
    assert process.returncode == 0, process.stderr
    assert process.stdout == f'written to {tmp_path}/new/folder/report.html\n'
    files = {path.name for path in (tmp_path / 'new/folder').iterdir()}
    assert files == {'report.html', 'report.md', 'report.tex', 'results.csv'}


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ([], 'give either --runs=DIR or --paper'),
        (['--paper', '--runs=x'], 'give either --runs=DIR or --paper'),
        (['--paper'], '--output is missing; --paper needs it'),
        (['--paper', '--output=x', '--table=2'], '--table and --reference go with --runs'),
        (['--runs=nothing_here'], 'folder of runs nothing_here does not exist'),
        (['--runs=.', '--table=1'], 'table is 1; allowed: 2, 3, 4, 5'),
        (['--runs=.', '--table=two'], '--table'),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, flags, message):
    command = [sys.executable, f'{ROOT}/scripts/report.py', *flags]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count('\n') == 1
    assert message in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_flags():
    process = call('--help')
    assert process.returncode == 0
    for flag in ('--runs', '--output', '--table', '--[no]paper', '--reference'):
        assert flag in process.stdout
