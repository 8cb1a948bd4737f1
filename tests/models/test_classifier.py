from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.errors import InputError
from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.heads import dropout, l2_normalize

# The smallest of each kind that has all its parts.
TINY = {
    'resnet18': {'stage_sizes': (1,), 'width': 4, 'stem': 'small'},
    'resnet50': {'stage_sizes': (1,), 'width': 4, 'stem': 'small'},
    'densenet121': {'block_sizes': (1, 1), 'growth_rate': 4, 'width': 8},
    'mobilenet_v2': {'stages': ((1, 8, 1, 1), (2, 8, 2, 2)), 'width_multiplier': 0.25},
}


def images(batch=4, size=8):
    return np.random.default_rng(0).standard_normal((batch, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ('name', 'options', 'features', 'dtype'),
    [
        ('resnet18', {'stage_sizes': (1, 1), 'width': 4}, 8, 'float32'),
        ('resnet50', {'stage_sizes': (1, 1), 'width': 4, 'stem': 'small'}, 32, 'bfloat16'),
        # 8 channels, two blocks of 4 more, halved between them
        ('densenet121', TINY['densenet121'], 10, 'bfloat16'),
        ('mobilenet_v2', TINY['mobilenet_v2'] | {'width_multiplier': 1.5}, 1920, 'float32'),
    ],
)
def test_outputs(name, options, features, dtype):
    model = create_model(name, 5, projection=(6, 4), dtype=dtype, dropout=0.0, **options)
    variables = initialize(model, 0)
    assert set(variables['params']) == {'backbone', 'head', 'projection'}
    assert set(variables['batch_stats']) == {'backbone'}
    apply = jax.jit(partial(model.apply, train=True, mutable=['batch_stats']))
    outputs, updated = apply(variables, images(size=16))
    assert outputs.features.shape == (4, features)
    assert outputs.logits.shape == (4, 5)
    assert outputs.embeddings.shape == (4, 4)
    assert outputs.cosines is None
    assert {leaf.dtype for leaf in jax.tree.leaves((outputs, updated))} == {np.dtype('float32')}
    np.testing.assert_allclose(np.linalg.norm(outputs.embeddings, axis=1), 1, rtol=1e-5)
    assert np.std(outputs.features, axis=0).max() > 1e-3
    head = variables['params']['head']
    expected = outputs.features @ head['kernel'] + head['bias']
    np.testing.assert_allclose(outputs.logits, expected, atol=1e-5)


def test_bfloat16_computes_nearly_the_same():
    name = 'mobilenet_v2'
    variables = initialize(create_model(name, 3, **TINY[name]), 0)
    exact, rounded = (
        jax.jit(create_model(name, 3, dtype=dtype, **TINY[name]).apply)(variables, images(size=16))
        for dtype in ('float32', 'bfloat16')
    )
    exact, rounded = exact.features, rounded.features
    assert 0 < np.abs(exact - rounded).max() < 0.05 * np.abs(exact).max()


@pytest.mark.parametrize('name', ['resnet18', 'densenet121', 'mobilenet_v2'])
def test_rematerialising_blocks_changes_no_number(name):
    variables = initialize(create_model(name, 3, **TINY[name]), 0)

    def values_and_gradients(remat):
        model = create_model(name, 3, remat=remat, dropout=0.0, **TINY[name])

        def loss(params):
            outputs, updated = model.apply(
                {**variables, 'params': params}, images(size=16), train=True, mutable='batch_stats'
            )
            return jnp.sum(outputs.logits**2), (outputs, updated)

        gradient = jax.grad(loss, has_aux=True)
        assert ('remat' in str(jax.make_jaxpr(gradient)(variables['params']))) == remat
        return jax.jit(gradient)(variables['params'])

    plain, remat = values_and_gradients(False), values_and_gradients(True)
    scale = max(np.abs(leaf).max() for leaf in jax.tree.leaves(plain[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * scale), plain, remat
    )


@pytest.mark.parametrize('name', ['resnet18', 'densenet121'])
def test_evaluation_and_a_frozen_backbone_leave_the_statistics_alone(name):
    model = create_model(name, 3, dropout=0.0, **TINY[name])
    variables = initialize(model, 0)

    @jax.jit
    def apply(variables, x):
        still = ({}, {'train': True, 'backbone_train': False})
        moving = ({'train': True}, {'train': False, 'backbone_train': True})
        return [
            [model.apply(variables, x, mutable=['batch_stats'], **options) for options in group]
            for group in (still, moving)
        ]

    still, moving = apply(variables, images(size=16))
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


# A dense block takes its moments once for all layers.
@pytest.mark.parametrize(('name', 'size'), [('resnet18', 8), ('densenet121', 32)])
def test_batch_statistics_are_global_or_of_a_device(name, size):
    model = create_model(name, 3, **TINY[name])
    variables = initialize(model, 0)
    train = partial(model.apply, train=True, mutable=['batch_stats'])
    x = images(16, size)
    expected, stats = jax.jit(train)(variables, x)

    def on_devices(**options):
        parallel = create_model(name, 3, axis_name='batch', **TINY[name], **options)
        train = partial(parallel.apply, variables, train=True, mutable=['batch_stats'])
        return jax.pmap(train, axis_name='batch')(x.reshape(8, 2, size, size, 3))

    outputs, all_stats = on_devices()
    np.testing.assert_allclose(outputs.logits.reshape(16, 3), expected.logits, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a[7], b, rtol=1e-4, atol=1e-5), all_stats, stats
    )
    outputs, _ = on_devices(cross_device_batch_norm=False)
    last = jax.jit(train)(variables, x[14:])[0].logits
    np.testing.assert_allclose(outputs.logits[7], last, atol=1e-4)
    assert np.abs(last - expected.logits[14:]).max() > 1e-2


def test_l2_normalize_of_zero_is_finite_and_of_huge_vectors_is_not():
    gradient = jax.grad(lambda x: l2_normalize(x).sum())(jnp.zeros((2, 5)))
    assert np.isfinite(gradient).all()
    assert np.isnan(l2_normalize(jnp.full((1, 3), 1e20))).all()


def test_features_are_dropped_or_scaled_up():
    features = np.random.default_rng(0).normal(3, 1, (64, 512)).astype(np.float32)
    seen = np.asarray(dropout(features, 0.25, jax.random.key(0)))
    kept = seen != 0
    np.testing.assert_allclose(seen[kept], (features / 0.75)[kept], rtol=1e-6)
    # 32768 draws: a standard error of 0.0024
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    assert seen.mean() == pytest.approx(features.mean(), rel=0.02)


def test_the_draw_of_dropout_differs_by_key_and_example():
    ones = jnp.ones((32, 64))
    first, again, other = (np.array(dropout(ones, 0.5, jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other, axis=1).all()
    assert len(np.unique(first, axis=0)) == 32
    # The draw of an example is the same in a batch of any size.
    np.testing.assert_array_equal(dropout(ones[:5], 0.5, jax.random.key(0)), first[:5])


def test_eight_devices_drop_what_one_drops():
    ones, drop = jnp.ones((16, 64)), partial(dropout, rate=0.3, key=jax.random.key(3))
    one = jax.jit(drop)(ones)
    eight = jax.pmap(partial(drop, axis_name='batch'), 'batch')(ones.reshape(8, 2, 64))
    np.testing.assert_array_equal(eight.reshape(16, 64), one)


def test_only_the_head_sees_dropout_and_only_in_training():
    model, plain = (create_model('resnet18', 3, dropout=p, **TINY['resnet18']) for p in (0.5, 0))
    variables, rngs = initialize(plain, 0), {'dropout': jax.random.key(0)}

    @jax.jit
    def apply(variables, x):
        train = {'train': True, 'mutable': ['batch_stats']}
        return (
            plain.apply(variables, x),
            model.apply(variables, x),
            plain.apply(variables, x, **train)[0],
            model.apply(variables, x, **train, rngs=rngs)[0],
            # A frozen backbone still has a head that trains.
            model.apply(variables, x, backbone_train=False, **train, rngs=rngs)[0],
        )

    plain_eval, evaluated, plain_train, trained, frozen = apply(variables, images(16))
    np.testing.assert_array_equal(evaluated.logits, plain_eval.logits)
    np.testing.assert_array_equal(trained.features, plain_train.features)
    np.testing.assert_array_equal(frozen.features, plain_eval.features)
    for outputs in (trained, frozen):
        head = variables['params']['head']
        undropped = outputs.features @ head['kernel'] + head['bias']
        assert np.abs(outputs.logits - undropped).max(axis=1).min() > 1e-3


def test_the_default_of_dropout_is_torchvisions():
    rates = {name: create_model(name, 3).dropout for name in TINY}
    assert rates == dict.fromkeys(TINY, 0) | {'mobilenet_v2': 0.2}
    assert create_model('mobilenet_v2', 3, dropout=0.0).dropout == 0


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
    model = create_model('resnet18', 3, **TINY['resnet18'])
    with_projection = create_model('resnet18', 3, projection=(4,), **TINY['resnet18'])
    first, other = initialize(model, 1)['params'], initialize(model, 2)['params']
    again = initialize(with_projection, 1)['params']
    jax.tree.map(np.testing.assert_array_equal, first['backbone'], again['backbone'])
    jax.tree.map(np.testing.assert_array_equal, first['head'], again['head'])
    assert np.all(first['head']['kernel'] != other['head']['kernel'])
    block = first['backbone']['layer1']['0']
    assert np.all(block['conv1']['kernel'] != block['conv2']['kernel'])


@pytest.mark.parametrize(
    ('name', 'field', 'values'),
    [
        ('vgg16', 'vgg16', [0]),
        ('resnet18', 'depth', [3]),
        ('resnet18', 'head', ['mlp']),
        ('resnet18', 'dtype', ['float16']),
        ('resnet18', 'stem', ['tiny']),
        ('resnet18', 'width', [0]),
        ('resnet18', 'stage_sizes', [(), (2, 0)]),
        ('resnet18', 'num_classes', [1]),
        ('resnet18', 'projection', [(8, 0)]),
        ('resnet18', 'dropout', [1.0, float('nan')]),
        ('resnet18', 'branches', [0]),
        ('densenet121', 'stem', ['small']),
        ('densenet121', 'block_sizes', [(1, 0)]),
        ('densenet121', 'growth_rate', [0]),
        ('mobilenet_v2', 'branches', [2]),
        ('mobilenet_v2', 'width_multiplier', [0]),
        ('mobilenet_v2', 'stages', [(), ((1, 8, 1),), ((1, 8, 0, 1),)]),
    ],
)
def test_bad_arguments_are_refused(name, field, values):
    for value in values:
        with pytest.raises(InputError, match=field):
            create_model(name, **{'num_classes': 3, field: value})
