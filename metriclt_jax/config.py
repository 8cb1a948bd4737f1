"""The config: every field, with the paper's recipe as its default.

The files in `configs/` start from `paper_config` and override what differs for their data set.
Where the paper is silent, the default is explained in the README's fidelity table.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import ml_collections
from ml_collections.config_dict import placeholder

from metriclt_jax.errors import InputError
from metriclt_jax.methods import get_method

# Fields that cannot change a run's numbers.
FIELDS_WITHOUT_INFLUENCE = ('checkpoint_every', 'data.data_dir', 'figures')

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
    metric.center.learning_rate = 0.005  # of the centres' own optimizer
    metric.center.momentum = 0.9
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
    config.figures = True  # draw figures at the end
    return config


def data_fields() -> ml_collections.ConfigDict:
    """The fields that say which images are in which part, split as the paper's Skin7."""
    data = ml_collections.ConfigDict()
    data.name = 'skin7'  # or any other prepared data set
    data.data_dir = '~/metriclt_data'  # prepared data sets and their caches
    data.classes = ()  # names of the classes to keep, in this order; () keeps all
    data.multiple_of = 1  # drops random images of a class until this number divides its size
    data.split = 'paper'  # 'paper' (by image), 'grouped' (no lesion in two parts) or 'official'
    data.fractions = (0.75, 0.05, 0.2)  # train, validation, test; of 'paper' and 'grouped'
    data.train_parts = ('train',)  # which parts of the source form the training part of 'official'
    data.validation_parts = ('validation',)  # () for none
    data.test_parts = ('test',)
    data.split_seed = 0  # the same split for all seeds of a run
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
            raise InputError(
                f'config argument {word!r} is unknown; allowed: METHOD or METHOD,scale=NAME'
            )
        if value != 'paper':
            if value not in scales:
                allowed = ', '.join(['paper', *scales])
                raise InputError(f'scale {value!r} is unknown here; allowed: {allowed}')
            scales[value](config)
    return config.lock()


def stage_configs(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The stages' own parts of the config by name, for the stages that the method has."""
    stages = {'stage1': config.stage1}
    if get_method(config.method).second_stage is not None:
        stages['stage2'] = config.stage2
    return stages


def validate(config: ml_collections.ConfigDict) -> None:
    """Checks what can be checked before data is read; raises `InputError` on the first fault."""
    get_method(config.method)
    validate_data(config.data)
    _choice(config, 'weighting.balanced', 'inverse_frequency', 'effective_number')
    _choice(config, 'metric.triplet.mining', 'batch_hard', 'batch_all')
    for name in (
        'focal.gamma',
        'ldam.max_margin',
        'cosface.margin',
        'arcface.margin',
        'logit_adjusted.tau',
    ):
        _at_least(config, f'classification.{name}', 0)
    for name in ('tau_normalized', 'adjusted_post_hoc'):
        _at_least(config, f'second_heads.{name}.tau', 0)
    _above_zero(config, 'second_heads.nearest_class_mean.scale')
    for name in ('ldam', 'cosface', 'arcface'):
        _above_zero(config, f'classification.{name}.scale')
    margin = config.classification.arcface.margin
    if not margin < math.pi:
        raise InputError(
            f'config field classification.arcface.margin is {margin}; allowed: 0 or more and below '
            'pi'
        )
    _choice(config, 'model.dtype', 'float32', 'bfloat16')
    _choice(config, 'stage2.head', 'fresh', 'previous')
    _choice(config, 'stage2.batch_statistics', 'frozen', 'drift')
    for field in ('evaluation.batch_size', 'evaluation.every'):
        _at_least(config, field, 1)
    _at_least(config, 'checkpoint_every', 1)
    _below_one(config, 'weighting.beta')
    _at_least(config, 'weighting.deferred', 0)
    _below_one(config, 'weighting.deferred')
    _below_one(config, 'metric.center.momentum')
    _below_one(config, 'metric.balanced_contrastive.momentum')
    if config.model.dropout is not None:
        _below_one(config, 'model.dropout')
    for name in config.metric:
        _at_least(config, f'metric.{name}.coefficient', 0)
    for field in (
        'seed',
        'metric.center.learning_rate',
        'metric.balanced_contrastive.learning_rate',
        'metric.triplet.margin',
    ):
        _at_least(config, field, 0)
    for name in ('supervised_contrastive', 'balanced_contrastive'):
        contrastive = config.metric[name]
        _above_zero(config, f'metric.{name}.temperature')
        if not contrastive.projection:
            raise InputError(
                f'config field metric.{name}.projection is empty; allowed: one width or more'
            )
    for name, stage in stage_configs(config).items():
        _at_least(config, f'{name}.epochs', 1)
        _at_least(config, f'{name}.batch_size', 1)
        _choice(config, f'{name}.decay', 'all', 'kernels')
        _choice(config, f'{name}.learning_rate_per', 'step', 'epoch')
        for field in ('learning_rate', 'final_learning_rate', 'weight_decay', 'warmup_epochs'):
            _at_least(config, f'{name}.{field}', 0)
        _below_one(config, f'{name}.momentum')
        if stage.warmup_epochs >= stage.epochs:
            raise InputError(
                f'config field {name}.warmup_epochs is {stage.warmup_epochs}; allowed: less than '
                f'{name}.epochs, which is {stage.epochs}'
            )


def validate_data(data: ml_collections.ConfigDict) -> None:
    """Checks the fields of `data_fields` as `validate` does; which names there are is not known."""
    config = {'data': data}
    _choice(config, 'data.split', 'paper', 'grouped', 'official')
    _choice(config, 'data.long_tail_max', 'smallest', 'first')
    _choice(config, 'data.long_tail_rounding', 'nearest', 'down')
    _choice(config, 'data.groups', 'counts', 'thirds')
    for field in ('data.multiple_of', 'data.major', 'data.minor', 'data.resize'):
        _at_least(config, field, 1)
    for field in ('data.split_seed', 'data.imbalance_ratio'):
        _at_least(config, field, 0)
    if data.split == 'official':
        for field in ('train_parts', 'test_parts'):
            if not data[field]:
                raise InputError(f'config field data.{field} is empty; allowed: one name or more')


def _value(config: Mapping[str, Any], field: str) -> Any:
    for name in field.split('.'):
        config = config[name]
    return config


def _choice(config: Mapping[str, Any], field: str, *allowed: str) -> None:
    value = _value(config, field)
    if value not in allowed:
        raise InputError(f'config field {field} is {value!r}; allowed: {", ".join(allowed)}')


def _below_one(config: Mapping[str, Any], field: str) -> None:
    value = _value(config, field)
    if not 0 <= value < 1:
        raise InputError(f'config field {field} is {value}; allowed: 0 or more and below 1')


def _above_zero(config: Mapping[str, Any], field: str) -> None:
    value = _value(config, field)
    if not 0 < value < math.inf:
        raise InputError(f'config field {field} is {value}; allowed: above 0')


def _at_least(config: Mapping[str, Any], field: str, low: float) -> None:
    value = _value(config, field)
    if not value >= low:
        raise InputError(f'config field {field} is {value}; allowed: {low} or more')
