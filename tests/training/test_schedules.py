import numpy as np
import pytest

from metriclt_jax.config import paper_config
from metriclt_jax.training.schedules import make_class_weights, warmup_cosine
from metriclt_jax.training.stages import make_stages

STEPS = 157  # in an epoch


@pytest.fixture
def stages():
    config = paper_config()
    config.method = 'ce_sc_crw'
    return make_stages(config)


@pytest.mark.parametrize(
    ('stage', 'epoch', 'expected'),
    [
        (0, 0, 0.0),
        (0, 1, 2e-4),
        (0, 5, 1e-3),
        (0, 52.5, 5.005e-4),  # the middle of the cosine
        (0, 100, 1e-6),
        (1, 0, 0.1),
        (1, 10, 1e-6),
    ],
)
def test_learning_rates_of_the_paper(stages, stage, epoch, expected):
    learning_rate = stages[stage].learning_rate(STEPS)
    np.testing.assert_allclose(learning_rate(round(epoch * STEPS)), expected, rtol=2e-3, atol=1e-9)


def test_the_last_update_comes_before_the_end_of_the_cosine(stages):
    learning_rate = stages[1].learning_rate(STEPS)
    assert learning_rate(10 * STEPS - 1) > learning_rate(10 * STEPS)


def test_learning_rate_per_epoch_is_constant_within_an_epoch():
    recipe = {'peak': 1.0, 'final': 0.0, 'epochs': 4, 'warmup_epochs': 1, 'steps_per_epoch': 5}
    per_epoch, per_step = warmup_cosine(per='epoch', **recipe), warmup_cosine(**recipe)
    for epoch in range(4):
        # The warm-up takes the end of its epoch: at the begin of the first it would be 0.
        expected = per_step(5 * max(epoch, 1))
        assert {float(per_epoch(5 * epoch + k)) for k in range(5)} == {float(expected)}


def test_class_weights_by_kind():
    counts = np.array([5000, 500, 50])
    np.testing.assert_array_equal(make_class_weights('uniform', counts, 0.9), [1, 1, 1])
    inverse = make_class_weights('inverse_frequency', counts, 0.9)
    np.testing.assert_allclose(inverse, 3 * np.array([1, 10, 100]) / 111, rtol=1e-6)
    effective = make_class_weights('effective_number', counts, 0.9999)
    np.testing.assert_allclose(effective, [0.034107, 0.275167, 2.690725], rtol=1e-4)
