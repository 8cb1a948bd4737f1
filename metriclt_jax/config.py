"""The config: every field, with the paper's recipe as its default.

The files in `configs/` start from `paper_config` and override what differs for their data set.
Where the paper is silent, the default is explained in docs/fidelity.md.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import ml_collections
from ml_collections.config_dict import placeholder

from metriclt_jax.errors import InputError
from metriclt_jax.methods import get_method
from metriclt_jax.quoting import NAME_FIELDS

# Fields that cannot change what a run computes.
FIELDS_WITHOUT_INFLUENCE = ('data.data_dir', 'figures', 'checkpoint_every')

# Beta(1, 1) as in the original papers; Balanced-MixUp's are 0.1 to 0.3.
MIXING_ALPHAS = {'mixup': 1.0, 'cutmix': 1.0, 'remix': 1.0, 'balanced_mixup': 0.2}


def paper_config() -> ml_collections.ConfigDict:
    """The paper's recipe (section 3.1), with Skin7's batch size."""
    config = ml_collections.ConfigDict()
    config.method = 'ce_sc_crw'  # a row of metriclt_jax.methods.METHODS
    config.seed = 0  # initial parameters, order of the images, augmentation
    config.num_devices = 0  # data-parallel devices; 0 takes all

    config.data = data_fields()

    config.augment = augment = ml_collections.ConfigDict()
    augment.crop = 224  # side of the images that the model sees
    augment.rotation = 30.0  # degrees; the angle is uniform in [-rotation, rotation]
    augment.flip = 0.5  # probability of a horizontal flip
    augment.fill = (0, 0, 0)  # colour (0 to 255) of what rotation brings in from outside
    augment.interpolation = 'bilinear'  # or 'nearest'
    augment.mean = (0.485, 0.456, 0.406)  # ImageNet
    augment.std = (0.229, 0.224, 0.225)

    config.model = model = ml_collections.ConfigDict()
    model.name = 'resnet50'  # or 'resnet18', 'densenet121', 'mobilenet_v2'
    model.pretrained = ''  # .pth, .safetensors or imported directory; '': random parameters
    model.dtype = 'float32'  # of the computation; parameters and losses are always float32
    model.cross_device_batch_norm = True  # statistics of the global batch
    model.batch_norm_group = 0  # neighbouring images that share statistics; 0: all
    model.dropout = placeholder(float)  # of the head's input; None: 0.2 in mobilenet_v2, else 0
    model.options = options = ml_collections.ConfigDict()  # of the backbone; None is its default
    options.remat = placeholder(bool)  # compute blocks again in the backward pass: less memory
    options.stage_sizes = placeholder(tuple)  # ResNets: blocks in each stage
    options.width = placeholder(int)  # ResNets, DenseNet: channels of the first stage, of the stem
    options.stem = placeholder(str)  # ResNets: 'imagenet' (7x7, pooling) or 'small' (3x3)
    options.block_sizes = placeholder(tuple)  # DenseNet: layers in each block
    options.growth_rate = placeholder(int)  # DenseNet: channels that a layer adds
    options.width_multiplier = placeholder(float)  # MobileNetV2: of all channels
    options.stages = placeholder(tuple)  # MobileNetV2: (expansion, channels, blocks, stride) each

    config.classification = classification = ml_collections.ConfigDict()
    classification.focal = ml_collections.ConfigDict({'gamma': 2.0})
    classification.ldam = ml_collections.ConfigDict({'max_margin': 0.5, 'scale': 30.0})
    classification.logit_adjusted = ml_collections.ConfigDict({'tau': 1.0})
    classification.cosface = ml_collections.ConfigDict({'margin': 0.35, 'scale': 30.0})
    classification.arcface = ml_collections.ConfigDict({'margin': 0.5, 'scale': 30.0})

    config.mixing = mixing = ml_collections.ConfigDict()  # of stage 1, for the methods that mix
    for name, alpha in MIXING_ALPHAS.items():
        mixing[name] = ml_collections.ConfigDict()
        mixing[name].alpha = alpha  # of the Beta distribution
        mixing[name].probability = 1.0  # of mixing a batch

    config.metric = metric = ml_collections.ConfigDict()
    metric.center = ml_collections.ConfigDict()
    metric.center.coefficient = 0.001  # of the loss, beside cross-entropy
    metric.center.update_rule = 'sgd'  # or 'original': Wen et al. 2016, equation 4
    metric.center.learning_rate = 0.005  # of the centres' own SGD
    metric.center.momentum = 0.9
    metric.center.alpha = 0.5  # of the original update
    metric.triplet = ml_collections.ConfigDict()
    metric.triplet.coefficient = 0.001
    metric.triplet.margin = 50.0  # in units of the distance between raw features
    metric.triplet.mining = 'batch_hard'  # or 'batch_all'
    metric.triplet.squared = False  # squared distances
    metric.supervised_contrastive = ml_collections.ConfigDict()
    metric.supervised_contrastive.coefficient = 1.0
    metric.supervised_contrastive.temperature = 0.05
    metric.supervised_contrastive.projection = (512, 512, 128)  # widths of the MLP

    metric.balanced_contrastive = ml_collections.ConfigDict()
    metric.balanced_contrastive.coefficient = 1.0
    metric.balanced_contrastive.temperature = 0.1
    metric.balanced_contrastive.projection = (512, 512, 128)
    metric.balanced_contrastive.learning_rate = 0.1  # of the prototypes' own optimizer
    metric.balanced_contrastive.momentum = 0.9

    config.weighting = weighting = ml_collections.ConfigDict()
    weighting.balanced = 'inverse_frequency'  # or 'effective_number'
    weighting.beta = 0.9999  # of the effective number
    weighting.deferred = 0.8  # share of stage 1 before deferred weights set in

    config.stage1 = stage1 = ml_collections.ConfigDict()
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

    config.second_heads = heads = ml_collections.ConfigDict()  # of stage 2, where computed
    heads.tau_normalized = ml_collections.ConfigDict({'tau': 1.0})  # power of the norms
    heads.adjusted_post_hoc = ml_collections.ConfigDict({'tau': 1.0})  # factor of the log priors
    heads.nearest_class_mean = ml_collections.ConfigDict({'scale': 30.0})  # of the cosines

    config.evaluation = evaluation = ml_collections.ConfigDict()
    evaluation.batch_size = 128
    evaluation.every = 1  # epochs between two evaluations on the validation part

    config.checkpoint_every = 1  # epochs between two checkpoints
    config.figures = True  # let train.py draw figures at the end
    return config


def data_fields() -> ml_collections.ConfigDict:
    """The fields that say which images are in which part, split as the paper's Skin7."""
    data = ml_collections.ConfigDict()
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


