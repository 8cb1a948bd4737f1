"""One update: what it changes, what it leaves, and that devices make no difference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metriclt_jax.config import paper_config
from metriclt_jax.devices import place
from metriclt_jax.models import classifier, create_model, heads, initialize
from metriclt_jax.training.schedule import LossInputs
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.state import create_state, make_optimizer
from metriclt_jax.training.step import make_train_step

BATCH, CLASSES, SIZE = 32, 5, 16
COUNTS = jnp.asarray([50.0, 20.0, 15.0, 10.0, 5.0])
WEIGHTS = jnp.asarray([0.2, 0.5, 1.0, 1.3, 2.0])
OPTIONS = {'stage_sizes': (1,), 'width': 8, 'stem': 'small'}


def make_config(method, **fields):
    config = paper_config()
    config.method = method
    config.data.resize = SIZE
    config.augment.crop = 8  # the border matters then, and no bias has a gradient of almost 0
    config.model.name = 'resnet18'
    config.model.options.update(OPTIONS)
    config.metric.supervised_contrastive.projection = (8, 4)
    config.metric.balanced_contrastive.projection = (8, 4)
    # The paper's learning rate is 0 in the first update.
    config.stage1.warmup_epochs = 0
    config.stage1.learning_rate = 0.1
    config.update_from_flattened_dict(fields)
    return config


def make_batch(seed=0):
    random = np.random.default_rng(seed)
    return {
        'image': random.integers(0, 256, (BATCH, SIZE, SIZE, 3), dtype=np.uint8),
        'label': random.choice(CLASSES, BATCH, p=[0.5, 0.2, 0.15, 0.1, 0.05]).astype(np.int32),
        'aspect': random.uniform(0.7, 1.5, BATCH).astype(np.float32),
    }


@functools.cache
def make_step(method, stage_index, num_devices, fields=()):
    """A compiled step, and the state that it starts from."""
    config = make_config(method, **dict(fields))
    stages = make_stages(config)
    stage = stages[stage_index]
    model = make_models(config, stages, CLASSES)[stage.name]
    before = create_state(stage, initialize(model, 0), jax.random.key(7), 10, CLASSES)
    return stage, make_train_step(model, stage, 10, jax.devices()[:num_devices]), before


@functools.cache
def update(method, stage_index, num_devices, steps=1, fields=(), second=100):
    """The state before and after some updates, and the last loss."""
    stage, step, before = make_step(method, stage_index, num_devices, fields)
    devices = jax.devices()[:num_devices]
    state = place(before, devices)
    inputs = place(LossInputs(WEIGHTS, COUNTS, jnp.asarray(0.7)), devices)
    for k in range(steps):
        batch = make_batch(k)
        if stage.second_sampler:
            batch['second'] = make_batch(k + second)
        batch = jax.tree.map(lambda x: x.reshape(num_devices, -1, *x.shape[1:]), batch)
        state, logs = step(state, batch, inputs)
    return before, jax.device_get(state), float(logs['loss'])


def relative_differences(a, b):
    """The norm of the difference over the norm, tensor by tensor, by path."""
    flat_a = jax.tree_util.tree_leaves_with_path(a)
    flat_b = jax.tree.leaves(b)
    return {
        jax.tree_util.keystr(path): float(np.linalg.norm(x - y) / max(np.linalg.norm(x), 1e-30))
        for (path, x), y in zip(flat_a, flat_b, strict=True)
        if np.linalg.norm(x) > 0 or np.linalg.norm(y) > 0
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    'method',
    [
        'ce',
        'ce_ct_crw',
        'ce_tp_crw',
        'ce_sc_crw',
        'sc_crw',
        'ce_bcl_crw',
        'cb_focal',
        'ldam_drw',
        'cutmix',
        'remix',
        'balanced_mixup',
        'bbn',
    ],
)
def test_eight_devices_equal_one(method):
    before, one, loss_one = update(method, 0, 1)
    _, eight, loss_eight = update(method, 0, 8)
    np.testing.assert_allclose(loss_eight, loss_one, rtol=1e-5)
    # The momentum buffers after one update are the gradients (with their weight decay).
    for name in ('params', 'batch_stats', 'opt_state', 'metric', 'metric_opt_state', 'metric_sums'):
        differences = relative_differences(getattr(one, name), getattr(eight, name))
        assert all(value <= 1e-5 for value in differences.values()), (name, differences)
    moved = relative_differences(before.params, one.params)
    assert moved['["backbone"]["conv1"]["kernel"]'.replace('"', "'")] > 1e-3


@pytest.mark.slow
def test_eight_devices_equal_one_in_stage_2():
    _, one, _ = update('ce_crw', 1, 1)
    _, eight, _ = update('ce_crw', 1, 8)
    differences = relative_differences(one.params, eight.params)
    assert all(value <= 1e-5 for value in differences.values()), differences


@pytest.mark.slow
@pytest.mark.parametrize('method', ['ce_crw', 'ce_sc_crw'])
def test_stage_2_changes_the_head_and_nothing_else_bitwise(method):
    before, after, _ = update(method, 1, 2, steps=3)
    for name in before.params:
        same = jax.tree.map(
            lambda a, b: np.asarray(a).tobytes() == np.asarray(b).tobytes(),
            before.params[name],
            after.params[name],
        )
        assert any(jax.tree.leaves(same)) == (name != 'head'), name
        assert all(jax.tree.leaves(same)) == (name != 'head'), name
    for a, b in zip(
        jax.tree.leaves(before.batch_stats), jax.tree.leaves(after.batch_stats), strict=True
    ):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.mark.slow
def test_features_alone_leave_the_classifier_untouched():
    before, after, _ = update('sc_crw', 0, 1)
    moved = relative_differences(before.params, after.params)
    assert all((value == 0) == path.startswith("['head']") for path, value in moved.items()), moved


@pytest.mark.slow
def test_centers_move_by_their_own_gradient_whatever_the_coefficient():
    before, small, _ = update('ce_ct_crw', 0, 1)
    _, large, _ = update('ce_ct_crw', 0, 1, fields=(('metric.center.coefficient', 1.0),))
    before, small, large = (np.asarray(s.metric['centers']) for s in (before, small, large))
    np.testing.assert_allclose(small, large, rtol=1e-5)
    present = np.unique(make_batch()['label'])
    absent = np.setdiff1d(np.arange(CLASSES), present)
    assert np.all(np.any(small[present] != before[present], axis=1))
    np.testing.assert_array_equal(small[absent], before[absent])


@pytest.mark.slow
@pytest.mark.parametrize('num_devices', [1, 8])
def test_the_original_update_of_centers(num_devices):
    """Wen et al. 2016, equation 4, from the sums of differences that the plain gradient holds."""
    fields = (('metric.center.update_rule', 'original'), ('metric.center.alpha', 0.5))
    before, after, _ = update('ce_ct_crw', 0, num_devices, fields=fields)
    centers, moved = (np.asarray(state.metric['centers']) for state in (before, after))
    # SGD of rate 1 on the plain loss moves the centers by its gradient, sum(c - f) / B.
    plain = (('metric.center.learning_rate', 1.0), ('metric.center.momentum', 0.0))
    _, by_sgd, _ = update('ce_ct_crw', 0, num_devices, fields=plain)
    sums = BATCH * (centers - np.asarray(by_sgd.metric['centers']))
    counts = np.bincount(make_batch()['label'], minlength=CLASSES)[:, None]
    expected = centers - 0.5 * sums / (1 + counts)
    np.testing.assert_allclose(moved, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_step_mixes_what_its_stage_says():
    methods = ('ce', 'remix', 'cutmix', 'balanced_mixup')
    losses = {method: update(method, 0, 1)[2] for method in methods}
    assert len(set(losses.values())) == len(methods)
    # The partners of balanced_mixup come from the second batch.
    assert update('balanced_mixup', 0, 1, second=200)[2] != losses['balanced_mixup']


@pytest.mark.slow
def test_each_step_augments_anew():
    _, step, state = make_step('ce', 0, 1)
    devices = jax.devices()[:1]
    inputs = place(LossInputs(jnp.ones(CLASSES), COUNTS, jnp.asarray(0.7)), devices)
    batch = {name: array[None] for name, array in make_batch().items()}

    def loss(at, key=7):
        key = jax.random.key_data(jax.random.key(key))
        changed = state.replace(step=jnp.asarray(at, jnp.int32), key=key)
        return float(step(place(changed, devices), batch, inputs)[1]['loss'])

    assert loss(3) == loss(3)
    assert len({loss(3), loss(4), loss(3, key=8)}) == 3


def dropped(monkeypatch, num_devices, stage_index=0, at=0):
    """What `dropout` leaves of ones in a step, `[BATCH, D]`, and the parameters after it."""
    config = make_config('ce_crw', **{'model.dropout': 0.5})
    stages = make_stages(config)
    model = make_models(config, stages, CLASSES)[stages[stage_index].name]
    devices = jax.devices()[:num_devices]
    masks = {}

    def remember(features, rate, key, axis_name):
        kept = heads.dropout(jnp.ones_like(features), rate, key, axis_name)
        place_of = jax.lax.axis_index(axis_name)
        jax.debug.callback(lambda i, mask: masks.update({int(i): np.asarray(mask)}), place_of, kept)
        return heads.dropout(features, rate, key, axis_name)

    monkeypatch.setattr(classifier, 'dropout', remember)
    stage = stages[stage_index]
    state = create_state(stage, initialize(model, 0), jax.random.key(7), 10, CLASSES)
    state = place(state.replace(step=jnp.asarray(at, jnp.int32)), devices)
    batch = {
        name: array.reshape(num_devices, -1, *array.shape[1:])
        for name, array in make_batch().items()
    }
    inputs = place(LossInputs(jnp.ones(CLASSES), COUNTS, jnp.asarray(1.0)), devices)
    state, _ = make_train_step(model, stage, 10, devices)(state, batch, inputs)
    params = jax.device_get(state.params)
    jax.effects_barrier()
    return np.concatenate([masks[i] for i in range(num_devices)]), params


@pytest.mark.slow
def test_dropout_follows_from_step_and_example_on_any_devices(monkeypatch):
    one, params = dropped(monkeypatch, 1)
    eight, params_of_eight = dropped(monkeypatch, 8)
    assert set(np.unique(one)) == {0.0, 2.0}
    np.testing.assert_array_equal(one, eight)
    differences = relative_differences(params, params_of_eight)
    assert all(value <= 1e-5 for value in differences.values()), differences
    assert len(np.unique(one, axis=0)) > 0.8 * BATCH  # of 2^8 possible masks
    later, _ = dropped(monkeypatch, 1, at=1)
    assert np.any(one != later, axis=1).mean() > 0.8
    # It is on in stage 2 too: the head is what it belongs to.
    second, _ = dropped(monkeypatch, 1, stage_index=1)
    assert set(np.unique(second)) == {0.0, 2.0}


def test_the_optimizer_is_sgd_as_torch_defines_it():
    """Buffer = momentum x buffer + (gradient + decay x parameter), in every parameter."""
    config = make_config('ce')
    (stage,) = make_stages(config)
    params = {
        'backbone': {'bn': {'scale': np.array([1.0, -2.0], np.float32)}},
        'head': {'kernel': np.array([[3.0]], np.float32), 'bias': np.array([1.0], np.float32)},
    }
    optimizer = make_optimizer(stage, params, 10)
    state = optimizer.init(params)
    buffers = jax.tree.map(np.zeros_like, params)
    expected = params
    for k in range(3):
        gradients = jax.tree.map(lambda p, k=k: np.full_like(p, 0.1 * (k + 1)), params)
        updates, state = optimizer.update(gradients, state, params)
        params = optax.apply_updates(params, updates)
        buffers = jax.tree.map(lambda b, g, p: 0.9 * b + g + 5e-4 * p, buffers, gradients, expected)
        rate = float(stage.learning_rate(10)(k))
        expected = jax.tree.map(lambda p, b, rate=rate: p - rate * b, expected, buffers)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), params, expected)


def test_decay_of_kernels_only():
    config = make_config('ce')
    config.stage1.decay = 'kernels'
    (stage,) = make_stages(config)
    params = {'backbone': {'scale': jnp.ones(2)}, 'head': {'kernel': jnp.ones((2, 2))}}
    optimizer = make_optimizer(stage, params, 10)
    gradients = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    assert np.all(updates['backbone']['scale'] == 0)
    assert np.all(updates['head']['kernel'] < 0)


def test_frozen_parameters_have_no_momentum():
    config = make_config('ce_crw')
    stage = make_stages(config)[1]
    model = create_model('resnet18', CLASSES, **OPTIONS)
    variables = initialize(model, 0)
    state = create_state(stage, variables, jax.random.key(0), 10, CLASSES)
    buffers = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim > 0]
    head = jax.tree.leaves(variables['params']['head'])
    assert sorted(b.shape for b in buffers) == sorted(h.shape for h in head)


def test_trainable_and_frozen_names_cover_every_parameter():
    stage = make_stages(make_config('ce_crw'))[1]
    head = {'kernel': jnp.ones((1, 1))}
    make_optimizer(stage, {'backbone': {'a': jnp.ones(1)}, 'head': head}, 10)
    for params in ({'backbone': {}, 'head': head, 'auxiliary': head}, {'head': head}):
        with pytest.raises(ValueError, match='stage2 trains'):
            make_optimizer(stage, params, 10)


def test_stage_2_does_not_even_turn_minus_zero_into_zero():
    _, step, before = make_step('ce_crw', 1, 2)
    backbone = jax.tree.map(lambda leaf: -jnp.zeros_like(leaf), before.params['backbone'])
    devices = jax.devices()[:2]
    state = place(before.replace(params={**before.params, 'backbone': backbone}), devices)
    inputs = place(LossInputs(WEIGHTS, COUNTS, jnp.asarray(0.7)), devices)
    batch = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), make_batch())
    after, _ = step(state, batch, inputs)
    assert all(np.signbit(leaf).all() for leaf in jax.tree.leaves(after.params['backbone']))
