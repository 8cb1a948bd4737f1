import importlib.util
from pathlib import Path

import pytest

from metriclt_jax.config import paper_config, validate
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS
from metriclt_jax.training.stages import make_models, make_stages

FOLDER = Path(__file__).parents[1] / 'configs'
CONFIGS = sorted(FOLDER.glob('*.py'))
SKIN7 = FOLDER / 'skin7.py'


def load(path, argument):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(argument)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize('method', METHODS)
def test_every_method_of_every_config_makes_valid_stages(path, method):
    config = load(path, method)
    validate(config)
    stages = make_stages(config)
    assert len(stages) == (1 if METHODS[method].second_stage is None else 2)
    make_models(config, stages, 7)


def test_the_recipe_of_the_paper():
    """Section 3.1, number by number."""
    config = load(SKIN7, None)
    assert config.model.name == 'resnet50'
    assert (config.data.resize, config.augment.crop) == (300, 224)
    assert (config.augment.rotation, config.augment.flip) == (30, 0.5)
    assert config.data.fractions == (0.75, 0.05, 0.2)
    assert (config.data.major, config.data.minor) == (3, 2)
    one, two = config.stage1, config.stage2
    assert (one.epochs, one.batch_size, one.warmup_epochs) == (100, 32, 5)
    assert (one.learning_rate, one.final_learning_rate) == (1e-3, 1e-6)
    assert (one.momentum, one.weight_decay, one.nesterov) == (0.9, 5e-4, False)
    assert (two.epochs, two.warmup_epochs) == (10, 0)
    assert (two.learning_rate, two.final_learning_rate) == (0.1, 1e-6)
    metric = config.metric
    assert metric.center.coefficient == metric.triplet.coefficient == 0.001
    assert metric.triplet.margin == 50
    assert metric.supervised_contrastive.coefficient == 1.0
    assert metric.supervised_contrastive.temperature == 0.05
    assert len(metric.supervised_contrastive.projection) == 3


@pytest.mark.parametrize(
    ('name', 'batch_size', 'epochs', 'learning_rate', 'groups'),
    [
        ('skin7', 32, 100, 0.001, (3, 2)),
        ('xray9', 64, 100, 0.001, (3, 3)),
        ('pathmnist_lt', 64, 100, 0.001, (3, 3)),
        ('flower_lt', 32, 200, 0.01, 'thirds'),
        ('dogs_lt', 32, 200, 0.05, 'thirds'),
    ],
)
def test_what_differs_between_the_data_sets_of_the_paper(
    name, batch_size, epochs, learning_rate, groups
):
    config = load(FOLDER / f'{name}.py', None)
    assert config.data.name == name
    assert config.stage1.batch_size == config.stage2.batch_size == batch_size
    assert (config.stage1.epochs, config.stage2.epochs) == (epochs, 10)
    assert config.stage1.learning_rate == learning_rate
    assert config.data.groups == ('thirds' if groups == 'thirds' else 'counts')
    if groups != 'thirds':
        assert (config.data.major, config.data.minor) == groups
    assert (config.model.name, config.model.pretrained) == ('resnet50', '')


@pytest.mark.parametrize(
    ('argument', 'name', 'groups'),
    [
        ('ce', 'dermamnist', (3, 3)),
        ('ce,set=bloodmnist', 'bloodmnist', (3, 3)),
        ('ce,set=breastmnist,scale=cpu', 'breastmnist', (1, 1)),
        ('ce,scale=cpu,set=octmnist', 'octmnist', (1, 1)),
    ],
)
def test_the_sets_of_one_config_have_groups_that_fit_their_classes(argument, name, groups):
    config = load(FOLDER / 'medmnist.py', argument)
    assert (config.method, config.data.name, config.data.split) == ('ce', name, 'official')
    assert (config.data.major, config.data.minor) == groups
    assert config.augment.crop == (28 if 'scale=cpu' in argument else 224)


@pytest.mark.parametrize('argument', ['ce,set=chestmnist', 'ce,set=octmnist,set=bloodmnist'])
def test_sets_that_one_config_does_not_have(argument):
    with pytest.raises(InputError, match='set=dermamnist, set=bloodmnist, '):
        load(FOLDER / 'medmnist.py', argument)


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_a_config_file_opens_with_its_commands_and_what_to_expect(path):
    documentation = ' '.join(path.read_text().split('"""')[1].split())
    name = 'folder' if path.stem == 'folder' else load(path, None).data.name
    assert f'train.py --config=configs/{path.name}:' in documentation
    assert name == 'digits_lt' or f'prepare_data.py --dataset={name} ' in documentation
    assert 'xpect' in documentation or 'Not measured' in documentation


