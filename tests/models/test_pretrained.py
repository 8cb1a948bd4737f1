import contextlib
import hashlib
import io
import os
import pickle
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from safetensors.numpy import save as safetensors_bytes
from safetensors.numpy import save_file

from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.pretrained import (
    TORCHVISION,
    Pretrained,
    load,
    load_torchvision,
    save,
    to_torchvision,
)

SMALL = {
    'resnet18': {'stage_sizes': (1, 1), 'width': 8},
    'resnet50': {'stage_sizes': (1, 1), 'width': 4},
    'densenet121': {'block_sizes': (1, 2, 1, 1), 'growth_rate': 4, 'width': 8},
    'mobilenet_v2': {'stages': ((1, 8, 1, 1), (6, 8, 2, 2))},
}
RESNET = {'name': 'resnet18', 'options': SMALL['resnet18']}
KEY = jax.random.key(0)
DAISY = 10  # of the seventeen kinds of flowers


def random_arrays(name, num_classes=5):
    """Arrays in torchvision's names for the small model, no two of them alike."""
    variables = initialize(create_model(name, num_classes, **SMALL[name]), 0)
    generator = np.random.default_rng(1)
    return {
        key: generator.uniform(0.5, 1.5, array.shape).astype(np.float32)
        for key, array in to_torchvision(variables, name).items()
    }


def message_of(*arguments, **keywords):
    with pytest.raises(InputError) as caught:
        load_torchvision(*arguments, **keywords)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def arrays():
    return random_arrays('resnet18')


@pytest.fixture
def pth(tmp_path):
    return tmp_path / 'weights.pth'


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize('name', SMALL)
def test_every_array_finds_its_place(name):
    arrays = random_arrays(name)
    variables = load_torchvision(arrays, name, options=SMALL[name])
    like = initialize(create_model(name, 5, **SMALL[name]), 0)
    assert jax.tree.map(np.shape, variables) == jax.tree.map(np.shape, like)
    for leaf in jax.tree.leaves(variables):
        assert isinstance(leaf, np.ndarray)
        assert leaf.dtype == np.float32
        assert leaf.flags.c_contiguous
    assert_same(to_torchvision(variables, name), arrays)


def test_the_rule_of_the_layouts(arrays):
    variables = load_torchvision(arrays, **RESNET)
    params, stats = variables['params'], variables['batch_stats']['backbone']
    kernel = params['backbone']['layer2']['0']['conv1']['kernel']  # [3, 3, 8, 16]
    weight = arrays['layer2.0.conv1.weight']
    assert kernel[0, 2, 5, 11] == weight[11, 5, 0, 2]
    assert params['head']['kernel'][7, 3] == arrays['fc.weight'][3, 7]
    norm = params['backbone']['layer1']['0']['bn2']
    np.testing.assert_array_equal(norm['scale'], arrays['layer1.0.bn2.weight'])
    np.testing.assert_array_equal(norm['bias'], arrays['layer1.0.bn2.bias'])
    norm = stats['layer1']['0']['bn2']
    np.testing.assert_array_equal(norm['mean'], arrays['layer1.0.bn2.running_mean'])
    np.testing.assert_array_equal(norm['var'], arrays['layer1.0.bn2.running_var'])


def test_names_of_old_densenet_files():
    arrays, options = random_arrays('densenet121'), SMALL['densenet121']
    old = {re.sub(r'\.(norm|conv)([12])\.', r'.\1.\2.', key): arrays[key] for key in arrays}
    assert 'features.denseblock2.denselayer2.conv.2.weight' in old
    expected = load_torchvision(arrays, 'densenet121', options=options)
    assert_same(load_torchvision(old, 'densenet121', options=options), expected)
    both = {**arrays, 'features.denseblock1.denselayer1.norm.1.bias': np.zeros(8)}
    message = message_of(both, 'densenet121', options=options)
    assert '1 unexpected (features.denseblock1.denselayer1.norm.1.bias)' in message


def test_only_batch_counters_are_ignored(arrays):
    counted = {**arrays, 'bn1.num_batches_tracked': np.int64(7)}
    assert_same(load_torchvision(counted, **RESNET), load_torchvision(arrays, **RESNET))
    message = message_of({**arrays, 'bn1.num_batches': np.int64(7)}, **RESNET)
    assert '1 unexpected (bn1.num_batches)' in message


