"""What is exported gives the same probabilities without this package."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from metriclt_jax import exporting
from metriclt_jax.augment.geometry import AugmentConfig
from metriclt_jax.devices import place
from metriclt_jax.errors import InputError
from metriclt_jax.inference import TrainedClassifier
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.pretrained import load_torchvision

SIZE, CROP = 40, 32
BY_JAX_ALONE = """
import sys
import jax, numpy
from jax import export

program, images, output = sys.argv[1:]
call = export.deserialize(open(program, 'rb').read()).call
images = numpy.load(images)
numpy.savez(output, all=call(images), first=call(images[:1]))
assert not any(name.startswith('metriclt') for name in sys.modules)
"""


def make_classifier(name, **options):
    model = create_model(name, 3, **options)
    variables = initialize(model, 0)
    random = np.random.default_rng(0)
    variables['batch_stats'] = jax.tree.map(
        lambda x: x + random.uniform(0, 0.2, x.shape).astype(x.dtype), variables['batch_stats']
    )
    devices = tuple(jax.devices()[:1])
    augment = AugmentConfig(resize=SIZE, crop=CROP)
    return TrainedClassifier(model, place(variables, devices), augment, tuple('abc'), devices)


@pytest.fixture(scope='module')
def images():
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


@pytest.mark.slow
def test_the_program_runs_with_jax_alone(images, tmp_path):
    # Its kernels are smaller than an image at first and larger in the end.
    classifier = make_classifier('resnet18', width=32, stem='small')
    program = tmp_path / 'model.stablehlo'
    program.write_bytes(exporting.to_stablehlo(classifier))
    np.save(tmp_path / 'images.npy', images)
    arguments = [program, tmp_path / 'images.npy', tmp_path / 'out.npz']
    subprocess.run([sys.executable, '-c', BY_JAX_ALONE, *arguments], check=True, cwd=tmp_path)
    with np.load(tmp_path / 'out.npz') as found:
        np.testing.assert_allclose(found['all'], classifier.predict(images), atol=1e-5)
        np.testing.assert_allclose(found['first'], classifier.predict(images[:1]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['resnet18', 'mobilenet_v2', 'densenet121'])
def test_torchvision_takes_the_parameters_home(name, images, tmp_path):
    torch = pytest.importorskip('torch')
    torchvision = pytest.importorskip('torchvision')
    from safetensors import safe_open

    options = {'projection': (8, 4)} if name == 'resnet18' else {}
    classifier = make_classifier(name, **options)
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(exporting.to_safetensors(classifier, name))
    with safe_open(path, 'pt') as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        about = {key: json.loads(value) for key, value in file.metadata().items()}
    assert about['class_names'] == ['a', 'b', 'c']
    model = torchvision.models.get_model(name, num_classes=3).eval()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(key.endswith('num_batches_tracked') for key in missing)
    edge = (about['preprocessing']['resize'][0] - about['preprocessing']['center_crop']) // 2
    cropped = images[:, edge : edge + CROP, edge : edge + CROP].astype(np.float32) / 255
    mean, std = (np.float32(about['preprocessing'][name]) for name in ('mean', 'std'))
    inputs = torch.tensor(((cropped - mean) / std).transpose(0, 3, 1, 2))
    with torch.no_grad():
        theirs = torch.softmax(model(inputs), -1).numpy()
    np.testing.assert_allclose(theirs, classifier.predict(images), atol=1e-5)


def test_the_parameters_come_back(tmp_path):
    classifier = make_classifier('mobilenet_v2', projection=(8, 4))
    path = tmp_path / 'weights.safetensors'
    path.write_bytes(exporting.to_safetensors(classifier, 'mobilenet_v2'))
    found = load_torchvision(path, 'mobilenet_v2')
    for kind in ('params', 'batch_stats'):
        for part, tree in found[kind].items():
            jax.tree.map(
                np.testing.assert_array_equal,
                tree,
                jax.device_get(classifier.variables[kind][part]),
            )


def test_a_head_that_torchvision_lacks_is_refused():
    classifier = make_classifier('resnet18', stage_sizes=(1,), width=4, head='cosine')
    with pytest.raises(InputError, match='head is cosine'):
        exporting.to_safetensors(classifier, 'resnet18')
