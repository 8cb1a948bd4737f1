"""The command as a user meets it: from a file, from the network, and what it refuses."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from metriclt_jax.cli import import_weights
from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.pretrained import TORCHVISION, load, to_torchvision

SCRIPT = Path(__file__).parents[2] / 'scripts' / 'import_weights.py'
NAME = 'mobilenet_v2'  # the smallest


def command(*arguments):
    return subprocess.run(
        [sys.executable, '-W', 'error', str(SCRIPT), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope='module')
def variables():
    return initialize(create_model(NAME, 1000), 3)


def write(path, variables):
    arrays = to_torchvision(variables, NAME)
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, path)
    return path


@pytest.fixture(scope='module')
def source(tmp_path_factory, variables):
    return write(tmp_path_factory.mktemp('source') / 'weights.safetensors', variables)


@pytest.fixture
def call(monkeypatch, tmp_path):
    """The command within this process; a server stands in for torchvision's."""
    temporary = tmp_path / 'temporary'
    temporary.mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(temporary))

    def call(output, source=None, model=NAME):
        flags = {'_MODEL': model, '_SOURCE': source and str(source), '_OUTPUT': str(output)}
        for flag, value in flags.items():
            monkeypatch.setattr(import_weights, flag, SimpleNamespace(value=value))
        import_weights.main.__wrapped__()

    yield call
    assert os.listdir(temporary) == []


@pytest.fixture
def server(monkeypatch, tmp_path, source):
    """A folder that is downloaded from, with a file whose name fits its hash."""
    folder = tmp_path / 'server'
    folder.mkdir()
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    file = f'{NAME}-{sha256[:8]}.safetensors'
    (folder / file).write_bytes(source.read_bytes())
    monkeypatch.setattr(import_weights, '_URL', f'file://{folder}/')
    monkeypatch.setitem(TORCHVISION, NAME, TORCHVISION[NAME]._replace(file=file))
    return folder / file


@pytest.mark.slow
def test_a_file_becomes_a_directory_that_loads(source, variables, tmp_path):
    output = tmp_path / 'weights'
    flags = [f'--model={NAME}', f'--source={source}', f'--output={output}']
    result = command(*flags)
    assert (result.returncode, result.stderr) == (0, '')
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    assert sha256[:8] in result.stdout
    assert f'--config.model.pretrained={output}' in result.stdout
    record = json.loads((output / 'weights.json').read_text())
    assert len(record.pop('checkpoint_sha256')) == 64
    assert record == {'model': NAME, 'file': 'weights.safetensors', 'sha256': sha256}
    loaded = load(output, NAME)
    assert loaded[1:] == ('weights.safetensors', sha256)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)  # all classes

    result = command(*flags)
    assert (result.returncode, result.stderr) == (0, '')
    assert result.stdout == f'{output} holds {NAME} from weights.safetensors already\n'


@pytest.mark.slow
@pytest.mark.parametrize(
    ('flags', 'words'),
    [
        (['--model=resnet19'], '--model'),
        (['--model=resnet18'], '102 missing'),
        ([f'--model={NAME}', '--source=nothing.safetensors'], 'nothing.safetensors'),
        ([], '--model is missing'),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(source, tmp_path, flags, words):
    result = command(f'--source={source}', *flags, f'--output={tmp_path}/weights')
    assert (result.returncode, result.stdout) == (2, '')
    assert result.stderr.startswith('error: ')
    assert result.stderr.count('\n') == 1
    assert words in result.stderr
    assert os.listdir(tmp_path) == []


def test_what_is_there_stays(call, source, variables, tmp_path):
    output = tmp_path / 'weights'
    call(output, source)
    record = (output / 'weights.json').read_bytes()
    other = write(tmp_path / 'other.safetensors', jax.tree.map(lambda x: x + 1, variables))
    with pytest.raises(InputError, match='--output'):
        call(output, other)
    assert (output / 'weights.json').read_bytes() == record
    for taken in (tmp_path, other):
        with pytest.raises(InputError, match='exists'):
            call(taken, source)
    (tmp_path / 'empty').mkdir()
    call(tmp_path / 'empty', source)
    assert load(tmp_path / 'empty', NAME).file == 'weights.safetensors'


def test_by_default_the_official_file_is_fetched_once(call, server, variables, tmp_path, capsys):
    output = tmp_path / 'weights'
    call(output)
    loaded = load(output, NAME)
    assert loaded.file == server.name
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    server.unlink()
    call(output)
    assert capsys.readouterr().out.endswith(f'{output} holds {NAME} from {server.name} already\n')


def test_a_download_that_fails(call, server, tmp_path, monkeypatch):
    def refuse(words, **options):
        with pytest.raises(InputError, match=words):
            call(tmp_path / 'weights', **options)

    server.write_bytes(server.read_bytes()[:-1] + b'x')
    refuse('SHA-256')
    server.unlink()
    refuse('--source')
    monkeypatch.setattr(import_weights, '_URL', 'https://localhost:9/')  # nothing listens there
    refuse('localhost:9')
    monkeypatch.setitem(sys.modules, 'torch', None)  # asked for before the download
    refuse('resnet18-f37072fd.pth needs torch', model='resnet18')
    assert not (tmp_path / 'weights').exists()