def test_the_head_is_kept_unless_classes_are_given(arrays):
    kept = load_torchvision(arrays, **RESNET)
    np.testing.assert_array_equal(kept['params']['head']['bias'], arrays['fc.bias'])
    assert_same(load_torchvision(arrays, num_classes=5, head='keep', **RESNET), kept)

    fresh = load_torchvision(arrays, num_classes=7, key=KEY, **RESNET)
    assert fresh['params']['head']['kernel'].shape == (16, 7)
    assert_same(fresh['params']['backbone'], kept['params']['backbone'])
    assert_same(fresh['batch_stats'], kept['batch_stats'])
    headless = {key: array for key, array in arrays.items() if not key.startswith('fc.')}
    assert_same(load_torchvision(headless, num_classes=7, key=KEY, **RESNET), fresh)
    other = load_torchvision(arrays, num_classes=7, key=jax.random.key(1), **RESNET)
    assert np.all(other['params']['head']['kernel'] != fresh['params']['head']['kernel'])
    replaced = load_torchvision(arrays, head='fresh', key=KEY, **RESNET)['params']['head']
    assert replaced['bias'].shape == (5,)
    assert np.abs(replaced['kernel']).max() <= 0.25  # 1 / sqrt(16 features)
    assert np.abs(arrays['fc.weight']).min() >= 0.5


@pytest.mark.parametrize(
    ('keywords', 'words'),
    [
        ({'num_classes': 7}, 'key'),
        ({'head': 'fresh'}, 'key'),
        ({'head': 'new'}, "'new'"),
        (
            {'num_classes': 7, 'head': 'keep'},
            '2 mis-shaped (fc.bias (5,) instead of (7,), fc.weight',
        ),
        ({'name': 'vgg16'}, "'vgg16'"),
        ({'options': {'depth': 3}}, "'depth'"),
    ],
)
def test_bad_arguments(arrays, keywords, words):
    assert words in message_of(arrays, **{**RESNET, **keywords})


def test_one_error_lists_all_that_is_wrong(arrays):
    narrow = message_of(arrays, 'resnet18', options={'stage_sizes': (1, 1), 'width': 4})
    assert '31 mis-shaped (bn1.bias (8,) instead of (4,), ' in narrow
    assert 'missing' not in narrow
    for key in ('bn1.bias', 'bn1.weight', 'bn1.running_mean', 'bn1.running_var'):
        del arrays[key]
    arrays['conv1.bias'] = np.zeros(8)
    arrays['conv1.weight'] = np.zeros((8, 3, 3, 3))
    message = message_of(arrays, **RESNET)
    for part in (
        '4 missing (bn1.bias, bn1.running_mean, bn1.running_var, ...)',
        '1 unexpected (conv1.bias)',
        '1 mis-shaped (conv1.weight (8, 3, 3, 3) instead of (8, 3, 7, 7))',
    ):
        assert part in message


@pytest.mark.parametrize(
    ('key', 'spoil'),
    [
        ('layer1.0.conv2.weight', lambda array: array.astype(float) * 1e300),
        ('layer1.0.conv2.weight', lambda array: array * np.nan),
        ('bn1.running_var', lambda array: -array),
        ('bn1.bias', lambda array: array.astype(np.int32)),
    ],
)
def test_values_that_are_no_weights(arrays, key, spoil):
    assert key in message_of({**arrays, key: spoil(arrays[key])}, **RESNET)


def test_safetensors_files_of_each_type(arrays, tmp_path):
    path = tmp_path / 'weights.safetensors'
    save_file({**arrays, 'bn1.num_batches_tracked': np.array(3)}, path)
    assert_same(load_torchvision(path, **RESNET), load_torchvision(arrays, **RESNET))
    half = {key: array.astype(np.float16) for key, array in arrays.items()}
    save_file(half, path)
    assert_same(load_torchvision(str(path), **RESNET), load_torchvision(half, **RESNET))
    brain = {key: array.astype(jnp.bfloat16) for key, array in arrays.items()}
    # The package's writer for NumPy lacks bfloat16.
    data = safetensors_bytes({key: array.view(np.int16) for key, array in brain.items()})
    length = int.from_bytes(data[:8], 'little')
    header = data[8 : 8 + length].replace(b'"I16"', b'"BF16"')
    path.write_bytes(len(header).to_bytes(8, 'little') + header + data[8 + length :])
    assert_same(load_torchvision(path, **RESNET), load_torchvision(brain, **RESNET))
    save_file({**arrays, 'fc.bias': np.ones(5, np.uint8)}, path)
    assert 'fc.bias of' in message_of(path, **RESNET)


class Executed:
    """Makes a directory when it is unpickled."""

    def __init__(self, directory):
        self.directory = directory

    def __reduce__(self):
        return os.mkdir, (str(self.directory),)


