"""The stages of figure 1, as values: what each minimises, trains, samples, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
from ml_collections import ConfigDict

from metriclt_jax.augment.geometry import AugmentConfig
from metriclt_jax.augment.mixing import MIXINGS, Mixing
from metriclt_jax.data.sampling import SAMPLERS
from metriclt_jax.devices import AXIS
from metriclt_jax.errors import InputError
from metriclt_jax.methods import Method, SecondStage, get_method
from metriclt_jax.models import Classifier, create_model
from metriclt_jax.models.classifier import BACKBONES, options_of
from metriclt_jax.training.objectives import (
    CLASSIFICATION_LOSSES,
    METRIC_LOSSES,
    BilateralObjective,
    Objective,
    make_classification_loss,
    make_metric_loss,
)
from metriclt_jax.training.schedules import warmup_cosine
from metriclt_jax.training.second_heads import HEAD_RULES, HeadRule, make_head_rule


@dataclass(frozen=True)
class Optimizer:
    """SGD and its learning rate over a stage (paper section 3.1).

    Attributes:
        learning_rate: at the end of the warm-up.
        final_learning_rate: at the end of the cosine.
        learning_rate_per: 'step' or 'epoch'.
        weight_decay: coefficient of the L2 term that is added to the gradient before momentum.
        decay: 'all' parameters, or 'kernels' (neither BatchNorm nor biases).
    """

    learning_rate: float
    final_learning_rate: float
    warmup_epochs: int
    learning_rate_per: str
    momentum: float
    nesterov: bool
    weight_decay: float
    decay: str


@dataclass(frozen=True)
class Stage:
    """One stage of training.

    Attributes:
        name: 'stage1' or 'stage2'.
        objective: what it minimises.
        trainable: top-level parameter names that it changes.
        frozen: the other top-level names; these parameters stay bitwise as they are.
        backbone_train: whether BatchNorm uses the batch and learns statistics.
        head: kind of classifier, a key of `models.heads.HEADS`.
        fresh_head: whether it is initialised when the stage begins; else the stage before left it.
        head_rule: by which it is computed when the stage begins, or None.
        sampler: order of an epoch, see `data.sampling`.
        class_weights: kind of weights, see `schedules.make_class_weights`.
        augment: the augmentation; None for batches of images that are ready, float32.
        optimizer: SGD and its learning rate.
        epochs: length; 0 where there is nothing to train.
        batch_size: images in a step, over all devices.
        second_sampler: that of a second batch beside each, or None.
        weights_from: share of the stage before the class weights set in; until then they are
            uniform.
        mixing: how a batch is mixed after the augmentation, or None.
        branches: of the backbone.
    """

    name: str
    objective: Objective | BilateralObjective
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    backbone_train: bool
    head: str
    fresh_head: bool
    sampler: str
    class_weights: str
    augment: AugmentConfig | None
    optimizer: Optimizer
    epochs: int
    batch_size: int
    second_sampler: str | None = None
    weights_from: float = 0.0
    mixing: Mixing | None = None
    branches: int = 1
    head_rule: HeadRule | None = None

    @property
    def trains_classifier(self) -> bool:
        """Whether there is a classifier to evaluate after this stage."""
        return not {'head', 'scales'}.isdisjoint(self.trainable)

    def learning_rate(self, steps_per_epoch: int) -> Callable[[jax.Array], jax.Array]:
        """The learning rate as a function of the completed updates."""
        return warmup_cosine(
            peak=self.optimizer.learning_rate,
            final=self.optimizer.final_learning_rate,
            epochs=self.epochs,
            warmup_epochs=self.optimizer.warmup_epochs,
            steps_per_epoch=steps_per_epoch,
            per=self.optimizer.learning_rate_per,
        )


def make_augment_config(config: ConfigDict) -> AugmentConfig:
    """The augmentation that the config describes; raises `InputError` if it cannot be."""
    augment = config.augment
    return AugmentConfig(
        resize=config.data.resize,
        crop=augment.crop,
        rotation=augment.rotation,
        flip=augment.flip,
        fill=tuple(augment.fill),
        interpolation=augment.interpolation,
        mean=tuple(augment.mean),
        std=tuple(augment.std),
    )


def make_stages(config: ConfigDict) -> tuple[Stage, ...]:
    """The stages of the config's method: one or two (paper figure 1).

    Raises:
        InputError: the method is unknown, or it does not go together with a field of the config.
    """
    method = get_method(config.method)
    _check_row(config.method, method)
    first = _first_stage(config, method)
    if method.second_stage is None:
        return (first,)
    return first, _second_stage(config, method.second_stage, first)


def _first_stage(config: ConfigDict, method: Method) -> Stage:
    """Features and, where there is a classification loss, a classifier (paper section 2.2)."""
    metric = make_metric_loss(method.metric, config.metric)
    classification = make_classification_loss(method.classification, config.classification)
    objective = Objective(classification, metric, method.normalize_weights)
    mixing = _mixing(config, method.mixing)
    second_sampler, branches = None, 1
    if mixing and 'second' in mixing.needs:
        second_sampler = 'class_balanced'
    if method.bilateral:
        _require_branches(config)
        objective, second_sampler, branches = BilateralObjective(classification), 'reversed', 2

    projection = ('projection',) if metric is not None and metric.projection else ()
    classifies = classification is not None
    return Stage(
        name='stage1',
        objective=objective,
        trainable=('backbone', *(('head',) if classifies else ()), *projection),
        frozen=() if classifies else ('head',),
        backbone_train=True,
        head=classification.head if classifies else 'linear',
        fresh_head=True,
        sampler=method.sampler,
        second_sampler=second_sampler,
        class_weights=_class_weights(config, method.weighting),
        weights_from=config.weighting.deferred if method.deferred else 0.0,
        mixing=mixing,
        branches=branches,
        augment=make_augment_config(config),
        optimizer=_optimizer(config.stage1),
        epochs=config.stage1.epochs,
        batch_size=config.stage1.batch_size,
    )


def _second_stage(config: ConfigDict, second: SecondStage, first: Stage) -> Stage:
    """The head once more, on the backbone that `first` leaves (paper section 2.1)."""
    rule = make_head_rule(second.head, config.second_heads)
    kind, trained = 'linear', 'head'
    if rule is not None:
        kind = rule.head
    elif second.head == 'rescaled':
        kind, trained = 'rescaled', 'scales'
    fresh = second.head == 'retrained' and config.stage2.head == 'fresh'
    takes_over = not fresh and (rule is None or rule.needs_classifier)
    if takes_over and not (first.trains_classifier and first.head == 'linear'):
        field = f'second_stage.head of method {config.method} is {second.head}'
        if second.head == 'retrained':
            field = f'config field stage2.head is {config.stage2.head}'
        raise InputError(
            f'{field}, which needs a linear head that stage 1 of {config.method} trained; allowed: '
            'a fresh head (retrained, and stage2.head=fresh), or nearest_class_mean'
        )
    return Stage(
        name='stage2',
        objective=Objective(make_classification_loss('cross_entropy', config.classification)),
        trainable=(trained,),
        frozen=tuple(name for name in first.trainable + first.frozen if name != trained),
        backbone_train=config.stage2.batch_statistics == 'drift',
        head=kind,
        fresh_head=fresh,
        head_rule=rule,
        branches=first.branches,
        sampler=second.sampler,
        class_weights=_class_weights(config, second.weighting),
        augment=first.augment,
        optimizer=_optimizer(config.stage2),
        epochs=0 if rule else config.stage2.epochs,
        batch_size=config.stage2.batch_size,
    )


def _class_weights(config: ConfigDict, weighting: str) -> str:
    """The kind of weights that a row's word means, see `schedules.make_class_weights`."""
    return config.weighting.balanced if weighting == 'balanced' else weighting