def cpu_scale(config: ml_collections.ConfigDict) -> None:
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
    config: ml_collections.ConfigDict,
    argument: str | None,
    scales: Mapping[str, Callable[[ml_collections.ConfigDict], None]],
) -> ml_collections.ConfigDict:
    """Finishes a config from the text after the colon of `--config=FILE:METHOD[,scale=NAME]`.

    Args:
        config: the file's config at the paper's scale.
        argument: `METHOD[,scale=NAME]`, or None for the file's own default method.
        scales: for each NAME a function that changes the config in place.

    Returns:
        The same config, locked.

    Raises:
        InputError: unknown method, scale or word.
    """
    method, *words = (argument or config.method).split(',')
    get_method(method)
    config.method = method
    for word in words:
        key, _, value = word.partition('=')
        if key != 'scale' or len(words) > 1:
            raise InputError(f'config argument {word!r} is unknown; use METHOD[,scale=NAME]')
        if value != 'paper':
            if value not in scales:
                known = ', '.join(['paper', *scales])
                raise InputError(f'scale {value!r} is unknown here; use one of {known}')
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

_DATA_RULES = {
    **dict.fromkeys(NAME_FIELDS, _NAMES),
    'data.split': _one_of('auto', 'paper', 'grouped', 'official'),
    'data.long_tail_max': _one_of('smallest', 'first'),
    'data.long_tail_rounding': _one_of('nearest', 'down'),
    'data.groups': _one_of('counts', 'thirds'),
    'data.multiple_of': _at_least(1),
    'data.major': _at_least(1),
    'data.minor': _at_least(1),
    'data.resize': _at_least(1),
    'data.split_seed': _at_least(0),
    'data.folds': _Rule(lambda value: value == 0 or value > 1, '0 or above 1'),
    'data.fold': _at_least(0),
    'data.imbalance_ratio': _at_least(0),
}
_OFFICIAL_RULES = {'data.train_parts': _NOT_EMPTY, 'data.test_parts': _NOT_EMPTY}
_STAGE_RULES = {
    'epochs': _at_least(1),
    'batch_size': _at_least(1),
    'learning_rate': _at_least(0),
    'final_learning_rate': _at_least(0),
    'warmup_epochs': _at_least(0),
    'learning_rate_per': _one_of('step', 'epoch'),
    'momentum': _FRACTION,
    'weight_decay': _at_least(0),
    'decay': _one_of('all', 'kernels'),
}
_RULES = {
    'seed': _at_least(0),
    'model.dtype': _one_of('float32', 'bfloat16'),
    'model.batch_norm_group': _at_least(0),
    'model.dropout': _Rule(lambda value: value is None or 0 <= value < 1, _FRACTION.text),
    'classification.focal.gamma': _at_least(0),
    'classification.ldam.max_margin': _at_least(0),
    'classification.ldam.scale': _POSITIVE,
    'classification.logit_adjusted.tau': _at_least(0),
    'classification.cosface.margin': _at_least(0),
    'classification.cosface.scale': _POSITIVE,
    'classification.arcface.margin': _Rule(lambda value: 0 <= value < math.pi, '0 to below pi'),
    'classification.arcface.scale': _POSITIVE,
    'metric.center.coefficient': _at_least(0),
    'metric.center.update_rule': _one_of('sgd', 'original'),
    'metric.center.alpha': _FRACTION,
    'metric.center.learning_rate': _at_least(0),
    'metric.center.momentum': _FRACTION,
    'metric.triplet.coefficient': _at_least(0),
    'metric.triplet.margin': _at_least(0),
    'metric.triplet.mining': _one_of('batch_hard', 'batch_all'),
    'metric.supervised_contrastive.coefficient': _at_least(0),
    'metric.supervised_contrastive.temperature': _POSITIVE,
    'metric.supervised_contrastive.projection': _NOT_EMPTY,
    'metric.balanced_contrastive.coefficient': _at_least(0),
    'metric.balanced_contrastive.temperature': _POSITIVE,
    'metric.balanced_contrastive.projection': _NOT_EMPTY,
    'metric.balanced_contrastive.learning_rate': _at_least(0),
    'metric.balanced_contrastive.momentum': _FRACTION,
    'weighting.balanced': _one_of('inverse_frequency', 'effective_number'),
    'weighting.beta': _FRACTION,
    'weighting.deferred': _FRACTION,
    'stage2.head': _one_of('fresh', 'previous'),
    'stage2.batch_statistics': _one_of('frozen', 'drift'),
    'second_heads.tau_normalized.tau': _at_least(0),
    'second_heads.adjusted_post_hoc.tau': _at_least(0),
    'second_heads.nearest_class_mean.scale': _POSITIVE,
    'evaluation.batch_size': _at_least(1),
    'evaluation.every': _at_least(1),
    'checkpoint_every': _at_least(1),
}


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks all that can be checked before data is read; raises `InputError` on the first fault.

    `AugmentConfig`, `Mixing` and `create_model` check their own fields.
    """
    method = get_method(config.method)
    validate_data(config.data)
    _check(config, _RULES.items())
    for name in ('stage1', 'stage2')[: 1 if method.second_stage is None else 2]:
        _check(config, ((f'{name}.{field}', rule) for field, rule in _STAGE_RULES.items()))
        stage = config[name]
        if stage.warmup_epochs >= stage.epochs:
            raise InputError(
                f'config field {name}.warmup_epochs is {stage.warmup_epochs}; it must be less than '
                f'{name}.epochs, which is {stage.epochs}'
            )


def validate_data(data: ml_collections.ConfigDict) -> None:
    """Checks the fields of `data_fields` as `validate` does."""
    _check({'data': data}, _DATA_RULES.items())
    if data.split in ('auto', 'official'):
        _check({'data': data}, _OFFICIAL_RULES.items())
    if data.folds and data.split == 'official':
        raise InputError(
            'config field data.folds divides the images itself; set data.split to paper (by image) '
            'or grouped, not official'
        )
    if data.fold >= (data.folds or 1):
        raise InputError(
            f'config field data.fold is {data.fold}; it must be below data.folds, which is '
            f'{data.folds}'
        )


def _check(config: Mapping[str, Any], rules: Iterable[tuple[str, _Rule]]) -> None:
    for field, rule in rules:
        value = config
        for name in field.split('.'):
            value = value[name]
        if not rule.holds(value):
            raise InputError(f'config field {field} is {value!r}; it must be {rule.text}')
