"""The config: every field, with the paper's recipe as its default.

The files in `configs/` start from `paper_config` and override what differs for their data set.
Where the paper is silent, the default is explained in docs/fidelity.md.
"""

import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from metriclt_jax.errors import InputError
from metriclt_jax.methods import get_method
from metriclt_jax.quoting import NAME_FIELDS

# Fields that cannot change what a run computes.
FIELDS_WITHOUT_INFLUENCE = ('data.data_dir', 'figures', 'checkpoint_every')


def paper_config() -> ConfigDict:
    """The paper's recipe (section 3.1), with Skin7's batch size."""
    config = ConfigDict()
    config.method = 'ce_sc_crw'  # a row of metriclt_jax.methods.METHODS
    config.seed = 0  # initial parameters, order of the images, augmentation
    config.num_devices = 0  # data-parallel devices; 0 takes all

    config.data = data_fields()

    config.augment = augment = ConfigDict()
    augment.crop = 224  # side of the images that the model sees
    augment.rotation = 30.0  # degrees; the angle is uniform in [-rotation, rotation]
    augment.flip = 0.5  # probability of a horizontal flip
    augment.fill = (0, 0, 0)  # colour (0 to 255) of what rotation brings in from outside
    augment.interpolation = 'bilinear'  # or 'nearest'
    augment.mean = (0.485, 0.456, 0.406)  # ImageNet
    augment.std = (0.229, 0.224, 0.225)

    config.model = model = ConfigDict()
    model.name = 'resnet50'  # or 'resnet18', 'densenet121', 'mobilenet_v2'
    model.pretrained = ''  # .pth, .safetensors or imported directory; '': random parameters
    model.dtype = 'float32'  # of the computation; parameters and losses are always float32
    model.cross_device_batch_norm = True  # statistics of the global batch
    model.batch_norm_group = 0  # neighbouring images that share statistics; 0: all
    model.dropout = placeholder(float)  # of the head's input; None: 0.2 in mobilenet_v2, else 0
    model.options = options = ConfigDict()  # of the backbone; None is its default
    options.remat = placeholder(bool)  # compute blocks again in the backward pass: less memory
    options.stage_sizes = placeholder(tuple)  # ResNets: blocks in each stage
    options.width = placeholder(int)  # ResNets, DenseNet: channels of the first stage, of the stem
    options.stem = placeholder(str)  # ResNets: 'imagenet' (7x7, pooling) or 'small' (3x3)
    options.block_sizes = placeholder(tuple)  # DenseNet: layers in each block
    options.growth_rate = placeholder(int)  # DenseNet: channels that a layer adds
    options.width_multiplier = placeholder(float)  # MobileNetV2: of all channels
    options.stages = placeholder(tuple)  # MobileNetV2: (expansion, channels, blocks, stride) each

    config.classification = classification = ConfigDict()
    classification.focal = ConfigDict({'gamma': 2.0})
    classification.ldam = ConfigDict({'max_margin': 0.5, 'scale': 30.0})
    classification.logit_adjusted = ConfigDict({'tau': 1.0})
    classification.cosface = ConfigDict({'margin': 0.35, 'scale': 30.0})
    classification.arcface = ConfigDict({'margin': 0.5, 'scale': 30.0})

    config.mixing = mixing = ConfigDict()  # of stage 1, for the methods that mix
    for name in ('mixup', 'cutmix', 'remix', 'balanced_mixup'):
        mixing[name] = ConfigDict()
        mixing[name].alpha = 1.0  # of the Beta distribution, as in the original papers
        mixing[name].probability = 1.0  # of mixing a batch
    mixing.balanced_mixup.alpha = 0.2  # the paper has 0.1 to 0.3

    config.metric = metric = ConfigDict()
    metric.center = ConfigDict()
    metric.center.coefficient = 0.001  # of the loss, beside cross-entropy
    metric.center.update_rule = 'sgd'  # or 'original': Wen et al. 2016, equation 4
    metric.center.learning_rate = 0.005  # of the centres' own SGD
    metric.center.momentum = 0.9
    metric.center.alpha = 0.5  # of the original update
    metric.triplet = ConfigDict()
    metric.triplet.coefficient = 0.001
    metric.triplet.margin = 50.0  # in units of the distance between raw features
    metric.triplet.mining = 'batch_hard'  # or 'batch_all'
    metric.triplet.squared = False  # squared distances
    metric.supervised_contrastive = ConfigDict()
    metric.supervised_contrastive.coefficient = 1.0
    metric.supervised_contrastive.temperature = 0.05
    metric.supervised_contrastive.projection = (512, 512, 128)  # widths of the MLP

    metric.balanced_contrastive = ConfigDict()
    metric.balanced_contrastive.coefficient = 1.0
    metric.balanced_contrastive.temperature = 0.1
    metric.balanced_contrastive.projection = (512, 512, 128)
    metric.balanced_contrastive.learning_rate = 0.1  # of the prototypes' own optimizer
    metric.balanced_contrastive.momentum = 0.9

    config.weighting = weighting = ConfigDict()
    weighting.balanced = 'inverse_frequency'  # or 'effective_number'
    weighting.beta = 0.9999  # of the effective number
    weighting.deferred = 0.8  # share of stage 1 before deferred weights set in

    config.stage1 = stage1 = ConfigDict()
    stage1.epochs = 100  # length of the stage
    stage1.batch_size = 32  # over all devices
    stage1.learning_rate = 0.001  # after the warm-up
    stage1.final_learning_rate = 1e-6  # the cosine ends here
    stage1.warmup_epochs = 5
    stage1.learning_rate_per = 'step'  # or 'epoch': constant within an epoch
    stage1.momentum = 0.9
    stage1.nesterov = False
    stage1.weight_decay = 5e-4  # coupled L2
    stage1.decay = 'all'  # which parameters decay: 'all' or 'kernels' (no BatchNorm, no biases)

    config.stage2 = stage2 = stage1.copy_and_resolve_references()
    stage2.epochs = 10
    stage2.learning_rate = 0.1
    stage2.warmup_epochs = 0
    stage2.head = 'fresh'  # or 'previous': go on from stage 1's head
    stage2.batch_statistics = 'frozen'  # or 'drift': BatchNorm goes on learning statistics

    config.second_heads = heads = ConfigDict()  # of stage 2, where computed
    heads.tau_normalized = ConfigDict({'tau': 1.0})  # power of the norms
    heads.adjusted_post_hoc = ConfigDict({'tau': 1.0})  # factor of the log priors
    heads.nearest_class_mean = ConfigDict({'scale': 30.0})  # of the cosines

    config.evaluation = evaluation = ConfigDict()
    evaluation.batch_size = 128
    evaluation.every = 1  # epochs between two evaluations on the validation part

    config.checkpoint_every = 1  # epochs between two checkpoints
    config.figures = True  # let train.py draw figures at the end
    return config


