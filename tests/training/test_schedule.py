from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.config import paper_config
from metriclt_jax.training.loop import make_loss_inputs
from metriclt_jax.training.schedule import cumulative_alpha, make_class_weights
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


def test_learning_rate_per_epoch_is_constant_within_an_epoch(stages):
    values = {'learning_rate': 1.0, 'final_learning_rate': 0.0, 'warmup_epochs': 1}

    def rate(per):
        optimizer = replace(stages[0].optimizer, learning_rate_per=per, **values)
        return replace(stages[0], optimizer=optimizer, epochs=4).learning_rate(5)

    per_epoch, per_step = rate('epoch'), rate('step')
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


def inputs_of(fraction, epochs, steps, branches=1):
    """The loss inputs of a stage of DRW."""
    run = SimpleNamespace(
        dataset=SimpleNamespace(train_counts=np.array([5000, 500, 50])),
        config=paper_config(),
        devices=jax.devices()[:1],
        steps_per_epoch=lambda stage: steps,
    )
    stage = SimpleNamespace(
        class_weights='effective_number',
        reweight_start=fraction,
        epochs=epochs,
        branches=branches,
    )
    return make_loss_inputs(run, stage)


def start_of(fraction, epochs, steps):
    inputs = inputs_of(fraction, epochs, steps)
    changed = [not np.all(inputs(step).class_weights == 1) for step in range(epochs * steps + 1)]
    return changed.index(True) if any(changed) else None


def test_deferred_weights_change_at_the_exact_step():
    inputs = inputs_of(0.8, 100, STEPS)
    for step in (0, 79 * STEPS, 80 * STEPS - 1):
        np.testing.assert_array_equal(inputs(step).class_weights, 1)
    for step in (80 * STEPS, 80 * STEPS + 1, 100 * STEPS - 1):
        expected = make_class_weights('effective_number', np.array([5000, 500, 50]), 0.9999)
        np.testing.assert_array_equal(inputs(step).class_weights, expected)


@pytest.mark.parametrize(
    ('fraction', 'epochs', 'steps', 'start'),
    [
        (0.55, 100, 7, 385),  # in floats the product is above 55
        (0.07, 100, 1, 7),
        (0.8, 3, 10, 24),  # not a whole epoch: the exact step
        (0.0, 10, 3, 0),
        (1 / 3, 9, 4, 12),
    ],
)
def test_the_step_of_a_deferred_change(fraction, epochs, steps, start):
    assert start_of(fraction, epochs, steps) == start


@given(percent=st.integers(0, 99), epochs=st.integers(1, 20), steps=st.integers(1, 20))
@settings(deadline=None, max_examples=30)
def test_a_change_comes_within_half_a_step_of_its_fraction(percent, epochs, steps):
    start = start_of(percent / 100, epochs, steps)
    assert abs(start - percent / 100 * epochs * steps) <= 0.5


def test_inputs_go_to_the_devices_only_when_they_change():
    inputs = [inputs_of(0.5, 4, 3, branches=2)]
    inputs = [inputs[0](step) for step in range(12)]
    alphas = [float(one.alpha) for one in inputs]
    np.testing.assert_allclose(alphas, np.repeat([1, 0.9375, 0.75, 0.4375], 3))
    assert len({id(one) for one in inputs}) == 4


def test_alpha_of_the_conventional_branch():
    """Zhou et al. 2020 at the begin, in the middle and at the end of 100 epochs."""
    alphas = [cumulative_alpha(epoch, 100) for epoch in (1, 51, 100)]
    np.testing.assert_allclose(alphas, [1, 0.75, 0.0199], rtol=1e-12)
