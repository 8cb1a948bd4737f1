"""The claims and the code of docs/losses.md: our losses beside those of other libraries."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metriclt_jax import losses

PAGE = (Path(__file__).parents[2] / 'docs' / 'losses.md').read_text()
RANDOM = np.random.default_rng(0)
LOGITS = RANDOM.normal(scale=3, size=(12, 4)).astype(np.float32)
COSINES = RANDOM.uniform(-1, 1, (12, 4)).astype(np.float32)
VECTORS = RANDOM.normal(size=(12, 6)).astype(np.float32)
UNIT = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
LABELS = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3])
SIMILAR = UNIT.astype(float) @ UNIT.T
OTHER = ~np.eye(12, dtype=bool)
POSITIVE = (LABELS[:, None] == LABELS) & OTHER
NEGATIVE = LABELS[:, None] != LABELS
HAS_POSITIVE = POSITIVE.any(axis=1)


def assert_close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def mean_over_positives(temperature, positive=POSITIVE):
    """Of the log probabilities of the positives, by anchor; 0 without one (Khosla's code)."""
    exponentials = np.exp(SIMILAR / temperature) * OTHER
    log = np.log(np.exp(SIMILAR / temperature) / exponentials.sum(axis=1, keepdims=True))
    return (log * positive).sum(axis=1) / np.maximum(positive.sum(axis=1), 1)


def test_code_of_the_page():
    assert len(jax.devices()) == 8
    names = {}
    blocks = re.findall(r'```python\n(.*?)```', PAGE, flags=re.S)
    assert len(blocks) == 5
    for block in blocks:
        exec(block, names)
    kernel, features, labels = (names[name] for name in ('kernel', 'features', 'labels'))
    expected = jax.grad(lambda k: losses.supervised_contrastive(features @ k, labels))(kernel)
    for name in ('by_pmap', 'by_shard_map'):
        np.testing.assert_allclose(names[name], expected, rtol=1e-3, atol=1e-5)
    assert_close(names['by_jit'], losses.supervised_contrastive(features, labels))
    assert_close(names['mean'], names['per_example'][5:].mean())


def test_every_loss_is_on_the_page():
    for name in set(losses.__all__) - {'adjust_logits', 'ldam_margins'}:
        assert f'`{name}' in PAGE


def test_cross_entropy_of_torch():
    expected = -np.log(softmax(LOGITS.astype(float)))
    assert_close(losses.cross_entropy(LOGITS, LABELS), expected[np.arange(12), LABELS])
    smooth = 0.9 * np.eye(4)[LABELS] + 0.1 / 4
    of_torch = 0.9 * expected[np.arange(12), LABELS] + 0.1 * expected.mean(axis=1)
    assert_close(losses.cross_entropy(LOGITS, smooth), of_torch)
    weights = np.array([0.5, 1, 2, 4])
    of_torch = np.average(expected[np.arange(12), LABELS], weights=weights[LABELS])
    assert_close(
        losses.weighted_mean(losses.cross_entropy(LOGITS, LABELS), weights[LABELS]), of_torch
    )


def test_where_is_that_of_optax():
    where = LABELS != 1
    labels = jnp.asarray(LABELS)
    expected = optax.softmax_cross_entropy_with_integer_labels(LOGITS, labels, where=where)
    assert_close(losses.cross_entropy(LOGITS, labels, where=where), expected)


def test_binary_focal_loss_of_optax():
    scores, labels = LOGITS[:, 0], LABELS % 2
    expected = optax.sigmoid_focal_loss(scores, labels, gamma=2.0)
    assert_close(losses.focal(np.stack([0 * scores, scores], axis=1), labels), expected)


def test_triplets_of_pytorch_metric_learning():
    distances = np.linalg.norm(UNIT[:, None].astype(float) - UNIT, axis=-1)
    violations = distances[:, :, None] - distances[:, None, :] + 0.05
    exist = POSITIVE[:, :, None] & NEGATIVE[:, None, :]
    expected = violations[exist & (violations > 0)].mean()
    assert_close(losses.triplet(UNIT, LABELS, 0.05, mining='batch_all'), expected)

    farthest = np.where(POSITIVE, distances, -1).max(axis=1)
    nearest = np.where(NEGATIVE, distances, 9).min(axis=1)
    hard = np.maximum(farthest - nearest + 0.05, 0)[HAS_POSITIVE]
    assert_close(losses.triplet(UNIT, LABELS, 0.05), hard.mean())
    apart = np.concatenate([UNIT[:5], UNIT[5:8] + 100, UNIT[8:]])  # class 1 has losses of 0
    each = losses.triplet(apart, LABELS, 0.05, reduction='none')
    assert np.count_nonzero(each[HAS_POSITIVE]) < HAS_POSITIVE.sum()
    assert_close(losses.triplet(apart, LABELS, 0.05), each[HAS_POSITIVE].mean())


def test_given_triplets_of_optax():
    three = VECTORS[[0, 1, 5]]
    expected = optax.losses.triplet_margin_loss(*three[:, None], margin=1.0)
    each = losses.triplet(three, [0, 0, 1], 1.0, reduction='none')
    assert_close(each[0], expected[0])


@pytest.mark.parametrize('temperature', [0.07, 0.5])
def test_supervised_contrastive_of_supcontrast_and_pytorch_metric_learning(temperature):
    ours = losses.supervised_contrastive(VECTORS, LABELS, temperature)
    each = losses.supervised_contrastive(VECTORS, LABELS, temperature, reduction='none')
    of_anchors = -mean_over_positives(temperature)
    assert_close(each, of_anchors, 1e-4)
    assert_close(ours, of_anchors[of_anchors > 0].mean(), 1e-4)  # pytorch-metric-learning
    of_khosla = temperature / 0.07 * of_anchors.mean()
    assert_close(ours * temperature / 0.07 * HAS_POSITIVE.mean(), of_khosla, 1e-4)
    inside = np.exp(SIMILAR / temperature) / (np.exp(SIMILAR / temperature) * OTHER).sum(1)[:, None]
    l_in = -np.log((inside * POSITIVE).sum(1)[:-1] / POSITIVE.sum(1)[:-1])
    assert np.all(l_in <= of_anchors[:-1] + 1e-9)


def test_ntxent_of_optax():
    pairs = np.repeat(np.arange(6), 2)
    assert_close(
        losses.supervised_contrastive(VECTORS, pairs, 0.2), optax.ntxent(VECTORS, pairs, 0.2), 1e-4
    )
    labels = jnp.asarray(LABELS)
    assert abs(losses.supervised_contrastive(VECTORS, LABELS) - optax.ntxent(VECTORS, labels)) > 0.1


def test_margins_of_pytorch_metric_learning():
    def peer(of_label):
        logits = COSINES.astype(float)
        logits[np.arange(12), LABELS] = of_label
        return -np.log(softmax(64 * logits))[np.arange(12), LABELS]

    of_label = COSINES[np.arange(12), LABELS].astype(float)
    assert_close(losses.cosface(COSINES, LABELS, scale=64), peer(of_label - 0.35), 1e-4)
    angles, margin = np.arccos(of_label), np.deg2rad(28.6)
    inside = angles <= np.pi - margin
    assert inside.sum() > 6
    assert_close(
        losses.arcface(COSINES, LABELS, margin, scale=64)[inside],
        peer(np.cos(angles + margin))[inside],
        1e-4,
    )


def test_center_loss_of_pytorch_center_loss():
    centers = RANDOM.normal(size=(4, 6)).astype(np.float32)
    distances = np.sum((VECTORS[:, None] - centers) ** 2, axis=-1)
    masked = distances * (LABELS[:, None] == np.arange(4))
    assert_close(
        2 * losses.center(VECTORS, LABELS, centers).mean(), masked.clip(1e-12, 1e12).sum() / 12
    )


def test_ldam_and_class_balanced_weights_of_their_authors():
    counts = np.array([500, 100, 20, 5])
    margins = 1 / np.sqrt(np.sqrt(counts))
    margins *= 0.5 / margins.max()
    logits = 30 * (COSINES.astype(float) - np.eye(4)[LABELS] * margins)
    assert_close(
        losses.ldam(COSINES, LABELS, counts), -np.log(softmax(logits))[np.arange(12), LABELS]
    )
    weights = (1 - 0.999) / (1 - 0.999**counts)
    assert_close(losses.class_weights.effective_number(counts, 0.999), weights / weights.sum() * 4)