def data_fields() -> ConfigDict:
    """The fields that say which images are in which part, split as the paper's Skin7."""
    data = ConfigDict()
    data.name = 'skin7'  # or any other prepared data set
    data.data_dir = '~/metriclt_data'  # prepared data sets and their caches
    data.classes = ()  # names of the classes to keep, in this order; () keeps all
    data.multiple_of = 1  # drops random images of a class until this number divides its size
    data.split = 'paper'  # by image; 'grouped': no lesion in two parts; 'official'; or 'auto'
    data.fractions = (0.75, 0.05, 0.2)  # train, validation, test; of 'paper' and 'grouped'
    data.train_parts = ('train',)  # which parts of the source form the training part of 'official'
    data.validation_parts = ('validation',)  # () for none
    data.test_parts = ('test',)
    data.divided_parts = ()  # which parts of the source 'paper' and 'grouped' divide; () for all
    data.split_seed = 0  # the same split for all seeds of a run
    data.folds = 0  # number of folds of a cross-validation; 0 for none
    data.fold = 0  # the one to test on, from 0; the others are divided as fractions say
    data.imbalance_ratio = 0.0  # n_max / n_min of a long-tailed subset; 0 keeps every image
    data.long_tail_order = 'index'  # 'size', or all names from head to tail: 'nevus,mole,wart'
    data.long_tail_max = 'smallest'  # n_max: the size of the smallest class, or of the 'first'
    data.long_tail_rounding = 'nearest'  # or 'down'
    data.groups = 'counts'  # for MCR: 'counts' (major and minor) or 'thirds' (medium, too)
    data.major = 3  # the most frequent classes in MCR major, for 'counts'
    data.minor = 3  # the least frequent classes in MCR minor, for 'counts'
    data.resize = 300  # images are resized to a square of this side once, and cached
    return data


def cpu_scale(config: ConfigDict) -> None:
    """Half the width of ResNet18, 56 px, a few epochs from scratch: minutes on two CPU cores."""
    config.data.resize = 64
    config.augment.crop = 56
    config.model.name = 'resnet18'
    config.model.options.width = 32
    config.stage1.epochs = 12
    config.stage1.warmup_epochs = 1
    config.stage1.learning_rate = 0.05
    config.stage2.epochs = 5


def apply_argument(
    config: ConfigDict, argument: str | None, scales: Mapping[str, Callable[[ConfigDict], None]]
) -> ConfigDict:
    """Finishes and locks a config by the text after the colon of `FILE:METHOD[,scale=NAME]`.

    Args:
        config: the file's config at the paper's scale.
        argument: `METHOD[,scale=NAME]`, or None for the file's own default method.
        scales: for each NAME a function that changes the config in place.
    """
    method, *words = (argument or config.method).split(',')
    get_method(method)
    config.method = method
    scales = {'paper': lambda config: None, **scales}
    for word in words:
        key, _, value = word.partition('=')
        if key != 'scale' or len(words) > 1:
            raise InputError(f'config argument {word!r} is unknown; use METHOD[,scale=NAME]')
        if value not in scales:
            raise InputError(f'scale {value!r} is unknown here; use one of {", ".join(scales)}')
        scales[value](config)
    return config.lock()


class _Rule(NamedTuple):
    """What a field must be: a predicate and its words."""

    holds: Callable[[Any], bool]
    text: str