def _mixing(config: ConfigDict, name: str | None) -> Mixing | None:
    if name is None:
        return None
    try:
        return Mixing(name, **config.mixing[name])
    except InputError as error:
        raise InputError(f'config field mixing.{name}: {error}') from None


def _check_row(name: str, method: Method) -> None:
    """Raises `InputError` for a row whose words do not exist or do not go together."""
    weightings = ('uniform', 'balanced', 'effective_number')
    for field, value, allowed in (
        ('classification', method.classification, (None, *CLASSIFICATION_LOSSES)),
        ('metric', method.metric, (None, *METRIC_LOSSES)),
        ('sampler', method.sampler, SAMPLERS),
        ('weighting', method.weighting, weightings),
        ('mixing', method.mixing, (None, *MIXINGS)),
        *(
            (f'second_stage.{field}', getattr(method.second_stage, field), allowed)
            for field, allowed in (
                ('sampler', SAMPLERS),
                ('weighting', weightings),
                ('head', ('retrained', 'rescaled', *HEAD_RULES)),
            )
            if method.second_stage is not None
        ),
    ):
        if value not in allowed:
            raise InputError(
                f'{field} of method {name} is {value!r}; allowed: {", ".join(map(str, allowed))}'
            )
    if method.mixing and (method.metric is not None or method.classification is None):
        raise InputError(
            f'method {name} mixes images, which then have no class of their own for a metric loss; '
            'allowed: mixing with a classification loss alone'
        )
    if method.classification is None and method.metric is None:
        raise InputError(
            f'method {name} has neither classification nor metric; allowed: one or both'
        )
    weighs = method.classification is not None and method.weighting != 'uniform'
    for field, value, default in (
        ('weighting', method.weighting, 'uniform' if method.classification is None else None),
        ('deferred', method.deferred, None if weighs else False),
        ('normalize_weights', method.normalize_weights, None if weighs else True),
    ):
        if default is not None and value != default:
            raise InputError(
                f'{field} of method {name} is {value!r}, but stage 1 has no class weights; '
                f'allowed: {default!r}'
            )
    second = method.second_stage
    if second is not None and second.head in HEAD_RULES and second != SecondStage(head=second.head):
        raise InputError(
            f'second_stage of method {name} has a sampler or weights, but {second.head} is '
            'computed without training; allowed: neither'
        )
    if method.mixing == 'balanced_mixup' and method.sampler == 'class_balanced':
        raise InputError(
            f'sampler of method {name} is class_balanced, as that of the second batch of '
            'balanced_mixup; allowed: another one'
        )

    if method.bilateral:
        alone = Method(method.classification, bilateral=True, second_stage=method.second_stage)
        if method != alone or method.classification is None:
            raise InputError(
                f'method {name} is bilateral; allowed: a classification loss alone, without metric '
                'loss, mixing, weights or a sampler of its own'
            )


