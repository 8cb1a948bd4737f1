"""Dropout between the features and the head."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.heads import dropout

OPTIONS = {'stage_sizes': (1,), 'width': 4, 'stem': 'small'}
BATCH = 16


@pytest.fixture(scope='module')
def variables():
    return initialize(create_model('resnet18', 3, **OPTIONS), 0)


def images():
    return np.random.default_rng(0).standard_normal((BATCH, 8, 8, 3)).astype(np.float32)


def test_features_are_dropped_or_scaled_up():
    features = np.random.default_rng(0).normal(3, 1, (64, 512)).astype(np.float32)
    seen = np.asarray(dropout(features, 0.25, jax.random.key(0)))
    kept = seen != 0
    np.testing.assert_allclose(seen[kept], (features / 0.75)[kept], rtol=1e-6)
    # 32768 draws: a standard error of 0.0024
    assert kept.mean() == pytest.approx(0.75, abs=0.01)
    assert seen.mean() == pytest.approx(features.mean(), rel=0.02)


def test_the_draw_differs_by_key_and_example():
    ones = jnp.ones((32, 64))
    first, again, other = (
        np.asarray(dropout(ones, 0.5, jax.random.key(seed))) for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other, axis=1).all()
    assert len(np.unique(first, axis=0)) == 32
    # The draw of an example is the same in a batch of any size.
    np.testing.assert_array_equal(dropout(ones[:5], 0.5, jax.random.key(0)), first[:5])


def test_eight_devices_draw_what_one_draws():
    ones, key = jnp.ones((BATCH, 64)), jax.random.key(3)
    one = jax.jit(partial(dropout, rate=0.3, key=key))(ones)
    eight = jax.pmap(partial(dropout, rate=0.3, key=key, axis_name='batch'), axis_name='batch')(
        ones.reshape(8, 2, 64)
    )
    np.testing.assert_array_equal(eight.reshape(BATCH, 64), one)


def test_only_the_head_sees_it_and_only_in_training(variables):
    model = create_model('resnet18', 3, dropout=0.5, **OPTIONS)
    plain = create_model('resnet18', 3, **OPTIONS)
    key = jax.random.key(0)

    @jax.jit
    def apply(variables, x):
        train = {'train': True, 'mutable': ['batch_stats']}
        return (
            plain.apply(variables, x),
            model.apply(variables, x),
            plain.apply(variables, x, **train)[0],
            model.apply(variables, x, **train, rngs={'dropout': key})[0],
            # A frozen backbone still has a head that trains.
            model.apply(variables, x, backbone_train=False, **train, rngs={'dropout': key})[0],
        )

    plain_eval, evaluated, plain_train, trained, frozen = apply(variables, images())
    np.testing.assert_array_equal(evaluated.logits, plain_eval.logits)
    np.testing.assert_array_equal(trained.features, plain_train.features)
    np.testing.assert_array_equal(frozen.features, plain_eval.features)
    for outputs in (trained, frozen):
        head = variables['params']['head']
        undropped = outputs.features @ head['kernel'] + head['bias']
        assert np.abs(outputs.logits - undropped).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(
    ('name', 'rate'),
    [('resnet18', 0), ('resnet50', 0), ('densenet121', 0), ('mobilenet_v2', 0.2)],
)
def test_the_default_is_torchvisions(name, rate):
    assert create_model(name, 3).dropout == rate
    assert create_model(name, 3, dropout=0.0).dropout == 0
