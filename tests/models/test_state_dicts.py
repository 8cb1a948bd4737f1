"""Weights as people have them: within checkpoints, below prefixes, of other networks."""

import argparse
import re
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize, state_dicts
from metriclt_jax.models.pretrained import load_torchvision, to_torchvision

SMALL = {
    'resnet18': {'stage_sizes': (1, 1), 'width': 8},
    'densenet121': {'block_sizes': (1, 2, 1, 1), 'growth_rate': 4, 'width': 8},
    'mobilenet_v2': {'stages': ((1, 8, 1, 1), (6, 8, 2, 2))},
}
KEY = jax.random.key(0)


def variables_of(name='resnet18'):
    return initialize(create_model(name, 5, **SMALL[name]), 3)


def below(prefix, arrays):
    return {prefix + key: array for key, array in arrays.items()}


def load(source, name='resnet18', **keywords):
    return load_torchvision(source, name, options=SMALL[name], **keywords)


def message_of(source, name='resnet18', **keywords):
    with pytest.raises(InputError) as caught:
        load(source, name, **keywords)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope='module')
def variables():
    return variables_of()


@pytest.fixture(scope='module')
def arrays(variables):
    counters = {'bn1.num_batches_tracked': np.int64(7)}
    return to_torchvision(variables, 'resnet18') | counters


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize(
    'prefix', ['module.', 'model.', 'backbone.', 'encoder.', 'net.', 'module.model.', 'a.b.c.']
)
@pytest.mark.parametrize(
    'path', [(), ('state_dict',), ('model_state_dict',), ('model',), ('x', 'state_dict_ema')]
)
def test_prefixes_and_entries(arrays, variables, prefix, path):
    content = below(prefix, arrays)
    for entry in reversed(path):
        optimizer = {'state': {0: {'momentum_buffer': np.ones(3)}}, 'param_groups': [{'lr': 0.1}]}
        content = {'epoch': 90, 'best_acc1': 76.1, 'optimizer': optimizer, entry: content}
    assert_same(load(content), variables)


@pytest.mark.parametrize('name', SMALL)
def test_prefixes_of_each_network_with_and_without_its_head(name):
    variables = variables_of(name)
    arrays = to_torchvision(variables, name)
    assert_same(load(below('module.', arrays), name), variables)
    headless = {key: array for key, array in arrays.items() if not key.startswith(('fc', 'class'))}
    for content in (headless, {'state_dict': below('model.', headless)}):
        fresh = load(content, name, num_classes=9, key=KEY)
        assert_same(fresh['params']['backbone'], variables['params']['backbone'])
        assert fresh['params']['head']['bias'].shape == (9,)


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.sampled_from(['module', 'model', 'layer1', 'features', '0']), max_size=3),
    st.lists(st.sampled_from(['state_dict', 'model', 'net']), max_size=2),
)
def test_any_prefix_at_any_depth(words, path):
    arrays = {'conv1.weight': np.ones(2), 'layer1.0.conv1.weight': np.zeros(3)}
    content = below(''.join(f'{word}.' for word in words), arrays)
    for entry in path:
        content = {entry: content, 'lr': 0.1}
    found = state_dicts.find(content, 'conv1.weight', 'file')
    assert found.keys() == arrays.keys()


def test_a_head_of_other_size_or_form_is_replaced(arrays, variables):
    other = {key: array for key, array in arrays.items() if not key.startswith('fc.')}
    other |= {'fc.0.weight': np.ones((4, 16)), 'fc.2.weight': np.ones((7, 4))}
    fresh = load(below('module.', other), num_classes=3, key=KEY)
    assert_same(fresh['params']['backbone'], variables['params']['backbone'])
    assert '2 unexpected (fc.0.weight, fc.2.weight)' in message_of(other)


def test_what_is_not_clear_is_refused(arrays):
    both = {'state_dict': arrays, 'state_dict_ema': arrays}
    assert 'weights in state_dict and state_dict_ema' in message_of(both)
    beside = below('model.', arrays) | {'criterion.weight': np.ones(5)}
    message = message_of({'state_dict': beside})
    assert "below 'model.'" in message
    assert 'criterion.weight' in message
    moco = below('encoder_q.', arrays) | below('encoder_k.', arrays) | {'queue': np.ones(3)}
    assert "below 'encoder_q.'" in message_of(moco)
    message = message_of(arrays | {'model.bn1.bias': np.ones(8)})
    assert '1 unexpected (model.bn1.bias)' in message


# Other networks


def shapes_of_resnet(stages, convolutions):
    names = {'conv1.weight': (64, 3, 7, 7), 'bn1.weight': (64,), 'fc.weight': (5, 512)}
    for stage, blocks in enumerate(stages, 1):
        for block in range(blocks):
            for i in range(1, convolutions + 1):
                names[f'layer{stage}.{block}.conv{i}.weight'] = (8, 8, 3, 3)
        if stage > 1 or convolutions == 3:
            names[f'layer{stage}.0.downsample.0.weight'] = (8, 8, 1, 1)
    return names


