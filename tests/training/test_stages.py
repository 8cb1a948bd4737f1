"""What each method's stages do, and how the second continues the first."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from metriclt_jax.config import paper_config
from metriclt_jax.methods import METHODS
from metriclt_jax.models import initialize
from metriclt_jax.training.setup import Run
from metriclt_jax.training.stages import make_model, make_stages

# classification, metric loss, trained names, then (sampler, class weights) of each stage
ROWS = {
    'ce': (True, None, ['backbone', 'head'], [('instance', 'uniform')]),
    'ce_crw': (
        True,
        None,
        ['backbone', 'head'],
        [('instance', 'uniform'), ('instance', 'inverse_frequency')],
    ),
    'ce_crs': (
        True,
        None,
        ['backbone', 'head'],
        [('instance', 'uniform'), ('class_balanced', 'uniform')],
    ),
    'ce_ct_crw': (
        True,
        0.001,
        ['backbone', 'head'],
        [('instance', 'uniform'), ('instance', 'inverse_frequency')],
    ),
    'ce_tp_crw': (
        True,
        0.001,
        ['backbone', 'head'],
        [('instance', 'uniform'), ('instance', 'inverse_frequency')],
    ),
    'ce_sc_crw': (
        True,
        1.0,
        ['backbone', 'head', 'projection'],
        [('instance', 'uniform'), ('instance', 'inverse_frequency')],
    ),
    'ce_sc': (True, 1.0, ['backbone', 'head', 'projection'], [('instance', 'uniform')]),
    'sc_crw': (
        False,
        1.0,
        ['backbone', 'projection'],
        [('instance', 'uniform'), ('instance', 'inverse_frequency')],
    ),
}


def make_config(method):
    config = paper_config()
    config.method = method
    config.model.name = 'resnet18'
    config.model.options.update({'stage_sizes': (1,), 'width': 4, 'stem': 'small'})
    return config


@pytest.mark.parametrize('method', METHODS)
def test_the_stages_of_each_row(method):
    classifies, coefficient, trained, sampling = ROWS[method]
    stages = make_stages(make_config(method))
    assert [(stage.sampler, stage.class_weights) for stage in stages] == sampling
    first = stages[0]
    assert sorted(first.trainable) == trained
    assert first.objective.classification == ('cross_entropy' if classifies else None)
    assert first.trains_classifier is classifies
    assert (first.objective.metric and first.objective.metric.coefficient) == coefficient
    assert first.backbone_train
    for second in stages[1:]:
        assert second.trainable == ('head',)
        assert second.objective.classification == 'cross_entropy'
        assert second.objective.metric is None
        assert not second.backbone_train
        assert second.head == 'fresh'


def test_what_else_the_config_offers():
    config = make_config('ce_crw')
    config.weighting.balanced = 'effective_number'
    config.stage2.batch_statistics = 'drift'
    config.stage2.head = 'previous'
    config.stage1.nesterov = True
    first, second = make_stages(config)
    assert second.class_weights == 'effective_number'
    assert second.backbone_train
    assert second.head == 'previous'
    assert first.optimizer.nesterov
    assert not second.optimizer.nesterov


@pytest.mark.parametrize('head', ['fresh', 'previous'])
def test_stage_2_begins_with_the_backbone_of_stage_1(head):
    config = make_config('ce_sc_crw')
    config.stage2.head = head
    stages = make_stages(config)
    model = make_model(config, stages, 3)

    few = SimpleNamespace(name='few', parts={'train': np.arange(64)}, class_names=('a', 'b', 'c'))
    run = Run(config, None, jax.devices()[:1], stages, few, {}, model, Console())
    left = initialize(model, 99)
    state = run.initial_state(stages[1], left)
    for name in left['params']:
        same = jax.tree.map(np.array_equal, left['params'][name], state.params[name])
        kept = name != 'head' or head == 'previous'
        # The bias may be equal by chance in no entry; all leaves are the same or none is.
        assert set(jax.tree.leaves(same)) == {kept}, name
    same = jax.tree.map(np.array_equal, left['batch_stats'], state.batch_stats)
    assert all(jax.tree.leaves(same))
    other = run.initial_state(stages[0])
    assert not np.array_equal(jax.random.key_data(state.key), jax.random.key_data(other.key))