def _require_branches(config: ConfigDict) -> None:
    if 'branches' not in options_of(config.model.name):
        allowed = [name for name in BACKBONES if 'branches' in options_of(name)]
        raise InputError(
            f'config field model.name is {config.model.name}, which has no branches, and method '
            f'{config.method} needs two; allowed: {", ".join(allowed)}'
        )


def make_models(
    config: ConfigDict, stages: tuple[Stage, ...], num_classes: int
) -> dict[str, Classifier]:
    """The model of each stage, by name: one backbone and projection, each stage's own head.

    Raises:
        InputError: the config's group `model` has a name, an option or a value that is not allowed.
    """
    options = {name: value for name, value in config.model.options.items() if value is not None}
    projections = [s.objective.metric.projection for s in stages if s.objective.metric is not None]

    def make(stage: Stage) -> Classifier:
        branches = {'branches': stage.branches} if stage.branches > 1 else {}
        scale = 1.0
        if stage.head == 'cosine':
            scale = (stage.head_rule or stage.objective.classification).scale
        return create_model(
            config.model.name,
            num_classes,
            head=stage.head,
            scale=scale,
            projection=next(iter(projections), None),
            dropout=config.model.dropout,
            dtype=config.model.dtype,
            axis_name=AXIS,
            cross_device_batch_norm=config.model.cross_device_batch_norm,
            **branches,
            **options,
        )

    try:
        return {stage.name: make(stage) for stage in stages}
    except InputError as error:
        raise InputError(f'config group model: {error}') from None
    except (TypeError, ValueError) as error:  # of options, whose types no config can know
        given = ', '.join(f'{name}={value!r}' for name, value in options.items())
        raise InputError(f'config group model.options has {given}: {error}') from None


def _optimizer(config: ConfigDict) -> Optimizer:
    return Optimizer(**{name: config[name] for name in Optimizer.__dataclass_fields__})