def test_spoilt_safetensors_files(arrays, tmp_path):
    path, trace = tmp_path / 'weights.safetensors', tmp_path / 'trace'
    data = safetensors_bytes(arrays)
    length = int.from_bytes(data[:8], 'little')
    for spoilt in (
        b'',
        data[:-100],  # truncated in the values
        data[:40],  # truncated in the header
        data + b'more',
        data[:8] + b'x' * length + data[8 + length :],  # the header overwritten
        b'\xff' * 8 + data[8:],  # its length overwritten
        data.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
        data.replace(b'"F32"', b'"F64"', 1),
        b'%PDF-1.7\n' + bytes(1000),
        pickle.dumps(Executed(trace)),
    ):
        path.write_bytes(spoilt)
        assert str(path) in message_of(path, **RESNET)
        assert not trace.exists()


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('absent.pth', 'absent.pth'),
        ('folder.pth', 'folder.pth'),
        ('weights.h5', '.safetensors, .npz, .pth, '),
        ('weights.pth', 'weights.pth needs torch'),
    ],
)
def test_files_that_are_none(tmp_path, monkeypatch, name, words):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'folder.pth').mkdir()
    for file in ('weights.h5', 'weights.pth'):
        (tmp_path / file).write_bytes(b'x')
    assert words in message_of(tmp_path / name, **RESNET)


# .pth files with a stand-in for torch


@pytest.fixture
def loaded(monkeypatch, arrays):
    """What the stand-in was called with; `loaded.content` is what it returns."""
    loaded = SimpleNamespace(content=arrays, calls=[])

    def torch_load(file, **keywords):
        loaded.calls.append((file.read(), keywords))
        return loaded.content

    serialization = SimpleNamespace(safe_globals=contextlib.nullcontext)
    torch = SimpleNamespace(load=torch_load, serialization=serialization)
    monkeypatch.setitem(sys.modules, 'torch', torch)
    return loaded


def test_no_code_of_a_pth_is_run_no_other_device_used_and_damage_seen(pth, loaded):
    with zipfile.ZipFile(pth, 'w') as archive:
        archive.writestr('archive/data/0', b'weights' * 100)
    data = pth.read_bytes()
    assert_same(load_torchvision(pth, **RESNET), load_torchvision(loaded.content, **RESNET))
    assert loaded.calls == [(data, {'map_location': 'cpu', 'weights_only': True})]
    pth.write_bytes(data.replace(b'weightsw', b'weihgtsw', 1))  # torch would not see it
    assert 'damaged' in message_of(pth, **RESNET)
    assert len(loaded.calls) == 1


def test_contents_of_a_pth_that_are_no_arrays_by_name(pth, loaded):
    pth.write_bytes(b'x')
    loaded.content = {'losses': {'train': 0.3}, 'epoch': 3}
    assert '32 missing' in message_of(pth, **RESNET)
    loaded.content = [1, 2]
    assert 'mapping' in message_of(pth, **RESNET)


def test_a_file_with_a_name_of_torchvision_must_have_its_hash(tmp_path, loaded):
    path = tmp_path / TORCHVISION['resnet18'].file
    path.write_bytes(b'no torch file')
    start = hashlib.sha256(b'no torch file').hexdigest()[:8]
    assert f'SHA-256 {start}... instead of f37072fd...' in message_of(path, 'resnet18')
    assert not loaded.calls


# .pth files with torch


@pytest.fixture
def torch():
    return pytest.importorskip('torch', reason='torch is not installed: metriclt-jax[torch]')


@pytest.fixture
def tensors(torch, arrays):
    tensors = {key: torch.tensor(value) for key, value in arrays.items()}
    return {**tensors, 'bn1.num_batches_tracked': torch.tensor(3)}