def _one_of(*values: str) -> _Rule:
    return _Rule(lambda value: value in values, f'one of {", ".join(values)}')


def _at_least(low: float) -> _Rule:
    return _Rule(lambda value: low <= value < math.inf, f'{low} or more')


_POSITIVE = _Rule(lambda value: 0 < value < math.inf, 'above 0')
_FRACTION = _Rule(lambda value: 0 <= value < 1, '0 or more and below 1')
_NOT_EMPTY = _Rule(lambda value: len(value) > 0, 'not empty')
_NAMES = _Rule(
    lambda value: all(isinstance(name, str) for name in value),
    "names in quotes, such as ('7', '8')",
)

# The fields of each rule.
_DATA_RULES = {
    _NAMES: ' '.join(NAME_FIELDS),
    _one_of('auto', 'paper', 'grouped', 'official'): 'data.split',
    _one_of('smallest', 'first'): 'data.long_tail_max',
    _one_of('nearest', 'down'): 'data.long_tail_rounding',
    _one_of('counts', 'thirds'): 'data.groups',
    _at_least(0): 'data.split_seed data.fold data.imbalance_ratio',
    _at_least(1): 'data.multiple_of data.major data.minor data.resize',
    _Rule(lambda value: value == 0 or value > 1, '0 or above 1'): 'data.folds',
}
_OFFICIAL_RULES = {_NOT_EMPTY: 'data.train_parts data.test_parts'}
_STAGE_RULES = {
    _at_least(0): 'learning_rate final_learning_rate warmup_epochs weight_decay',
    _at_least(1): 'epochs batch_size',
    _FRACTION: 'momentum',
    _one_of('step', 'epoch'): 'learning_rate_per',
    _one_of('all', 'kernels'): 'decay',
}
_RULES = {
    _at_least(0): """
        seed model.batch_norm_group classification.focal.gamma classification.ldam.max_margin
        classification.logit_adjusted.tau classification.cosface.margin metric.center.coefficient
        metric.center.learning_rate metric.triplet.coefficient metric.triplet.margin
        metric.supervised_contrastive.coefficient metric.balanced_contrastive.coefficient
        metric.balanced_contrastive.learning_rate second_heads.tau_normalized.tau
        second_heads.adjusted_post_hoc.tau""",
    _at_least(1): 'evaluation.batch_size evaluation.every checkpoint_every',
    _POSITIVE: """
        classification.ldam.scale classification.cosface.scale classification.arcface.scale
        metric.supervised_contrastive.temperature metric.balanced_contrastive.temperature
        second_heads.nearest_class_mean.scale""",
    _FRACTION: """
        metric.center.alpha metric.center.momentum metric.balanced_contrastive.momentum
        weighting.beta weighting.deferred""",
    _NOT_EMPTY: 'metric.supervised_contrastive.projection metric.balanced_contrastive.projection',
    _Rule(lambda value: value is None or 0 <= value < 1, _FRACTION.text): 'model.dropout',
    _Rule(lambda value: 0 <= value < math.pi, '0 to below pi'): 'classification.arcface.margin',
    _one_of('float32', 'bfloat16'): 'model.dtype',
    _one_of('sgd', 'original'): 'metric.center.update_rule',
    _one_of('batch_hard', 'batch_all'): 'metric.triplet.mining',
    _one_of('inverse_frequency', 'effective_number'): 'weighting.balanced',
    _one_of('fresh', 'previous'): 'stage2.head',
    _one_of('frozen', 'drift'): 'stage2.batch_statistics',
}


def validate(config: ConfigDict) -> None:
    """Checks all that can be checked before data is read; raises `InputError` on the first fault.

    `AugmentConfig`, `Mixing` and `create_model` check their own fields.
    """
    method = get_method(config.method)
    validate_data(config.data)
    _check(config, _RULES)
    for name in ('stage1', 'stage2')[: 1 if method.second_stage is None else 2]:
        stage = config[name]
        _check(stage, _STAGE_RULES, f'{name}.')
        if stage.warmup_epochs >= stage.epochs:
            raise InputError(
                f'config field {name}.warmup_epochs is {stage.warmup_epochs}; it must be less than '
                f'{name}.epochs, which is {stage.epochs}'
            )


def validate_data(data: ConfigDict) -> None:
    """Checks the fields of `data_fields` as `validate` does."""
    _check({'data': data}, _DATA_RULES)
    if data.split in ('auto', 'official'):
        _check({'data': data}, _OFFICIAL_RULES)
    if data.folds and data.split == 'official':
        raise InputError('data.folds divides the images itself; set data.split to paper or grouped')
    if data.fold >= (data.folds or 1):
        raise InputError(
            f'config field data.fold is {data.fold}; it must be below data.folds ({data.folds})'
        )


def _check(config: Mapping[str, Any], rules: Mapping[_Rule, str], prefix: str = '') -> None:
    for rule, fields in rules.items():
        for field in fields.split():
            value = functools.reduce(operator.getitem, field.split('.'), config)
            if not rule.holds(value):
                name = prefix + field
                raise InputError(f'config field {name} is {value!r}; it must be {rule.text}')
