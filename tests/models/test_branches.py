"""A ResNet with branches: a shared trunk, and a last block for each."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metriclt_jax.models import create_model, initialize
from metriclt_jax.models.resnet import split_branches

OPTIONS = {'stage_sizes': (1, 2), 'width': 4, 'stem': 'small'}
RANDOM = np.random.default_rng(0)
FIRST, SECOND = jnp.asarray(RANDOM.normal(size=(2, 6, 8, 8, 3)), jnp.float32)


def make(branches, **options):
    model = create_model('resnet18', 3, **OPTIONS, branches=branches, **options)
    variables = initialize(model, seed=1)
    # Statistics as after training: with zeros and ones BatchNorm would do nothing.
    statistics = jax.tree.map(
        lambda x: x + RANDOM.uniform(0.1, 0.5, x.shape).astype(np.float32), variables['batch_stats']
    )
    return model, {**variables, 'batch_stats': statistics}


def without(variables, branch):
    """Variables of a backbone without branches, whose last block is that of branch 0 or 1."""

    def one(tree):
        first, second = tree['layer2']['1'], tree['layer2']['1_1']
        return {**tree, 'layer2': {'0': tree['layer2']['0'], '1': second if branch else first}}

    return {name: one(tree['backbone']) for name, tree in variables.items()}


def test_features_are_those_of_two_networks_without_branches():
    model, variables = make(2)
    single = create_model('resnet18', 3, **OPTIONS)

    def features_of_one(branch, images):
        return jax.jit(single.backbone.apply)(without(variables, branch), images)

    def features(images):
        return jax.jit(model.apply)(variables, images).features

    expected = np.concatenate([features_of_one(0, FIRST), features_of_one(1, FIRST)], axis=1)
    np.testing.assert_allclose(features(FIRST), expected, rtol=1e-5, atol=1e-6)
    assert np.abs(expected[:, :8] - expected[:, 8:]).max() > 0.01
    expected = np.concatenate([features_of_one(0, FIRST), features_of_one(1, SECOND)], axis=1)
    np.testing.assert_allclose(features((FIRST, SECOND)), expected, rtol=1e-5, atol=1e-6)


def test_logits_in_training_at_alpha_one_half_are_those_of_evaluation():
    model, variables = make(2)
    half = {'branch_weights': 2 * jnp.array([0.5, 0.5])}
    trained = model.apply(variables, (FIRST, FIRST), train=True, backbone_train=False, **half)
    np.testing.assert_array_equal(trained.logits, model.apply(variables, FIRST).logits)
    head = variables['params']['head']
    other = model.apply(variables, FIRST, branch_weights=jnp.asarray([1.5, 0.5]))
    seen = other.features * np.repeat([1.5, 0.5], 8)
    expected = seen @ head['kernel'] + head['bias']
    np.testing.assert_allclose(other.logits, expected, rtol=1e-5, atol=1e-6)
    assert np.abs(other.logits - trained.logits).max() > 0.01


def test_statistics_of_the_trunk_move_once_for_each_batch():
    model, variables = make(2)
    _, updated = model.apply(variables, (FIRST, SECOND), train=True, mutable=['batch_stats'])

    def moments(images):
        kernel = variables['params']['backbone']['conv1']['kernel']
        maps = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=('NHWC', 'HWIO', 'NHWC')
        )
        return np.mean(maps, axis=(0, 1, 2))

    before = variables['batch_stats']['backbone']['bn1']['mean']
    after = 0.9 * (0.9 * before + 0.1 * moments(FIRST)) + 0.1 * moments(SECOND)
    np.testing.assert_allclose(
        updated['batch_stats']['backbone']['bn1']['mean'], after, rtol=1e-4, atol=1e-5
    )


def test_a_network_without_branches_becomes_one_with():
    single, variables = make(1)
    model, _ = make(2)
    features = single.apply(variables, FIRST).features
    split = {name: split_branches(tree['backbone'], 2) for name, tree in variables.items()}
    both = model.backbone.apply(split, FIRST)
    np.testing.assert_array_equal(both, np.concatenate([features, features], axis=1))


def test_branches_that_do_not_fit_are_refused():
    model, variables = make(2)
    with pytest.raises(ValueError, match='batches'):
        model.apply(variables, (FIRST, FIRST, FIRST))
