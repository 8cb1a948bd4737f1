"""The same networks as torchvision's: what it computes from the same tensors and images.

The references are in `goldens/torchvision.npz`; `make_torchvision_goldens.py` made them and says
how.
"""

from functools import cache, partial
from pathlib import Path

import jax
import numpy as np
import pytest
from make_torchvision_goldens import (
    CLASSES,
    EVERY,
    draw,
    draw_cotangent,
    draw_images,
    relative_error,
    sketch,
    sketches_error,
)

from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.pretrained import load_torchvision, to_torchvision

GOLDENS = Path(__file__).parent / 'goldens' / 'torchvision.npz'
TOLERANCE = 1e-5

# Our name and options of each network there.
NETWORKS = {
    'resnet18': ('resnet18', {}),
    'resnet50': ('resnet50', {}),
    'densenet121': ('densenet121', {}),
    'mobilenet_v2': ('mobilenet_v2', {}),
    'small_resnet50': ('resnet50', {'stage_sizes': (1, 1, 1, 1)}),
    'small_densenet121': (
        'densenet121',
        {'growth_rate': 4, 'block_sizes': (3, 2, 1, 1), 'width': 8},
    ),
    'small_mobilenet_v2': (
        'mobilenet_v2',
        {'width_multiplier': 0.3, 'stages': ((1, 16, 1, 1), (6, 24, 2, 2), (4, 32, 2, 1))},
    ),
}


@cache
def read_golden(network):
    """The values by name, and the shapes of torchvision's tensors by theirs."""
    with np.load(GOLDENS) as file:
        golden = {key.split('/', 1)[1]: file[key] for key in file if key.startswith(f'{network}/')}
    shapes = {}
    for text in golden.pop('tensors'):
        name, *shape = text.split()
        shapes[name] = tuple(map(int, shape))
    return golden, shapes


@pytest.mark.parametrize('name', ['resnet18', 'resnet50', 'densenet121', 'mobilenet_v2'])
def test_arrays_have_torchvisions_names_and_shapes(name):
    arrays = to_torchvision(initialize(create_model(name, CLASSES), 0), name)
    assert {key: array.shape for key, array in arrays.items()} == read_golden(name)[1]


def sketches(collection, name, tensors):
    """The sketches of all our arrays, in the order of torchvision's names."""
    arrays = to_torchvision(collection, name)
    assert set(arrays) <= set(tensors)
    return np.stack([sketch(key, arrays[key]) for key in tensors if key in arrays])


@pytest.mark.slow
@pytest.mark.parametrize('network', NETWORKS)
def test_the_network_is_torchvisions(network):
    golden, shapes = read_golden(network)
    tensors = {name: draw(name, shape) for name, shape in shapes.items()}
    name, options = NETWORKS[network]
    variables = load_torchvision(tensors, name, options=options)
    model = create_model(name, CLASSES, dropout=0.0, **options)
    train = partial(model.apply, train=True, mutable=['batch_stats'])

    def gradients(variables, images):
        def loss(params):
            outputs, updated = train({**variables, 'params': params}, images)
            return (outputs.logits * draw_cotangent()).sum(), (outputs, updated)

        gradient, evaluated = jax.grad(loss, has_aux=True)(variables['params'])
        return *evaluated, gradient

    size = next(iter(golden)).split('/')[0]
    golden = {key.removeprefix(f'{size}/'): values for key, values in golden.items()}
    with_gradients = 'train/gradients' in golden

    # Compiling takes most of the time, so without the optimisations of XLA's backend.
    @partial(jax.jit, compiler_options={'xla_backend_optimization_level': 0})
    def compute(variables, images):
        trained = (gradients if with_gradients else train)(variables, images)
        return model.apply(variables, images), *trained

    images = draw_images(*map(int, size.split('x')))
    evaluated, outputs, updated, *gradient = compute(variables, images)
    ours = {
        'eval/logits': evaluated.logits,
        'eval/features': evaluated.features[:, ::EVERY],
        'train/logits': outputs.logits,
        'train/features': outputs.features[:, ::EVERY],
    }
    errors = {key: relative_error(values, golden[key]) for key, values in ours.items()}
    collections = zip(
        ['statistics', 'gradients'], [updated['batch_stats'], *gradient], strict=False
    )
    for key, collection in collections:
        sketched = sketches({'': collection}, name, tensors)
        errors[f'train/{key}'] = sketches_error(sketched, golden[f'train/{key}'])
    assert set(errors) == set(golden)
    assert all(error <= TOLERANCE for error in errors.values()), errors
