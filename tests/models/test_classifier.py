from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.heads import Projection

SMALL = {'stage_sizes': (1, 1), 'width': 8, 'stem': 'small'}


def images(batch=4, size=8):
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)


@cache
def shapes(name, num_classes=1000):
    model = create_model(name, num_classes)
    variables = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    return {
        collection: {'/'.join(path): leaf.shape for path, leaf in flatten_dict(tree).items()}
        for collection, tree in variables.items()
    }


@pytest.mark.parametrize(
    ('name', 'count', 'norms'), [('resnet18', 11_689_512, 20), ('resnet50', 25_557_032, 53)]
)
def test_parameters_are_as_many_as_in_torchvision(name, count, norms):
    assert sum(np.prod(shape) for shape in shapes(name)['params'].values()) == count
    assert len(shapes(name)['batch_stats']) == 2 * norms


def test_parameters_are_named_as_in_torchvision():
    params = shapes('resnet50')['params']
    assert params['backbone/conv1/kernel'] == (7, 7, 3, 64)
    assert params['backbone/bn1/scale'] == (64,)
    assert params['backbone/layer1/0/conv1/kernel'] == (1, 1, 64, 64)
    assert params['backbone/layer1/0/downsample/0/kernel'] == (1, 1, 64, 256)
    assert params['backbone/layer1/0/downsample/1/bias'] == (256,)
    assert params['backbone/layer4/2/conv3/kernel'] == (1, 1, 512, 2048)
    assert params['head/kernel'] == (2048, 1000)
    assert params['head/bias'] == (1000,)
    assert shapes('resnet50')['batch_stats']['backbone/layer3/5/bn3/var'] == (1024,)
    params = shapes('resnet18')['params']
    assert params['backbone/layer2/0/conv2/kernel'] == (3, 3, 128, 128)
    assert params['backbone/layer2/0/downsample/0/kernel'] == (1, 1, 64, 128)
    assert 'backbone/layer1/0/downsample/0/kernel' not in params


def test_a_bottleneck_strides_on_its_3x3():
    model = create_model('resnet50', 2, stage_sizes=(1, 1), width=4, stem='small')
    variables = initialize(model, 0)
    _, state = jax.eval_shape(
        partial(model.apply, capture_intermediates=True), variables, images(1)
    )
    block = state['intermediates']['backbone']['layer2']['0']
    sizes = [block[name]['__call__'][0].shape[1] for name in ('conv1', 'conv2', 'conv3')]
    assert sizes == [8, 4, 4]


@pytest.mark.parametrize(
    ('name', 'stem', 'dtype'),
    [('resnet18', 'imagenet', 'float32'), ('resnet50', 'small', 'bfloat16')],
)
def test_outputs(name, stem, dtype):
    model = create_model(
        name, 5, projection=(6, 4), dtype=dtype, stage_sizes=(1, 1), width=4, stem=stem
    )
    variables = initialize(model, 0)
    assert set(variables['params']) == {'backbone', 'head', 'projection'}
    assert set(variables['batch_stats']) == {'backbone'}
    apply = jax.jit(partial(model.apply, train=True, mutable=['batch_stats']))
    outputs, updated = apply(variables, images())
    features = 8 * (4 if name == 'resnet50' else 1)
    assert outputs.features.shape == (4, features)
    assert outputs.logits.shape == (4, 5)
    assert outputs.embeddings.shape == (4, 4)
    assert outputs.cosines is None
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, updated))} == {np.dtype('float32')}
    np.testing.assert_allclose(np.linalg.norm(outputs.embeddings, axis=1), 1, rtol=1e-5)
    assert np.std(outputs.features, axis=0).max() > 1e-3


def test_logits_are_linear_in_the_features():
    model = create_model('resnet18', 3, **SMALL)
    variables = initialize(model, 0)
    outputs = jax.jit(model.apply)(variables, images())
    head = variables['params']['head']
    expected = outputs.features @ head['kernel'] + head['bias']
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)
    assert outputs.embeddings is None


def test_bfloat16_computes_nearly_the_same():
    variables = initialize(create_model('resnet18', 3, **SMALL), 0)
    exact, rounded = (
        jax.jit(create_model('resnet18', 3, dtype=dtype, **SMALL).apply)(variables, images())
        for dtype in ('float32', 'bfloat16')
    )
    exact, rounded = exact.features, rounded.features
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


