"""What each method's stages do, and how the second continues the first."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from rich.console import Console

from metriclt_jax import losses
from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS, Method, SecondStage
from metriclt_jax.models import Outputs, initialize
from metriclt_jax.training.setup import Run, check
from metriclt_jax.training.stages import make_models, make_stages

INSTANCE, BALANCED = ('instance', 'uniform'), ('class_balanced', 'uniform')
CRW, EFFECTIVE = ('instance', 'inverse_frequency'), ('instance', 'effective_number')
CE, FOCAL, LDAM = 'cross_entropy', 'focal', 'ldam'
# classification loss, coefficient of the metric loss, mixing, share of stage 1 before its weights,
# then (sampler, class weights) of each stage
ROWS = {
    'ce': (CE, None, None, 0, INSTANCE),
    'ce_crw': (CE, None, None, 0, INSTANCE, CRW),
    'ce_crs': (CE, None, None, 0, INSTANCE, BALANCED),
    'ce_drw': (CE, None, None, 0.8, EFFECTIVE),
    'rs': (CE, None, None, 0, BALANCED),
    'rw': (CE, None, None, 0, CRW),
    'ldam': (LDAM, None, None, 0, INSTANCE),
    'ldam_crw': (LDAM, None, None, 0, INSTANCE, CRW),
    'ldam_drw': (LDAM, None, None, 0.8, EFFECTIVE),
    'focal': (FOCAL, None, None, 0, INSTANCE),
    'focal_crw': (FOCAL, None, None, 0, INSTANCE, CRW),
    'cb_focal': (FOCAL, None, None, 0, EFFECTIVE),
    'cb_focal_crw': (FOCAL, None, None, 0, EFFECTIVE, CRW),
    'mixup': (CE, None, 'mixup', 0, INSTANCE),
    'mixup_crw': (CE, None, 'mixup', 0, INSTANCE, CRW),
    'cutmix': (CE, None, 'cutmix', 0, INSTANCE),
    'cutmix_crw': (CE, None, 'cutmix', 0, INSTANCE, CRW),
    'ce_ct_crw': (CE, 0.001, None, 0, INSTANCE, CRW),
    'ce_tp_crw': (CE, 0.001, None, 0, INSTANCE, CRW),
    'ce_sc_crw': (CE, 1.0, None, 0, INSTANCE, CRW),
    'ce_sc': (CE, 1.0, None, 0, INSTANCE),
    'sc_crw': (None, 1.0, None, 0, INSTANCE, CRW),
    'ce_bcl_crw': (CE, 1.0, None, 0, INSTANCE, CRW),
    'logit_adjusted': ('logit_adjusted', None, None, 0, INSTANCE),
    'cosface_crw': ('cosface', None, None, 0, INSTANCE, CRW),
    'arcface_crw': ('arcface', None, None, 0, INSTANCE, CRW),
    'remix': (CE, None, 'remix', 0, INSTANCE),
    'remix_crw': (CE, None, 'remix', 0, INSTANCE, CRW),
    'balanced_mixup': (CE, None, 'balanced_mixup', 0, INSTANCE),
    'bbn': (CE, None, None, 0, INSTANCE),
    'ce_lws': (CE, None, None, 0, INSTANCE, BALANCED),
    'ce_tau': (CE, None, None, 0, INSTANCE, INSTANCE),
    'ce_ncm': (CE, None, None, 0, INSTANCE, INSTANCE),
    'ce_la': (CE, None, None, 0, INSTANCE, INSTANCE),
}
SECOND_SAMPLERS = {'balanced_mixup': 'class_balanced', 'bbn': 'reversed'}
CRW_STAGE = SecondStage(weighting='balanced')
OF_COSINES = ('ldam', 'cosface', 'arcface')


def value_of(loss):
    """The loss on one example of class 1; `loss` is a name, or how a stage has it."""
    cosines, counts = np.array([[0.2, 0.1, -0.3]], np.float32), np.array([50.0, 20.0, 5.0])
    outputs = Outputs(None, 10 * cosines, None, cosines)
    if not isinstance(loss, str):
        return float(loss.loss(outputs, np.array([1]), counts)[0])
    scores = outputs.cosines if loss in OF_COSINES else outputs.logits
    arguments = [counts] if loss in ('ldam', 'logit_adjusted') else []
    return float(getattr(losses, loss)(scores, np.array([1]), *arguments)[0])


def make_config(method):
    config = paper_config()
    config.method = method
    config.model.name = 'resnet18'
    config.model.options.update({'stage_sizes': (1,), 'width': 4, 'stem': 'small'})
    return config


@pytest.mark.parametrize('method', METHODS)
def test_the_stages_of_each_row(method):
    loss, coefficient, mixing, reweight_start, *sampling = ROWS[method]
    stages = make_stages(make_config(method))
    assert [(stage.sampler, stage.class_weights) for stage in stages] == sampling
    first = stages[0]
    projection = ['projection'] if coefficient == 1.0 else []
    assert sorted(first.trainable) == ['backbone', *(['head'] if loss else []), *projection]
    if loss is None:
        assert first.objective.classification is None
    else:
        assert value_of(first.objective.classification) == pytest.approx(value_of(loss), rel=1e-6)
    assert first.trains_classifier is (loss is not None)
    assert first.head == ('cosine' if loss in OF_COSINES else 'linear')
    if method != 'bbn':
        assert first.objective.normalize_weights is not method.startswith('cb_')
    assert (first.objective.metric and first.objective.metric.coefficient) == coefficient
    assert (first.mixing and first.mixing.name) == mixing
    assert first.second_sampler == SECOND_SAMPLERS.get(method)
    assert first.branches == (2 if method == 'bbn' else 1)
    assert first.reweight_start == reweight_start
    assert first.backbone_train
    for second in stages[1:]:
        if (how := METHODS[method].second_stage.head) != 'retrained':
            assert second.head == {'ce_lws': 'rescaled', 'ce_ncm': 'cosine'}.get(method, 'linear')
            assert not second.fresh_head
            assert second.trainable == (('scales',) if how == 'rescaled' else ('head',))
            assert second.epochs == (10 if how == 'rescaled' else 0)
            continue
        assert second.trainable == ('head',)
        assert value_of(second.objective.classification) == value_of(CE)
        assert (second.head, second.mixing, second.reweight_start) == ('linear', None, 0)
        assert second.objective.metric is None
        assert not second.backbone_train
        assert second.fresh_head


def test_what_else_the_config_offers():
    config = make_config('ce_crw')
    config.weighting.balanced = 'effective_number'
    config.stage2.batch_statistics = 'drift'
    config.stage2.head = 'previous'
    config.stage1.nesterov = True
    first, second = make_stages(config)
    assert second.class_weights == 'effective_number'
    assert second.backbone_train
    assert not second.fresh_head
    assert first.optimizer.nesterov
    assert not second.optimizer.nesterov


@pytest.mark.parametrize('head', ['fresh', 'previous'])
def test_stage_2_begins_with_the_backbone_of_stage_1(head):
    config = make_config('ce_sc_crw')
    config.stage2.head = head
    stages = make_stages(config)
    models = make_models(config, stages, 3)

    few = SimpleNamespace(name='few', parts={'train': np.arange(64)}, class_names=('a', 'b', 'c'))
    run = Run(config, None, jax.devices()[:1], stages, few, {}, models, Console())
    left = initialize(models['stage1'], 99)
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


def test_two_branches_need_a_backbone_that_has_them():
    config = make_config('bbn')
    config.model.name = 'densenet121'
    with pytest.raises(InputError, match=r'densenet121.*resnet18, resnet50'):
        make_stages(config)


def test_branches_go_on_into_a_second_stage(monkeypatch):
    monkeypatch.setitem(METHODS, 'bbn_crw', Method(bilateral=True, second_stage=CRW_STAGE))
    config = make_config('bbn_crw')
    models = make_models(config, make_stages(config), 3)
    shapes = [initialize(models[name], 0)['params'] for name in ('stage1', 'stage2')]
    assert jax.tree.map(np.shape, shapes[0]) == jax.tree.map(np.shape, shapes[1])
    assert shapes[0]['head']['kernel'].shape == (8, 3)


@pytest.mark.parametrize('method', ['ldam_crw', 'sc_crw'])
def test_a_head_that_stage_1_did_not_train_or_of_another_kind_cannot_be_taken_over(method):
    config = make_config(method)
    config.stage2.head = 'previous'
    message = r'config field stage2\.head is previous'
    with pytest.raises(InputError, match=message):
        make_stages(config)


def test_mixed_images_have_no_metric_loss(monkeypatch):
    monkeypatch.setitem(METHODS, 'mine', Method(metric='center', mixing='mixup'))
    with pytest.raises(InputError, match='method mine mixes images'):
        make_stages(make_config('mine'))


@pytest.mark.parametrize(
    ('row', 'message'),
    [
        (
            Method('hinge'),
            r"classification of method mine is 'hinge'.*cross_entropy",
        ),
        (Method(metric='proxy'), r"metric of method mine is 'proxy'.*center"),
        (Method(sampler='random'), r"sampler of method mine is 'random'.*instance"),
        (Method(weighting='inverse'), r"weighting of method mine is 'inverse'.*uniform"),
        (Method(mixing='mosaic'), r"mixing of method mine is 'mosaic'.*mixup"),
        (
            Method(second_stage=SecondStage(sampler='random')),
            r"second_stage.sampler of method mine is 'random'",
        ),
        (
            Method(second_stage=SecondStage(head='tau')),
            r"second_stage.head of method mine is 'tau'.*tau_normalized",
        ),
        (
            Method('ldam', second_stage=SecondStage(head='tau_normalized')),
            r'second_stage.head of method mine is tau_normalized',
        ),
        (
            Method(None, metric='center', second_stage=SecondStage(head='rescaled')),
            r'second_stage.head of method mine is rescaled',
        ),
        (Method(None), 'method mine has neither'),
        (Method(None, metric='center', weighting='balanced'), 'method mine has weighting'),
        (Method(deferred=True), 'method mine has deferred'),
        (Method(normalize_weights=False), 'method mine has deferred or normalize_weights'),
        (
            Method(second_stage=SecondStage('class_balanced', head='tau_normalized')),
            'method mine has a sampler or weighting for a second stage',
        ),
        (Method(bilateral=True, mixing='mixup'), r'method mine is bilateral'),
        (Method(bilateral=True, sampler='reversed'), r'method mine is bilateral'),
        (Method(None, metric='center', bilateral=True), r'method mine is bilateral'),
    ],
)
def test_a_row_with_a_typing_error_is_refused(row, message, monkeypatch):
    monkeypatch.setitem(METHODS, 'mine', row)
    with pytest.raises(InputError, match=message):
        make_stages(make_config('mine'))


def test_a_mixing_that_cannot_be_names_its_field():
    config = make_config('mixup')
    config.mixing.mixup.alpha = 0.0
    with pytest.raises(InputError, match=r'config field mixing\.mixup: .*alpha'):
        make_stages(config)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('name', 'vgg16', "config group model: unknown model 'vgg16'"),
        ('options.width', 0, 'config group model: width is 0'),
        ('options.stage_sizes', ('two',), r"config group model.options has .*stage_sizes=\('two',"),
        ('dropout', 1.0, 'config group model: dropout is 1.0; it must be 0 or more'),
    ],
)
def test_a_model_that_cannot_be_names_its_group(field, value, message):
    config = make_config('ce')
    config.update_from_flattened_dict({f'model.{field}': value})
    with pytest.raises(InputError, match=message):
        make_models(config, make_stages(config), 3)


@pytest.mark.parametrize(
    ('group', 'fits'),
    [(0, True), (2, True), (4, True), (8, True), (16, True), (3, False), (12, False)],
)
def test_groups_of_batch_norm_are_checked_before_data_are_read(group, fits):
    config = paper_config()
    config.model.batch_norm_group = group
    config.stage1.batch_size = config.stage2.batch_size = 32  # four images on each of 8 devices
    if fits:
        check(config)
    else:
        with pytest.raises(InputError, match=r'model\.batch_norm_group.* stage1 '):
            check(config)
