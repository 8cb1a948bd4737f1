"""compile.py, for this machine's devices in place of a TPU's."""

import json

import pytest
from commands import ROOT, assert_refused, call

FLAGS = (
    f'--config={ROOT}/configs/digits_lt.py:ce',
    '--config.model.options.stage_sizes=(1,)',
    '--config.model.options.width=4',
    '--target=v5e:2x2',
)


def with_devices_of_this_machine():
    import jax

    from metriclt_jax import compiling

    def target_devices(target):
        return compiling.Chip('cpu', 0.001), tuple(jax.devices())

    compiling.target_devices = target_devices


def without_compilers():
    import importlib.util

    importlib.util.find_spec = lambda name: None


@pytest.mark.slow
def test_the_table_and_the_file_say_what_fits(tmp_path):
    output = tmp_path / 'compiled.json'
    flags = (*FLAGS, '--batch_size=64', '--config.evaluation.batch_size=2', f'--output={output}')
    result = call('compile', *flags, devices=2, before=with_devices_of_this_machine)
    assert result.returncode == 1, result.stderr  # as not all fits
    found = json.loads(output.read_text())
    assert (found['target'], found['devices']) == ('v5e:2x2', 2)
    stage1, evaluate = found['programs']
    assert (stage1['name'], stage1['batch_size'], stage1['fits']) == ('stage1', 64, False)
    assert (evaluate['name'], evaluate['batch_size'], evaluate['fits']) == ('evaluate', 2, True)
    for field in ('temporary_bytes', 'argument_bytes', 'compile_seconds'):
        assert stage1[field] > 0
    assert stage1['pixel_gathers'] == 4
    assert stage1['collectives'].keys() == stage1['collective_bytes'].keys()
    rows = {line[:30].strip(): line[30:].split() for line in result.stdout.splitlines()}
    assert rows['batch of all devices'] == ['64', '2']
    assert rows['fits'] == ['no', 'yes']
    assert rows['gathers of pixels'] == ['4', '0']


def test_what_cannot_be_compiled_is_refused(tmp_path):
    assert_refused(call('compile', *FLAGS, before=without_compilers), 'metriclt-jax[tpu]')
    assert_refused(call('compile', FLAGS[0], '--target=tpu'), '--target', 'v5e:4x4', 'h100:8')
    assert_refused(call('compile', *FLAGS, f'--output={tmp_path}/no/x.json'), '--output', 'exist')
