"""The command that compares several seeds in one program with one after the other."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_it_measures_both_ways_and_compares_what_they_trained(tmp_path):
    command = [
        sys.executable,
        f'{ROOT}/scripts/benchmark_seeds.py',
        f'--config={ROOT}/configs/digits_lt.py:ce',
        f'--config.data.data_dir={tmp_path}',
        '--config.model.options.stage_sizes=(1,)',
        '--config.model.options.width=8',
        '--config.stage1.batch_size=16',
        '--seeds=2',
        '--steps=2',
        '--repeats=2',
    ]
    environment = {**os.environ, 'XLA_FLAGS': ''}
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=True
    )
    found = re.search(
        r'resnet18 16 px x 16, 2 seeds: one after the other (\S+) ms, in one program (\S+) ms, '
        r'ratio \S+ \(\S+ to \S+\); after two updates the momentum differs by (\S+) of its norm\n',
        process.stdout,
    )
    assert found, process.stdout
    apart, together, difference = map(float, found.groups())
    assert apart > 0
    assert together > 0
    assert difference < 1e-5
