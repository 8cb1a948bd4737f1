"""The stages of figure 1, as values: what each minimises, trains and samples, and for how long."""

from dataclasses import dataclass, fields

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from metriclt_jax.augment.geometry import AugmentConfig
from metriclt_jax.augment.mixing import MIXINGS, Mixing
from metriclt_jax.data.sampling import SAMPLERS
from metriclt_jax.devices import AXIS
from metriclt_jax.errors import InputError
from metriclt_jax.methods import WEIGHTINGS, Method, SecondStage, get_method
from metriclt_jax.models import Classifier, create_model
from metriclt_jax.models.classifier import BACKBONES, options_of
from metriclt_jax.training.objective import (
    CLASSIFICATION_LOSSES,
    METRIC_LOSSES,
    BilateralObjective,
    Objective,
)
from metriclt_jax.training.posthoc_heads import POSTHOC_HEADS, PosthocHead


@dataclass(frozen=True)
class Optimizer:
    """SGD and its learning rate over a stage; the fields of `config.stage1` of the same names."""

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
    """One stage of training."""

    name: str  # 'stage1' or 'stage2'
    objective: Objective | BilateralObjective  # what it minimises
    trainable: tuple[str, ...]  # the top-level parameter names that it changes
    frozen: tuple[str, ...]  # the other top-level names, which stay bitwise as they are
    backbone_train: bool  # whether BatchNorm uses the batch and updates its statistics
    head: str  # kind of classifier, a key of `models.heads.HEADS`
    fresh_head: bool  # initialise the head, or take over that of the stage before
    sampler: str  # order of an epoch, see `data.sampling`
    class_weights: str  # kind of weights, see `schedule.make_class_weights`
    augment: AugmentConfig
    optimizer: Optimizer
    epochs: int  # 0 if there is nothing to train
    batch_size: int  # images in a step, over all devices
    second_sampler: str | None = None  # of a second batch beside each
    reweight_start: float = 0.0  # fraction of the stage before the class weights apply
    mixing: Mixing | None = None  # of a batch, after the augmentation
    branches: int = 1  # of the backbone; 2 for BBN
    posthoc_head: PosthocHead | None = None  # computes the head when the stage begins

    @property
    def trains_classifier(self) -> bool:
        """Whether there is a classifier to evaluate after this stage."""
        return not {'head', 'scales'}.isdisjoint(self.trainable)

    def learning_rate(self, steps_per_epoch: int) -> optax.Schedule:
        """The learning rate by completed updates: a linear warm-up, then half a cosine.

        Per 'epoch' it is constant within an epoch; the warm-up then uses the rate at the end of the
        epoch, because the rate at the start of the first one is 0.
        """
        recipe, per_step = self.optimizer, self.optimizer.learning_rate_per == 'step'
        length = steps_per_epoch if per_step else 1
        epochs = max(self.epochs, recipe.warmup_epochs + 1)  # a computed head has none
        rate = optax.warmup_cosine_decay_schedule(
            init_value=0.0,
            peak_value=recipe.learning_rate,
            warmup_steps=recipe.warmup_epochs * length,
            decay_steps=epochs * length,
            end_value=recipe.final_learning_rate,
        )

        def of_epoch(count: jax.Array) -> jax.Array:
            epoch = count // steps_per_epoch
            return rate(jnp.where(epoch < recipe.warmup_epochs, epoch + 1, epoch))

        return rate if per_step else of_epoch


def make_stages(config: ConfigDict) -> tuple[Stage, ...]:
    """The stages of the config's method: one or two (figure 1)."""
    method = get_method(config.method)
    _check_method(config.method, method)
    first = _first_stage(config, method)
    if method.second_stage is None:
        return (first,)
    return first, _second_stage(config, method.second_stage, first)


def _first_stage(config: ConfigDict, method: Method) -> Stage:
    """Features and, with a classification loss, a classifier (paper section 2.2)."""
    classification = metric = None
    if method.classification is not None:
        classification = CLASSIFICATION_LOSSES[method.classification](config.classification)
    if method.metric is not None:
        metric = METRIC_LOSSES[method.metric](config.metric[method.metric])
    objective = Objective(classification, metric, method.normalize_weights)
    mixing, second_sampler = None, None
    if method.mixing is not None:
        try:
            mixing = Mixing(method.mixing, **config.mixing[method.mixing])
        except InputError as error:
            raise InputError(f'config field mixing.{method.mixing}: {error}') from None
        second_sampler = 'class_balanced' if 'second' in mixing.needs else None
    if method.bilateral:
        objective, second_sampler = BilateralObjective(classification), 'reversed'
        if 'branches' not in options_of(config.model.name):
            fits = [name for name in BACKBONES if 'branches' in options_of(name)]
            raise InputError(
                f'config field model.name is {config.model.name}, but method {config.method} needs '
                f'a backbone with two branches: {", ".join(fits)}'
            )
    head = () if classification is None else ('head',)
    projection = ('projection',) if metric is not None and metric.projection else ()
    return Stage(
        name='stage1',
        objective=objective,
        trainable=('backbone', *head, *projection),
        frozen=() if head else ('head',),
        backbone_train=True,
        head=classification.head if classification is not None else 'linear',
        fresh_head=True,
        sampler=method.sampler,
        second_sampler=second_sampler,
        class_weights=_class_weights(config, method.weighting),
        reweight_start=config.weighting.deferred if method.deferred else 0.0,
        mixing=mixing,
        branches=2 if method.bilateral else 1,
        augment=AugmentConfig(resize=config.data.resize, **config.augment),
        optimizer=_optimizer(config.stage1),
        epochs=config.stage1.epochs,
        batch_size=config.stage1.batch_size,
    )


