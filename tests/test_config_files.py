"""Config files by name: the user's own first, then those that travel with the package."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from metriclt_jax import config_files
from metriclt_jax.errors import InputError

ROOT = Path(__file__).parents[1]
TINY = [
    '--config.model.options.stage_sizes=(1,)',
    '--config.model.options.width=4',
    '--config.stage1.epochs=1',
    '--config.stage1.warmup_epochs=0',
    '--config.figures=False',
]


@pytest.mark.parametrize('name', ['skin7', 'skin7.py', 'configs/skin7.py'])
def test_the_shipped_file_is_found_in_an_empty_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert config_files.find(name) == ROOT / 'configs/skin7.py'


def test_the_users_own_file_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').mkdir()
    for name in ('configs/skin7.py', 'configs/mine.py', 'skin7.py'):
        (tmp_path / name).write_text('')
        assert config_files.find(Path(name).stem) == Path(name)
    assert config_files.find('skin7', ROOT / 'configs') == ROOT / 'configs/skin7.py'
    assert config_files.find(f'{tmp_path}/skin7') == tmp_path / 'skin7.py'


@pytest.mark.parametrize('name', ['skin8', 'configs/skin8.py', 'elsewhere/skin7.py', 'configs'])
def test_an_unknown_name_lists_the_known_ones(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/mine.py').write_text('')
    with pytest.raises(InputError, match=r'digits_lt, .*mine, .*skin7') as raised:
        config_files.find(name)
    assert name in str(raised.value)


@pytest.mark.slow
def test_a_wheel_trains_in_an_empty_folder(tmp_path):
    pytest.importorskip('hatchling')
    pip = [sys.executable, '-m', 'pip', '-q', '--disable-pip-version-check']
    wheel = ['wheel', ROOT, '--no-deps', '--no-build-isolation', '--no-index', '-w', tmp_path]
    subprocess.run([*pip, *wheel], check=True)
    (file,) = tmp_path.glob('*.whl')
    installed = tmp_path / 'installed'
    subprocess.run([*pip, 'install', '--no-deps', '--no-index', '-t', installed, file], check=True)
    assert (installed / 'metriclt_jax/configs/digits_lt.py').is_file()
    empty = tmp_path / 'empty'
    empty.mkdir()
    environment = {**os.environ, 'PYTHONPATH': str(installed), 'JAX_PLATFORMS': 'cpu'}

    def call(command, *flags):
        command = [sys.executable, installed / 'bin' / f'metriclt-{command}', *flags]
        return subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)

    data = f'--config.data.data_dir={tmp_path}/data'
    done = call('train', '--config=digits_lt:ce', data, '--workdir=run', *TINY)
    assert done.returncode == 0, done.stderr
    assert (empty / 'run/results.json').exists()
    refused = call('reproduce', '--dataset=digits', '--table=2')
    assert refused.returncode == 2
    assert 'digits_lt' in refused.stderr
