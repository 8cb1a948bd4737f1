"""Heads of stage 2 that are computed, or that scale what stage 1 left."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from sklearn.neighbors import NearestCentroid
from test_methods import data_dir, make_config  # noqa: F401

from metriclt_jax import load
from metriclt_jax.data import load_dataset
from metriclt_jax.models import create_model, initialize
from metriclt_jax.training.posthoc_heads import (
    adjusted_post_hoc,
    nearest_class_mean,
    tau_normalized,
)
from metriclt_jax.training.train import train

RANDOM = np.random.default_rng(0)
HEAD = {
    'kernel': jnp.asarray([[3.0, 0.0, 1.0], [4.0, 2.0, 1.0]]),
    'bias': jnp.asarray([1.0, -1.0, 0.5]),
}


def test_tau_normalization():
    for tau, norms in ((0.0, [5, 2, 2**0.5]), (0.5, [5**0.5, 2**0.5, 2**0.25]), (1.0, [1, 1, 1])):
        head = tau_normalized(HEAD, tau)
        np.testing.assert_allclose(np.linalg.norm(head['kernel'], axis=0), norms, rtol=1e-6)
        np.testing.assert_allclose(head['kernel'][0] / head['kernel'][1], [0.75, 0, 1], rtol=1e-6)
        assert not np.any(head['bias'])


def test_logit_adjustment_makes_the_posterior_that_of_equal_priors():
    """Bayes: p(y|x) / p(y), normalised, from the softmax of the head."""
    counts = np.array([60, 30, 10])
    features = RANDOM.normal(size=(5, 2))
    probabilities = np.asarray(jax.nn.softmax(features @ HEAD['kernel'] + HEAD['bias']))
    expected = probabilities / counts
    expected /= expected.sum(axis=1, keepdims=True)
    head = adjusted_post_hoc(HEAD, counts, 1.0)
    adjusted = jax.nn.softmax(features @ head['kernel'] + head['bias'])
    np.testing.assert_allclose(adjusted, expected, rtol=1e-5)
    np.testing.assert_array_equal(adjusted_post_hoc(HEAD, counts, 0.0)['bias'], HEAD['bias'])


def test_class_means_are_those_of_scikit_learn():
    features, labels = RANDOM.normal(size=(40, 6)), np.arange(40) ** 2 % 3
    labels[:3] = [0, 1, 2]
    centroids = NearestCentroid().fit(features, labels).centroids_
    head = nearest_class_mean(features.astype(np.float32), labels, 3)
    np.testing.assert_allclose(head['kernel'], centroids.T, rtol=1e-5, atol=1e-6)


def test_scales_multiply_the_logits():
    options = {'stage_sizes': (1,), 'width': 4, 'stem': 'small'}
    images = jnp.asarray(RANDOM.normal(size=(3, 8, 8, 3)), jnp.float32)
    model = create_model('resnet18', 3, head='rescaled', **options)
    variables = initialize(model, 0)
    logits = (
        create_model('resnet18', 3, **options)
        .apply(
            {
                **variables,
                'params': {k: v for k, v in variables['params'].items() if k != 'scales'},
            },
            images,
        )
        .logits
    )
    np.testing.assert_array_equal(model.apply(variables, images).logits, logits)
    variables['params']['scales'] = {'scale': np.array([1.0, -2.0, 0.5], np.float32)}
    np.testing.assert_allclose(
        model.apply(variables, images).logits, logits * np.array([1, -2, 0.5]), rtol=1e-6
    )


@pytest.mark.slow
def test_runs_with_a_computed_head_repeat_it_from_the_first_stage(data_dir, tmp_path):  # noqa: F811
    """All second stages begin with the same stage 1, whose head and features they are made of."""
    trained, results = {}, {}
    for method in ('ce', 'ce_tau', 'ce_la', 'ce_ncm', 'ce_lws'):
        config = make_config(method, data_dir)
        results[method] = train(config, tmp_path / method, Console(file=io.StringIO()))
        trained[method] = load(tmp_path / method).variables['params']
        assert results[method]['stages'][0] == results['ce']['stages'][0]
        for leaves in zip(
            *(jax.tree.leaves(trained[name]['backbone']) for name in ('ce', method)), strict=True
        ):
            np.testing.assert_array_equal(*leaves)
    head, counts = trained['ce']['head'], np.array(results['ce']['train_counts'])
    for method, expected in (
        ('ce_tau', tau_normalized(head, 1.0)),
        ('ce_la', adjusted_post_hoc(head, counts, 1.0)),
        ('ce_lws', head),
    ):
        for name, values in expected.items():
            np.testing.assert_allclose(trained[method]['head'][name], values, rtol=1e-6)
    assert trained['ce_ncm']['head'].keys() == {'kernel'}
    dataset = load_dataset(make_config('ce', data_dir).data)
    indices = dataset.parts['train']
    features = load(tmp_path / 'ce').features(dataset.images.read(indices))
    means = [features[dataset.labels[indices] == label].mean(axis=0) for label in range(10)]
    np.testing.assert_allclose(
        trained['ce_ncm']['head']['kernel'], np.transpose(means), rtol=1e-4, atol=1e-6
    )
    assert np.any(trained['ce_lws']['scales']['scale'] != 1)
    assert results['ce_tau']['stages'][1]['best'] is None

    # A stage without epochs is not computed again, and a run that lost its results finds it.
    (tmp_path / 'ce_ncm' / 'results.json').unlink()
    again = train(make_config('ce_ncm', data_dir), tmp_path / 'ce_ncm', Console(file=io.StringIO()))
    assert {**again, 'seconds': 0} == {**results['ce_ncm'], 'seconds': 0}
