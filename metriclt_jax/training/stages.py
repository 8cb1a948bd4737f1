"""The stages of figure 1, as values: what each minimises, trains, samples, and for how long."""

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
from ml_collections import ConfigDict

from metriclt_jax.augment.geometry import Geometry
from metriclt_jax.devices import AXIS
from metriclt_jax.methods import get_method
from metriclt_jax.models import create_model
from metriclt_jax.training.objectives import Objective, make_metric_loss
from metriclt_jax.training.schedules import warmup_cosine


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
        head: 'fresh' (initialised when the stage begins) or 'previous' (taken over).
        sampler: order of an epoch, see `data.sampling`.
        class_weights: kind of weights, see `schedules.make_class_weights`.
        geometry: the augmentation; None for batches of images that are ready, float32.
        optimizer: SGD and its learning rate.
        epochs: length.
        batch_size: images in a step, over all devices.
    """

    name: str
    objective: Objective
    trainable: tuple[str, ...]
    frozen: tuple[str, ...]
    backbone_train: bool
    head: str
    sampler: str
    class_weights: str
    geometry: Geometry | None
    optimizer: Optimizer
    epochs: int
    batch_size: int

    @property
    def trains_classifier(self) -> bool:
        """Whether there is a classifier to evaluate after this stage."""
        return 'head' in self.trainable

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


def make_geometry(config: ConfigDict) -> Geometry:
    """The augmentation that the config describes; raises `InputError` if it cannot be."""
    augment = config.augment
    return Geometry(
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
    """The stages of the config's method: one or two (paper figure 1)."""
    method = get_method(config.method)
    geometry = make_geometry(config)
    metric = make_metric_loss(method.metric, config.metric)
    weights = {'uniform': 'uniform', 'balanced': config.weighting.balanced}

    projection = ('projection',) if metric is not None and metric.projection else ()
    classifies = method.classification is not None
    stages = [
        Stage(
            name='stage1',
            objective=Objective(method.classification, metric),
            trainable=('backbone', *(('head',) if classifies else ()), *projection),
            frozen=() if classifies else ('head',),
            backbone_train=True,
            head='fresh',
            sampler=method.sampler,
            class_weights=weights[method.weighting],
            geometry=geometry,
            optimizer=_optimizer(config.stage1),
            epochs=config.stage1.epochs,
            batch_size=config.stage1.batch_size,
        )
    ]
    if method.second_stage is not None:
        stages.append(
            Stage(
                name='stage2',
                objective=Objective('cross_entropy'),
                trainable=('head',),
                frozen=('backbone', *projection),
                backbone_train=config.stage2.batch_statistics == 'drift',
                head=config.stage2.head,
                sampler=method.second_stage.sampler,
                class_weights=weights[method.second_stage.weighting],
                geometry=geometry,
                optimizer=_optimizer(config.stage2),
                epochs=config.stage2.epochs,
                batch_size=config.stage2.batch_size,
            )
        )
    return tuple(stages)


def make_model(config: ConfigDict, stages: tuple[Stage, ...], num_classes: int) -> nn.Module:
    """The model that all stages of the config's method share."""
    projections = [s.objective.metric.projection for s in stages if s.objective.metric is not None]
    return create_model(
        config.model.name,
        num_classes,
        projection=next(iter(projections), None),
        dtype=config.model.dtype,
        dropout=config.model.dropout,
        axis_name=AXIS,
        cross_device_batch_norm=config.model.cross_device_batch_norm,
        **{name: value for name, value in config.model.options.items() if value is not None},
    )


def _optimizer(config: ConfigDict) -> Optimizer:
    return Optimizer(**{name: config[name] for name in Optimizer.__dataclass_fields__})