@pytest.mark.parametrize('as_zip', [True, False])
def test_both_formats_of_pth(torch, tensors, arrays, pth, as_zip):
    torch.save(tensors, pth, _use_new_zipfile_serialization=as_zip)
    expected = load_torchvision(arrays, **RESNET)
    assert_same(load_torchvision(pth, **RESNET), expected)
    assert_same(load_torchvision(tensors, **RESNET), expected)
    data = pth.read_bytes()
    for length in (1, 10, len(data) // 2, len(data) - 1):
        pth.write_bytes(data[:length])
        assert 'cannot be read' in message_of(pth, **RESNET)


def test_bfloat16_and_parameters(torch, tensors, arrays, pth):
    brain = {
        key: torch.nn.Parameter(tensor.bfloat16()) if tensor.ndim else tensor
        for key, tensor in tensors.items()
    }
    torch.save(brain, pth)
    expected = {key: array.astype(jnp.bfloat16) for key, array in arrays.items()}
    assert_same(load_torchvision(pth, **RESNET), load_torchvision(expected, **RESNET))


@pytest.mark.parametrize('as_zip', [True, False])
def test_code_is_refused_and_not_run(torch, tensors, pth, as_zip):
    trace = pth.with_name('trace')
    torch.save({**tensors, 'x': Executed(trace)}, pth, _use_new_zipfile_serialization=as_zip)
    assert 'they could run code' in message_of(pth, **RESNET)
    pth.write_bytes(pickle.dumps({'fc.weight': Executed(trace)}))
    assert 'they could run code' in message_of(pth, **RESNET)
    assert not trace.exists()
    pickle.loads(pth.read_bytes())
    assert trace.exists()  # it would have been


def test_tensors_that_are_no_arrays(torch, tensors, pth):
    torch.save({**tensors, 'fc.weight': tensors['fc.weight'].to_sparse()}, pth)
    assert 'fc.weight of' in message_of(pth, **RESNET)
    torch.save(tensors['fc.weight'], pth)
    assert 'mapping' in message_of(pth, **RESNET)


# Directories with an Orbax checkpoint


@pytest.fixture
def pretrained(arrays):
    return Pretrained(load_torchvision(arrays, **RESNET), 'a.pth', 'f00')


@pytest.fixture
def saved(tmp_path, pretrained):
    save(tmp_path / 'new' / 'weights', 'resnet18', pretrained)
    assert os.listdir(tmp_path / 'new') == ['weights']
    return tmp_path / 'new' / 'weights'


def test_a_directory_gives_back_what_it_was_given(saved, pretrained):
    restored = load(saved, **RESNET)
    assert (restored.file, restored.sha256) == ('a.pth', 'f00')
    assert_same(restored.variables, pretrained.variables)
    with ocp.StandardCheckpointer() as checkpointer:  # it may be read with Orbax alone
        assert_same(checkpointer.restore(saved / 'orbax'), restored.variables)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored.variables))
    fresh = load_torchvision(saved, num_classes=3, key=KEY, **RESNET)
    assert fresh['params']['head']['bias'].shape == (3,)
    assert_same(fresh['params']['backbone'], pretrained.variables['params']['backbone'])


def test_another_model_and_damage_are_one_sentence(saved):
    assert 'resnet18, not of resnet50' in message_of(saved, 'resnet50')
    narrow = {'stage_sizes': (1, 1), 'width': 4}
    assert '31 mis-shaped' in message_of(saved, 'resnet18', options=narrow)
    values = next(path for path in (saved / 'orbax').rglob('*') if path.parent.name == 'd')
    kept = values.read_bytes()
    values.write_bytes(bytes([kept[0] ^ 1]) + kept[1:])  # one bit
    assert 'damaged' in message_of(saved, **RESNET)
    values.unlink()
    assert 'damaged' in message_of(saved, **RESNET)
    (saved / 'weights.json').write_text('{"model"')
    assert 'json' in message_of(saved, **RESNET)


def test_what_is_there_stays_and_nothing_is_left_of_a_write_that_failed(
    tmp_path, pretrained, monkeypatch
):
    (tmp_path / 'weights').mkdir()
    (tmp_path / 'weights' / 'thesis.tex').write_text('precious')
    with pytest.raises(InputError, match='weights'):
        save(tmp_path / 'weights', 'resnet18', pretrained)
    monkeypatch.setattr(Path, 'write_text', Mock(side_effect=OSError(28, 'No space left')))
    with pytest.raises(InputError, match='No space left'):
        save(tmp_path / 'other', 'resnet18', pretrained)
    assert os.listdir(tmp_path) == ['weights']
    assert (tmp_path / 'weights' / 'thesis.tex').read_text() == 'precious'


@pytest.mark.slow
@pytest.mark.skipif('METRICLT_DATA' not in os.environ, reason='needs the folder with real data')
def test_weights_of_imagenet_know_a_daisy():
    """Class 985 of ImageNet is the daisy; 80 photographs of daisies at 64 px, 80 of others."""
    from PIL import Image

    folder = Path(os.environ['METRICLT_DATA'])
    variables = load_torchvision(folder / 'mobilenet_v2_imagenet.safetensors', 'mobilenet_v2')
    flowers = np.load(folder / 'flowers17_64x64_jpeg.npz', allow_pickle=False)
    jpeg, offsets, labels = (flowers[f'all_{name}'] for name in ('jpeg', 'off', 'labels'))
    daisies, others = np.flatnonzero(labels == DAISY), np.flatnonzero(labels != DAISY)[::16]
    files = [jpeg[offsets[i] : offsets[i + 1]].tobytes() for i in (*daisies, *others)]
    images = np.stack([Image.open(io.BytesIO(file)).convert('RGB') for file in files])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    inputs = ((images / 255 - mean) / std).astype(np.float32)
    logits = jax.jit(create_model('mobilenet_v2', 1000).apply)(variables, inputs).logits

    order = np.argsort(-np.asarray(logits), axis=1)
    first, five = order[:, 0] == 985, np.any(order[:, :5] == 985, axis=1)
    assert first[:80].mean() > 0.3  # a thousandth by chance
    assert five[:80].mean() > 0.5
    assert first[80:].mean() < 0.1
