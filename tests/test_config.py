import importlib.util
from pathlib import Path

import pytest

from metriclt_jax.config import paper_config, validate
from metriclt_jax.errors import InputError
from metriclt_jax.methods import METHODS
from metriclt_jax.training.stages import make_models, make_stages

CONFIGS = sorted((Path(__file__).parents[1] / 'configs').glob('*.py'))


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
    config = load(CONFIGS[-1], None)
    assert CONFIGS[-1].stem == 'skin7'
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


def test_scale_changes_the_config():
    config = load(CONFIGS[-1], 'ce_crw,scale=cpu')
    assert config.method == 'ce_crw'
    assert config.stage1.epochs < 100
    assert config.is_locked


@pytest.mark.parametrize(
    ('argument', 'message'),
    [
        ('cee', r"method 'cee' is unknown; allowed: ce, "),
        ('ce,scale=tpu', r"scale 'tpu' is unknown here; allowed: paper, cpu"),
        ('ce,scale=cpu,scale=paper', r'allowed: METHOD or METHOD,scale=NAME'),
        ('ce,size=cpu', r"'size=cpu' is unknown; allowed: METHOD or METHOD,scale=NAME"),
    ],
)
def test_wrong_arguments(argument, message):
    with pytest.raises(InputError, match=message):
        load(CONFIGS[-1], argument)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('seed', -1, r'seed is -1; allowed: 0 or more'),
        ('weighting.beta', 1.0, r'weighting.beta is 1.0; allowed: 0 or more and below 1'),
        ('metric.triplet.margin', -1.0, r'metric.triplet.margin is -1.0; allowed: 0 or more'),
        ('metric.center.coefficient', -1.0, r'metric.center.coefficient is -1.0; allowed: 0 or'),
        ('metric.supervised_contrastive.projection', (), r'projection is empty; allowed: one'),
        ('stage2.batch_size', 0, r'stage2.batch_size is 0; allowed: 1 or more'),
        ('stage1.epochs', 5, r'stage1.warmup_epochs is 5; allowed: less than stage1.epochs'),
        ('stage1.learning_rate', float('nan'), r'stage1.learning_rate is nan; allowed: 0 or more'),
        ('stage1.momentum', 1.0, r'stage1.momentum is 1.0; allowed: 0 or more and below 1'),
        ('model.dropout', 1.0, r'model.dropout is 1.0; allowed: 0 or more and below 1'),
        ('stage1.decay', 'some', r"stage1.decay is 'some'; allowed: all, kernels"),
        ('classification.ldam.scale', 0.0, r'ldam\.scale is 0.0; allowed: above 0'),
        ('classification.arcface.margin', 4.0, r'arcface\.margin is 4.0; allowed'),
        ('weighting.deferred', 1.5, r'weighting\.deferred is 1.5; allowed'),
        ('stage2.head', 'old', r"stage2.head is 'old'; allowed: fresh, previous"),
        ('metric.triplet.mining', 'hard', r"mining is 'hard'; allowed: batch_hard, batch_all"),
        ('metric.supervised_contrastive.temperature', 0.0, r'temperature is 0.0; allowed: above 0'),
        ('model.dtype', 'float16', r"model.dtype is 'float16'; allowed: float32, bfloat16"),
        ('evaluation.every', 0, r'evaluation.every is 0; allowed: 1 or more'),
    ],
)
def test_values_that_cannot_be(field, value, message):
    config = paper_config()
    config.update_from_flattened_dict({field: value})
    with pytest.raises(InputError, match=message):
        validate(config)
