"""Programs compiled for machines elsewhere; the compilers for TPU and CUDA may be missing here."""

import importlib.util
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from metriclt_jax import compiling
from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.training.stages import make_stages

# A method of every metric loss, and what else changes the program of a step.
METHODS = ('ce_sc_crw', 'ce_tp_crw', 'ce_ct_crw', 'ce_bcl_crw', 'ldam_drw', 'cutmix', 'bbn')


def make_config(method):
    config = paper_config()
    config.method = method
    config.data.resize, config.augment.crop = 20, 16
    config.model.name = 'resnet18'
    config.model.options.update({'stage_sizes': (1,), 'width': 8, 'stem': 'small'})
    config.stage1.batch_size = config.stage2.batch_size = config.evaluation.batch_size = 16
    return config


@pytest.mark.parametrize(
    'target',
    ['', 'v5e', 'v5e:', 'v5e:4', 'v5e:2x', 'v9:2x2', 'h100', 'h100:2x2', 'h100:0', 'h100:'],
)
def test_a_target_that_cannot_be_meant_is_refused(target):
    with pytest.raises(InputError, match=r'must be a chip \(v4, .*such as v5e:4x4'):
        compiling.target_devices(target)


@pytest.mark.parametrize(('target', 'extra'), [('v5e:2x2', 'tpu'), ('h100:2', 'cuda')])
def test_a_missing_compiler_is_named_with_what_installs_it(target, extra, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match=rf"pip install 'metriclt-jax\[{extra}\]'"):
        compiling.target_devices(target)


def measure(images, gib, refused_from=100):
    """What is told of a program whose memory is that of its images and their float32 copies."""

    def lower(count):
        if count >= refused_from:
            raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 9.1G exceeds 8.0G')
        shape = jax.ShapeDtypeStruct((count, 256, 256, 3), jnp.uint8)
        return jax.jit(lambda x: jnp.sort(x.astype(jnp.float32), axis=0)).lower(shape)

    chip = compiling.Chip('cpu', gib)
    return compiling.compile_program(lower, images, chip, resize=256, crop=256)


def test_a_program_fits_if_the_chip_holds_what_it_needs():
    found = measure(8, 1)
    assert found['fits']
    assert found['compiled_batch'] == 8
    assert found['argument_bytes'] == 8 * 256 * 256 * 3
    needed = found['argument_bytes'] + found['temporary_bytes'] + found['output_bytes']
    assert found['needed_bytes'] == needed
    assert found['largest_batch'] == 8 * 2**30 // needed
    assert not measure(8, 0.001)['fits']
    assert measure(8, 0.001)['largest_batch'] == int(8 * 0.001 * 2**30 / needed)


def test_what_the_compiler_refuses_is_halved_until_it_does_not():
    found = measure(40, 1, refused_from=11)
    assert not found['fits']
    assert found['compiled_batch'] == 10
    assert found['largest_batch'] == 19
    assert found['argument_bytes'] == 10 * 256 * 256 * 3
    with pytest.raises(jax.errors.JaxRuntimeError, match='RESOURCE_EXHAUSTED'):
        measure(40, 1, refused_from=1)


def on_cpu(target):
    return compiling.Chip('cpu', 1, 1e9), tuple(jax.devices()[:4])


def test_all_programs_of_a_run_are_compiled(monkeypatch):
    monkeypatch.setattr(compiling, 'target_devices', on_cpu)
    found = compiling.compile_run(make_config('ce_sc_crw'), 'v5e:2x2')
    assert (found['target'], found['devices']) == ('v5e:2x2', 4)
    assert [program['name'] for program in found['programs']] == ['stage1', 'stage2', 'evaluate']
    for program in found['programs']:
        assert program['fits']
        assert program['batch_size'] == program['compiled_batch'] == 16
        assert program['largest_batch'] % 4 == 0
        assert program['pixel_gathers'] == (0 if program['name'] == 'evaluate' else 4)
    first, second, evaluate = (program['collectives'] for program in found['programs'])
    # BatchNorm exchanges its statistics in the first stage only.
    assert first['all-reduce'] > second['all-reduce'] > evaluate['all-reduce'] == 1
    assert first['all-gather'] > 0


def test_a_batch_that_the_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(compiling, 'target_devices', on_cpu)
    config = make_config('ce')
    config.stage1.batch_size = 18
    with pytest.raises(InputError, match=r'stage1.batch_size is 18; .* the 4 devices of v5e:2x2'):
        compiling.compile_run(config, 'v5e:2x2')


# One test for each compiler, as only one process may load that for TPU.
@pytest.mark.slow
@pytest.mark.parametrize(
    ('compiler', 'target', 'gathers'),
    [('libtpu', 'v5e:2x2', 0), ('jax_cuda13_plugin', 'h100:2', 4)],
)
def test_every_objective_compiles_for(compiler, target, gathers, request, monkeypatch):
    pytest.importorskip(compiler)
    # What is compiled for another machine cannot be read back from the cache.
    jax.config.update('jax_persistent_cache_min_compile_time_secs', float('inf'))
    request.addfinalizer(
        partial(jax.config.update, 'jax_persistent_cache_min_compile_time_secs', 0.1)
    )
    monkeypatch.setattr(compiling, 'make_stages', lambda config: make_stages(config)[:1])
    for method in METHODS:
        first, *_ = compiling.compile_run(make_config(method), target)['programs']
        assert first['fits'], method
        assert first['compile_seconds'] > 0
        assert first['pixel_gathers'] == gathers * (2 if method == 'bbn' else 1), method
        parts = first['estimated_cycles']
        assert bool(parts) == (compiler == 'libtpu')
        if parts:
            assert {'augmentation', 'batch_norm', 'backward', 'forward', 'optimizer'} <= set(parts)
            assert ('metric_loss' in parts) == (method in METHODS[:4])
            assert first['images_per_second'] > 0