def test_evaluation_and_a_frozen_backbone_leave_the_statistics_alone():
    model = create_model('resnet18', 3, stage_sizes=(1,), width=4, stem='small')
    variables = initialize(model, 0)

    @jax.jit
    def apply(variables, x):
        still = ({}, {'train': True, 'backbone_train': False})
        moving = ({'train': True}, {'train': False, 'backbone_train': True})
        return [
            [model.apply(variables, x, mutable=['batch_stats'], **options) for options in group]
            for group in (still, moving)
        ]

    still, moving = apply(variables, images())
    for outputs, updated in still:
        jax.tree.map(
            np.testing.assert_array_equal, updated['batch_stats'], variables['batch_stats']
        )
        np.testing.assert_array_equal(outputs.logits, still[0][0].logits)
    for outputs, updated in moving:
        moved = jax.tree.map(
            lambda a, b: bool(np.any(a != b)), updated['batch_stats'], variables['batch_stats']
        )
        assert all(jax.tree.leaves(moved))
        assert np.any(outputs.logits != still[0][0].logits)


def test_axis_name_makes_batch_statistics_global():
    options = {'stage_sizes': (1,), 'width': 4, 'stem': 'small'}
    model = create_model('resnet18', 3, **options)
    variables = initialize(model, 0)
    train = partial(model.apply, train=True, mutable=['batch_stats'])
    expected, stats = jax.jit(train)(variables, images(16))
    parallel = create_model('resnet18', 3, axis_name='batch', **options)
    outputs, all_stats = jax.pmap(
        lambda x: parallel.apply(variables, x, train=True, mutable=['batch_stats']),
        axis_name='batch',
    )(images(16).reshape(8, 2, 8, 8, 3))
    np.testing.assert_allclose(outputs.logits.reshape(16, 3), expected.logits, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[7], b, rtol=1e-4, atol=1e-5), all_stats, stats
    )


def test_embeddings_are_finite_for_zero_features():
    projection = Projection((4, 3))
    features = jnp.zeros((2, 5))
    shapes = jax.eval_shape(projection.init, jax.random.key(0), features)
    params = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda params: projection.apply(params, features).sum())
    )(params)
    assert value == 0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def test_initialize_draws_what_init_draws():
    options = {'stage_sizes': (1,), 'width': 32, 'stem': 'small'}
    model = create_model('resnet50', 10, projection=(64, 32), **options)
    drawn = initialize(model, 0)
    reference = jax.jit(model.init)(jax.random.key(0), images(1))
    assert jax.tree.structure(drawn) == jax.tree.structure(reference)

    def compare(path, a, b):
        assert isinstance(a, np.ndarray)
        assert (a.shape, a.dtype) == (b.shape, b.dtype), path
        tolerance = 4 / np.sqrt(a.size)  # at least four standard errors
        assert abs(a.std() - b.std()) <= tolerance * b.std(), path
        assert abs(a.mean() - b.mean()) <= 1.5 * tolerance * b.std(), path

    jax.tree_util.tree_map_with_path(compare, drawn, reference)
    backbone, head = drawn['params']['backbone'], drawn['params']['head']
    kernel = backbone['layer1']['0']['conv3']['kernel']  # 32 planes in, 128 out: fan_out is 128
    assert kernel.std() == pytest.approx(np.sqrt(2 / 128), rel=0.05)
    bound = head['kernel'].shape[0] ** -0.5
    assert 0.98 * bound < np.abs(head['kernel']).max() <= bound
    assert 0.5 * bound < np.abs(head['bias']).max() <= bound


def test_initialize_depends_on_the_seed_and_the_path_alone():
    model = create_model('resnet18', 3, **SMALL)
    with_projection = create_model('resnet18', 3, projection=(4,), **SMALL)
    first, other = initialize(model, 1)['params'], initialize(model, 2)['params']
    again = initialize(with_projection, 1)['params']
    jax.tree.map(np.testing.assert_array_equal, first['backbone'], again['backbone'])
    jax.tree.map(np.testing.assert_array_equal, first['head'], again['head'])
    assert np.all(first['head']['kernel'] != other['head']['kernel'])
    block = first['backbone']['layer1']['0']
    assert np.all(block['conv1']['kernel'] != block['conv2']['kernel'])


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'name': 'vgg16'}, "unknown model 'vgg16'; allowed: resnet18, resnet50"),
        ({'depth': 3}, "option of resnet18 'depth'; allowed: remat, stage_sizes, stem, width"),
        ({'head': 'mlp'}, "unknown head 'mlp'; allowed: linear"),
        ({'dtype': 'float16'}, "unknown dtype 'float16'; allowed: float32, bfloat16"),
        ({'stem': 'tiny'}, "unknown stem 'tiny'; allowed: imagenet, small"),
        ({'width': 0}, 'width is 0'),
        ({'stage_sizes': ()}, 'stage_sizes is'),
        ({'stage_sizes': (2, 0)}, r'stage_sizes is \(2, 0\)'),
        ({'num_classes': 1}, 'num_classes is 1'),
        ({'projection': (8, 0)}, r'projection is \(8, 0\)'),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        create_model(**{'name': 'resnet18', 'num_classes': 3, **arguments})