def _second_stage(config: ConfigDict, second: SecondStage, first: Stage) -> Stage:
    """The head once more, on the backbone that `first` leaves (paper section 2.1)."""
    posthoc = None
    if second.head in POSTHOC_HEADS:
        posthoc = POSTHOC_HEADS[second.head](config.second_heads[second.head])
    rescaled = second.head == 'rescaled'
    fresh = second.head == 'retrained' and config.stage2.head == 'fresh'
    trained = 'scales' if rescaled else 'head'
    takes_over = posthoc.needs_classifier if posthoc else not fresh
    if takes_over and not (first.trains_classifier and first.head == 'linear'):
        field = f'second_stage.head of method {config.method} is {second.head}'
        if second.head == 'retrained':
            field = f'config field stage2.head is {config.stage2.head}'
        raise InputError(
            f'{field}, but stage 1 of {config.method} does not train a linear head to start from; '
            'use a fresh head or nearest_class_mean'
        )
    return Stage(
        name='stage2',
        objective=Objective(CLASSIFICATION_LOSSES['cross_entropy'](config.classification)),
        trainable=(trained,),
        frozen=tuple(name for name in first.trainable + first.frozen if name != trained),
        backbone_train=config.stage2.batch_statistics == 'drift',
        head='rescaled' if rescaled else posthoc.head if posthoc else 'linear',
        fresh_head=fresh,
        posthoc_head=posthoc,
        branches=first.branches,
        sampler=second.sampler,
        class_weights=_class_weights(config, second.weighting),
        augment=first.augment,
        optimizer=_optimizer(config.stage2),
        epochs=0 if posthoc else config.stage2.epochs,
        batch_size=config.stage2.batch_size,
    )


def _class_weights(config: ConfigDict, weighting: str) -> str:
    return config.weighting.balanced if weighting == 'balanced' else weighting


def _optimizer(config: ConfigDict) -> Optimizer:
    return Optimizer(**{field.name: config[field.name] for field in fields(Optimizer)})


def _check_method(name: str, method: Method) -> None:
    """Raises `InputError` for a row whose words do not exist or do not fit together."""
    second = method.second_stage
    words = {
        'classification': (method.classification, (None, *CLASSIFICATION_LOSSES)),
        'metric': (method.metric, (None, *METRIC_LOSSES)),
        'sampler': (method.sampler, SAMPLERS),
        'weighting': (method.weighting, WEIGHTINGS),
        'mixing': (method.mixing, (None, *MIXINGS)),
    }
    if second is not None:
        words |= {
            'second_stage.sampler': (second.sampler, SAMPLERS),
            'second_stage.weighting': (second.weighting, WEIGHTINGS),
            'second_stage.head': (second.head, ('retrained', 'rescaled', *POSTHOC_HEADS)),
        }
    for field, (value, known) in words.items():
        if value not in known:
            choices = ', '.join(map(str, known))
            raise InputError(f'{field} of method {name} is {value!r}; it must be one of {choices}')
    unclassified, weighted = method.classification is None, method.weighting != 'uniform'
    computed = second is not None and second.head in POSTHOC_HEADS
    alone = Method(method.classification, bilateral=True, second_stage=second)
    contradictions = {
        'has neither a classification nor a metric loss': unclassified and method.metric is None,
        'mixes images, so only a classification loss fits: a mixed image has no single class': (
            method.mixing and (unclassified or method.metric is not None)
        ),
        'has weighting, but no classification loss to weight': unclassified and weighted,
        'has deferred or normalize_weights, but no class weights': (
            not weighted and (method.deferred or not method.normalize_weights)
        ),
        'has a sampler or weighting for a second stage whose head is not trained': (
            computed and second != SecondStage(head=second.head)
        ),
        'is bilateral, so only a classification loss fits': (
            method.bilateral and (unclassified or method != alone)
        ),
    }
    for contradiction, found in contradictions.items():
        if found:
            raise InputError(f'method {name} {contradiction}')


def make_models(
    config: ConfigDict, stages: tuple[Stage, ...], num_classes: int
) -> dict[str, Classifier]:
    """The model of each stage, by name: one backbone and projection, each stage's own head."""
    options = {name: value for name, value in config.model.options.items() if value is not None}
    projections = [s.objective.metric.projection for s in stages if s.objective.metric is not None]

    def make(stage: Stage) -> Classifier:
        branches = {'branches': stage.branches} if stage.branches > 1 else {}
        cosine = stage.posthoc_head or stage.objective.classification
        return create_model(
            config.model.name,
            num_classes,
            head=stage.head,
            scale=cosine.scale if stage.head == 'cosine' else 1.0,
            projection=next(iter(projections), None),
            axis_name=AXIS,
            dropout=config.model.dropout,
            dtype=config.model.dtype,
            cross_device_batch_norm=config.model.cross_device_batch_norm,
            batch_norm_group=config.model.batch_norm_group,
            **branches,
            **options,
        )

    try:
        return {stage.name: make(stage) for stage in stages}
    except InputError as error:
        raise InputError(f'config group model: {error}') from None
    except (TypeError, ValueError) as error:  # a config does not know the types of the options
        given = ', '.join(f'{name}={value!r}' for name, value in options.items())
        raise InputError(f'config group model.options has {given}: {error}') from None