@pytest.mark.parametrize(
    ('like', 'stages', 'convolutions'),
    [
        ('resnet18', (2, 2, 2, 2), 2),
        ('resnet34', (3, 4, 6, 3), 2),
        ('resnet50', (3, 4, 6, 3), 3),
        ('resnet101', (3, 4, 23, 3), 3),
        ('resnet152', (3, 8, 36, 3), 3),
    ],
)
def test_resnets_by_their_names(like, stages, convolutions):
    assert state_dicts.architecture(shapes_of_resnet(stages, convolutions)) == like


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'densenet121', 'mobilenet_v2'])
def test_the_networks_of_the_package_by_their_names(name):
    options = {} if name == 'mobilenet_v2' else {'width': 8}
    arrays = to_torchvision(initialize(create_model(name, 5, **options), 0), name)
    shapes = {key: array.shape for key, array in arrays.items()}
    assert state_dicts.architecture(shapes) == name
    assert state_dicts.architecture(below('module.', shapes)) == name
    for other in {'resnet18', 'mobilenet_v2'} - {name}:
        assert f'; these look like weights of {name}' in message_of(arrays, other)


@pytest.mark.parametrize(
    ('first', 'words'),
    [
        ('conv_stem.weight', 'timm'),
        ('conv1.0.weight', 'deep stem'),
        ('vit.patch_embed.proj.weight', 'vision transformer'),
        ('resnet.embedder.embedder.convolution.weight', 'Hugging Face'),
        ('features.0.weight', 'VGG'),
    ],
)
def test_networks_of_other_libraries_are_named(first, words):
    others = ('layer1.0.conv1.weight', 'layer1.0.bn1.weight', 'fc.weight', 'fc.bias')
    message = message_of(dict.fromkeys((first, *others), np.ones(8)))
    assert words in message.partition('look like weights of ')[2]


# Files


@pytest.mark.slow
def test_the_code_of_the_page(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / 'docs' / 'backbones.md').read_text()
    (block,) = re.findall(r'```python\n(.*?)```', page, flags=re.S)
    block = block.replace('resnet50', 'resnet18')  # half the time
    monkeypatch.chdir(tmp_path)
    arrays = to_torchvision(initialize(create_model('resnet18', 1000), 0), 'resnet18')
    save_file({key: np.ascontiguousarray(a) for key, a in arrays.items()}, 'resnet18.safetensors')
    names = {'images': np.zeros((1, 32, 32, 3), np.float32)}
    exec(block, names)
    assert names['logits'].shape == (1, 7)


def test_npz_files(arrays, variables, tmp_path):
    path = tmp_path / 'weights.npz'
    np.savez(path, **below('module.', arrays))
    assert_same(load(path), variables)
    half = {key: array.astype(np.float16) for key, array in arrays.items()}
    np.savez_compressed(path, **half)
    assert_same(load(path), load(half))
    data = path.read_bytes()
    for spoilt in (data[: len(data) // 2], data[:-1], b'', b'PK', data[:5000] + data[5001:]):
        path.write_bytes(spoilt)
        assert 'cannot be read' in message_of(path)
    np.savez(path, **arrays, x=np.array([{}], object))
    assert 'Python objects' in message_of(path)


@pytest.mark.parametrize(
    ('content', 'words'),
    [
        (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4\n', 'git lfs pull'),
        (b'<!DOCTYPE html><html>', 'web page'),
    ],
)
def test_downloads_that_went_wrong(tmp_path, content, words):
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(content)
    assert words in message_of(path)


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='torch is not installed: metriclt-jax[torch]')


@pytest.fixture
def tensors(torch, arrays):
    return {key: torch.tensor(value) for key, value in arrays.items()}


@pytest.mark.parametrize('as_zip', [True, False])
@pytest.mark.parametrize('suffix', ['.pth', '.pt', '.bin', '.ckpt', '.pth.tar', '.PTH'])
def test_checkpoints_of_training_scripts(torch, tensors, variables, tmp_path, suffix, as_zip):
    path = tmp_path / f'model_best{suffix}'
    layer = torch.nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    content = {
        'epoch': 90,
        'arch': 'resnet18',
        'args': argparse.Namespace(lr=0.1, data=Path('data')),
        'best_acc1': np.float64(76.1),
        'flags': [np.int64(3), np.bool_(True), np.float32(0.5)],
        'optimizer': optimizer.state_dict(),
        'scheduler': {'_last_lr': [np.float64(0.1)], 'base_lrs': [0.1]},
        'state_dict': below('module.', tensors),
    }
    torch.save(content, path, _use_new_zipfile_serialization=as_zip)
    assert_same(load(path), variables)


def test_half_precision_and_parameters_below_a_prefix(torch, tensors, arrays, tmp_path):
    path = tmp_path / 'weights.pt'
    half = {
        key: torch.nn.Parameter(tensor.half()) if tensor.ndim else tensor
        for key, tensor in tensors.items()
    }
    torch.save({'model': below('encoder.', half)}, path)
    expected = {key: np.asarray(array).astype(np.float16) for key, array in arrays.items()}
    assert_same(load(path), load(expected))


def test_torchscript_whole_models_and_damage(torch, tmp_path):
    path = tmp_path / 'weights.pth'
    torch.save(torch.nn.Linear(2, 2), path)
    assert 'torch.save(model.state_dict()' in message_of(path)
    with zipfile.ZipFile(path, 'w') as archive:  # as torch.jit.save lays it out
        for name in ('data.pkl', 'code/__torch__.py', 'constants.pkl', 'version'):
            archive.writestr(f'weights/{name}', b'3')
    assert 'TorchScript' in message_of(path)


def test_brain_floats_in_a_mapping(arrays):
    brain = {key: jnp.asarray(array).astype(jnp.bfloat16) for key, array in arrays.items()}
    loaded = load({'net': below('module.', brain)})
    np.testing.assert_array_equal(loaded['params']['head']['bias'], np.float32(brain['fc.bias']))
