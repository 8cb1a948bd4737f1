"""The guide on adding a method, followed literally."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from metriclt_jax.config import paper_config
from metriclt_jax.methods import CRW, METHODS, Method
from metriclt_jax.training.stages import make_stages

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / 'docs' / 'add_a_method.md').read_text()
SHORTER = (
    '--config.stage1.epochs=2 --config.stage1.warmup_epochs=1 --config.stage2.epochs=1 '
    '--config.model.options.stage_sizes=(1,) --config.model.options.width=4 --config.figures=False'
)


@pytest.mark.slow
def test_the_method_of_the_guide_trains_from_outside_the_package(tmp_path):
    (code,) = re.findall(r'```python\n(.*?)```', GUIDE, re.S)
    (command,) = re.findall(r'```sh\n(.*?)```', GUIDE, re.S)
    (tmp_path / 'poly.py').write_text(code)
    python, script, *arguments = shlex.split(command)
    assert python == 'python'
    arguments += [*SHORTER.split(), f'--config.data.data_dir={tmp_path}/data']
    subprocess.run([sys.executable, ROOT / script, *arguments], cwd=tmp_path, check=True)
    results = json.loads((tmp_path / 'runs' / 'poly1' / 'results.json').read_text())
    assert results['method'] == 'poly1_crw'
    assert [stage['name'] for stage in results['stages']] == ['stage1', 'stage2']


def test_the_one_line_row_of_the_guide(monkeypatch):
    (line,) = re.findall(r'^    (METHODS\[.*)$', GUIDE, re.M)
    methods = dict(METHODS)
    exec(line, {'METHODS': methods, 'Method': Method, 'CRW': CRW})
    (name,) = set(methods) - set(METHODS)
    monkeypatch.setitem(METHODS, name, methods[name])
    config = paper_config()
    config.method = name
    first, second = make_stages(config)
    assert (first.sampler, first.mixing.name) == ('class_balanced', 'cutmix')
    assert second.class_weights == 'inverse_frequency'