@pytest.mark.parametrize(
    'path', [path for path in CONFIGS if path.stem != 'digits_lt'], ids=lambda path: path.stem
)
def test_scale_changes_the_config(path):
    config = load(path, 'ce_crw,scale=cpu')
    assert config.method == 'ce_crw'
    assert config.stage1.epochs < 100
    assert config.data.resize < 100
    assert config.is_locked
    validate(config)
    make_models(config, make_stages(config), 7)


def test_fields_that_old_runs_do_not_have_keep_their_meaning():
    """A run of an earlier version goes on: the fields that came later have today's values."""
    later = (
        'classes',
        'multiple_of',
        'train_parts',
        'validation_parts',
        'test_parts',
        'long_tail_order',
        'long_tail_max',
        'long_tail_rounding',
        'groups',
    )
    for name in ('digits_lt', 'skin7'):
        data = load(FOLDER / f'{name}.py', None).data
        assert {field: data[field] for field in later} == {
            'classes': (),
            'multiple_of': 1,
            'train_parts': ('train',),
            'validation_parts': ('validation',),
            'test_parts': ('test',),
            'long_tail_order': 'index',
            'long_tail_max': 'smallest',
            'long_tail_rounding': 'nearest',
            'groups': 'counts',
        }
        assert all(paper_config().data[field] == data[field] for field in later)


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('cee', r"method 'cee' is unknown"),
        ('ce,scale=tpu', r"scale 'tpu' is unknown here"),
        ('ce,scale=cpu,scale=paper', r'METHOD\[,scale=NAME\]'),
        ('ce,size=cpu', r"'size=cpu' is unknown"),
    ],
)
def test_wrong_arguments(argument, message):
    with pytest.raises(InputError, match=message):
        load(SKIN7, argument)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('seed', -1, r'seed is -1'),
        ('data.split', 'random', r"split is 'random'"),
        ('data.split_seed', -1, r'data.split_seed is -1'),
        ('data.multiple_of', 0, r'data.multiple_of is 0'),
        ('data.imbalance_ratio', -2.0, r'data.imbalance_ratio is -2.0'),
        ('data.long_tail_max', 'last', r"long_tail_max is 'last'"),
        ('data.long_tail_rounding', 'up', r"rounding is 'up'"),
        ('data.groups', 'halves', r"data.groups is 'halves'"),
        ('data.minor', 0, r'data.minor is 0'),
        ('weighting.beta', 1.0, r'weighting.beta is 1.0'),
        ('metric.triplet.margin', -1.0, r'metric.triplet.margin is -1.0'),
        ('metric.center.coefficient', -1.0, r'metric.center.coefficient is -1.0'),
        (
            'metric.supervised_contrastive.projection',
            (),
            r'projection is \(\); it must be not empty',
        ),
        ('stage2.batch_size', 0, r'stage2.batch_size is 0'),
        ('stage1.epochs', 5, r'stage1.warmup_epochs is 5'),
        ('stage1.learning_rate', float('nan'), r'stage1.learning_rate is nan'),
        ('stage1.momentum', 1.0, r'stage1.momentum is 1.0'),
        ('model.dropout', 1.0, r'model.dropout is 1.0'),
        ('stage1.decay', 'some', r"stage1.decay is 'some'"),
        ('classification.ldam.scale', 0.0, r'ldam\.scale is 0.0'),
        ('classification.arcface.margin', 4.0, r'arcface\.margin is 4.0'),
        ('weighting.deferred', 1.5, r'weighting\.deferred is 1.5'),
        ('stage2.head', 'old', r"stage2.head is 'old'"),
        ('metric.triplet.mining', 'hard', r"mining is 'hard'"),
        ('metric.supervised_contrastive.temperature', 0.0, r'temperature is 0.0'),
        ('model.dtype', 'float16', r"model.dtype is 'float16'"),
        ('evaluation.every', 0, r'evaluation.every is 0'),
    ],
)
def test_values_that_cannot_be(field, value, message):
    config = paper_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        validate(config)


@pytest.mark.parametrize('field', ['train_parts', 'test_parts'])
def test_the_official_split_needs_parts(field):
    config = paper_config()
    config.data[field] = ()
    validate(config)
    config.data.split = 'official'
    with pytest.raises(InputError, match=rf'data\.{field} is'):
        validate(config)
