"""The command as a user calls it: flags in, files out, one sentence for each mistake."""

import subprocess
import sys

import pytest
from commands import ROOT, assert_refused, call, succeed


def test_the_papers_numbers_are_written(tmp_path):
    script = [sys.executable, ROOT / 'scripts' / 'report.py']
    flags = ['--paper', f'--output={tmp_path}/new/folder']
    process = subprocess.run([*script, *flags], capture_output=True, text=True)
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
        (['--paper', '--output={tmp}/x', '--table=2'], '--table'),
        (['--runs={tmp}/nothing_here'], 'nothing_here'),
        (['--runs={tmp}', '--table=two'], '--table'),
    ],
)
def test_mistakes_end_in_one_sentence(tmp_path, flags, words):
    assert_refused(call('report', *(flag.format(tmp=tmp_path) for flag in flags)), words)
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_flags():
    shown = succeed('report', '--help')
    for flag in ('--runs', '--output', '--table', '--[no]paper', '--reference'):
        assert flag in shown
