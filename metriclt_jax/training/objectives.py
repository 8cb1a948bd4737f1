"""What a stage minimises: classification loss + coefficient x metric loss (paper section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from metriclt_jax import losses
from metriclt_jax.models import Outputs
from metriclt_jax.training.schedules import Schedule

CLASSIFICATION_LOSSES = {'cross_entropy': losses.cross_entropy}

_NO_UPDATE = optax.identity()


@dataclass(frozen=True)
class MetricLoss:
    """A metric loss as an objective uses it.

    Attributes:
        loss: `(parameters, outputs, labels, axis_name)` -> scalar; what the model minimises.
        coefficient: its factor in the objective.
        init: `(key, num_classes, feature_dim)` -> parameters of the loss itself (centres), which
            are no parameters of the model: no weight decay, no coefficient.
        optimizer: what updates those parameters, by the gradient of `loss` without coefficient.
        projection: widths of the projection head that the loss needs, or None.
    """

    loss: Callable[[Any, Outputs, jax.Array, str | None], jax.Array]
    coefficient: float
    init: Callable[[jax.Array, int, int], Any] = lambda key, num_classes, feature_dim: {}
    optimizer: optax.GradientTransformation = _NO_UPDATE
    projection: tuple[int, ...] | None = None


def _center(config: ConfigDict) -> MetricLoss:
    def loss(parameters, outputs, labels, axis_name):
        values = losses.center(outputs.features, labels, parameters['centers'])
        return losses.weighted_mean(values, jnp.ones_like(values), axis_name)

    def init(key, num_classes, feature_dim):
        return {'centers': jax.random.normal(key, (num_classes, feature_dim))}

    optimizer = optax.sgd(config.learning_rate, config.momentum)
    return MetricLoss(loss, config.coefficient, init, optimizer)


def _triplet(config: ConfigDict) -> MetricLoss:
    def loss(parameters, outputs, labels, axis_name):
        del parameters
        return losses.triplet(
            outputs.features,
            labels,
            config.margin,
            mining=config.mining,
            squared=config.squared,
            axis_name=axis_name,
        )

    return MetricLoss(loss, config.coefficient)


def _supervised_contrastive(config: ConfigDict) -> MetricLoss:
    def loss(parameters, outputs, labels, axis_name):
        del parameters
        return losses.supervised_contrastive(
            outputs.embeddings, labels, config.temperature, axis_name=axis_name
        )

    return MetricLoss(loss, config.coefficient, projection=tuple(config.projection))


METRIC_LOSSES = {
    'center': _center,
    'triplet': _triplet,
    'supervised_contrastive': _supervised_contrastive,
}


def make_metric_loss(name: str | None, config: ConfigDict) -> MetricLoss | None:
    """The metric loss `name` with its part of `config.metric`; None for None."""
    return None if name is None else METRIC_LOSSES[name](config[name])


class Evaluated(NamedTuple):
    """What an objective returns beside its value.

    Attributes:
        batch_stats: the BatchNorm statistics after the pass.
        metric_gradients: gradient with respect to the metric loss's own parameters.
        report: scalars to log, averaged over devices and steps.
    """

    batch_stats: Any
    metric_gradients: Any
    report: dict[str, jax.Array]


@dataclass(frozen=True)
class Objective:
    """Classification loss + coefficient x metric loss, either of which may be missing.

    Attributes:
        classification: a key of `CLASSIFICATION_LOSSES` or None.
        metric: a `MetricLoss` or None.
    """

    classification: str | None
    metric: MetricLoss | None = None

    def __call__(
        self,
        apply: Callable[[Any, jax.Array], tuple[Outputs, Any]],
        variables: dict[str, Any],
        batch: dict[str, jax.Array],
        schedule: Schedule,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, Evaluated]:
        """The value on one batch.

        Args:
            apply: `(variables, images)` -> `(Outputs, new batch_stats)`, in training mode.
            variables: `params`, `batch_stats` and `metric` (the metric loss's own parameters).
            batch: `image` `[B, S, S, 3]` float32, `label` `[B]` int32.
            schedule: class weights.
            key: random key of this step, the same on all devices.
            axis_name: the devices' axis; then only the mean over devices of the value and of its
                gradients is meaningful, and it is the global batch's.
        """
        del key
        outputs, batch_stats = apply(variables, batch['image'])
        labels = batch['label']
        value = jnp.zeros(())
        metric_gradients = {}
        report = {}
        if self.classification is not None:
            per_example = CLASSIFICATION_LOSSES[self.classification](outputs.logits, labels)
            weights = schedule.class_weights[labels]
            classification = losses.weighted_mean(per_example, weights, axis_name)
            value += classification
            correct = jnp.argmax(outputs.logits, axis=-1) == labels
            report |= {'classification': classification, 'accuracy': jnp.mean(correct)}
        if self.metric is not None:
            parameters = variables['metric']
            metric = self.metric.loss(parameters, outputs, labels, axis_name)
            value += self.metric.coefficient * metric
            # The loss's own parameters follow the plain loss on features that they cannot move,
            # or their step would scale with the coefficient.
            metric_gradients = jax.grad(self.metric.loss)(
                parameters, jax.lax.stop_gradient(outputs), labels, axis_name
            )
            report['metric'] = metric
        return value, Evaluated(batch_stats, metric_gradients, {'loss': value} | report)
