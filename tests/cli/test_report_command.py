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
    ('flags', 'words'),
    [
        ([], '--runs'),
        (['--paper', '--runs=x'], '--runs'),
        (['--paper'], '--output'),
        (['--paper', '--output=x', '--table=2'], '--table'),
        (['--runs=nothing_here'], 'nothing_here'),
        (['--runs=.', '--table=two'], '--table'),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, flags, words):
    command = [sys.executable, f'{ROOT}/scripts/report.py', *flags]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert process.returncode == 2
    assert process.stderr.count('\n') == 1
    assert words in process.stderr
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_flags():
    process = call('--help')
    assert process.returncode == 0
    for flag in ('--runs', '--output', '--table', '--[no]paper', '--reference'):
        assert flag in process.stdout
