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


@dataclass(frozen=True)
class ClassificationLoss:
    """A classification loss as an objective uses it.

    Attributes:
        loss: `(outputs, targets, class_counts)` -> `[B]`; `targets` are labels `[B]` or, for mixed
            images, probabilities `[B, C]`, in which it is linear.
        head: the kind of head that gives what it needs, a key of `models.heads.HEADS`.
        scale: of the logits of a cosine head, so that softmax means what the loss makes of them.
    """

    loss: Callable[[Outputs, jax.Array, jax.Array], jax.Array]
    head: str = 'linear'
    scale: float = 1.0


def _cross_entropy(config: ConfigDict) -> ClassificationLoss:
    del config
    return ClassificationLoss(
        lambda outputs, targets, counts: losses.cross_entropy(outputs.logits, targets)
    )


def _focal(config: ConfigDict) -> ClassificationLoss:
    return ClassificationLoss(
        lambda outputs, targets, counts: losses.focal(outputs.logits, targets, config.focal.gamma)
    )


def _logit_adjusted(config: ConfigDict) -> ClassificationLoss:
    tau = config.logit_adjusted.tau
    return ClassificationLoss(
        lambda outputs, targets, counts: losses.logit_adjusted(outputs.logits, targets, counts, tau)
    )


def _ldam(config: ConfigDict) -> ClassificationLoss:
    max_margin, scale = config.ldam.max_margin, config.ldam.scale

    def loss(outputs, targets, counts):
        return losses.ldam(outputs.cosines, targets, counts, max_margin, scale)

    return ClassificationLoss(loss, 'cosine', scale)


def _with_margin(name: str) -> Callable[[ConfigDict], ClassificationLoss]:
    def make(config: ConfigDict) -> ClassificationLoss:
        function = {'cosface': losses.cosface, 'arcface': losses.arcface}[name]
        margin, scale = config[name].margin, config[name].scale

        def loss(outputs, targets, counts):
            return function(outputs.cosines, targets, margin, scale)

        return ClassificationLoss(loss, 'cosine', scale)

    return make


# Each takes `config.classification`.
CLASSIFICATION_LOSSES = {
    'cross_entropy': _cross_entropy,
    'focal': _focal,
    'logit_adjusted': _logit_adjusted,
    'ldam': _ldam,
    'cosface': _with_margin('cosface'),
    'arcface': _with_margin('arcface'),
}

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


def _balanced_contrastive(config: ConfigDict) -> MetricLoss:
    def loss(parameters, outputs, labels, axis_name):
        return losses.balanced_contrastive(
            outputs.embeddings, labels, parameters['prototypes'], config.temperature, axis_name
        )

    def init(key, num_classes, feature_dim):
        del feature_dim  # prototypes lie among the embeddings
        return {'prototypes': jax.random.normal(key, (num_classes, config.projection[-1]))}

    optimizer = optax.sgd(config.learning_rate, config.momentum)
    return MetricLoss(loss, config.coefficient, init, optimizer, tuple(config.projection))


METRIC_LOSSES = {
    'center': _center,
    'triplet': _triplet,
    'supervised_contrastive': _supervised_contrastive,
    'balanced_contrastive': _balanced_contrastive,
}


def make_classification_loss(name: str | None, config: ConfigDict) -> ClassificationLoss | None:
    """The classification loss `name` with its fields of `config.classification`; None for None."""
    return None if name is None else CLASSIFICATION_LOSSES[name](config)


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
        classification: a `ClassificationLoss` or None.
        metric: a `MetricLoss` or None.
        normalize_weights: whether the mean divides by the sum of the class weights, or by the
            number of examples (class-balanced losses; Cui et al. 2019).
    """

    classification: ClassificationLoss | None
    metric: MetricLoss | None = None
    normalize_weights: bool = True

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
            apply: `(variables, images, **options)` -> `(Outputs, new batch_stats)`, the model in
                training mode.
            variables: `params`, `batch_stats` and `metric` (the metric loss's own parameters).
            batch: `image` `[B, S, S, 3]` float32, `label` `[B]` int32 and, for mixed images,
                `target` `[B, C]`, the probabilities that take the labels' place in the loss.
            schedule: class weights and counts.
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
            targets, weights = labels, schedule.class_weights[labels]
            if 'target' in batch:
                # Losses are linear in probabilities, so each class of a mixed image can be weighed
                # by its own weight.
                weighed = batch['target'] * schedule.class_weights
                weights = jnp.sum(weighed, axis=-1)
                targets, labels = weighed / weights[:, None], jnp.argmax(batch['target'], axis=-1)
            values = self.classification.loss(outputs, targets, schedule.class_counts)
            if not self.normalize_weights:
                values, weights = weights * values, jnp.ones_like(weights)
            classification = losses.weighted_mean(values, weights, axis_name)
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


@dataclass(frozen=True)
class BilateralObjective:
    """Two branches, each with a batch of its own (BBN; Zhou et al. 2020, section 4).

    With alpha from the schedule, features f and labels y of the conventional branch (c) and of the
    re-balancing one (r), the loss is alpha L(z, y_c) + (1 - alpha) L(z, y_r), where the logits z
    are the head's of 2 [alpha f_c; (1 - alpha) f_r]. At alpha 0.5 the head sees the features as
    they are, as in evaluation, where one image goes through both branches.

    Attributes:
        classification: the loss L.
        metric: None; there is no metric loss on two branches.
    """

    classification: ClassificationLoss
    metric: None = None

    def __call__(
        self,
        apply: Callable[..., tuple[Outputs, Any]],
        variables: dict[str, Any],
        batch: dict[str, Any],
        schedule: Schedule,
        key: jax.Array,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, Evaluated]:
        """The value on a batch and the `second` beside it, see `Objective`."""
        del key, axis_name  # every example counts the same, so a device's mean will do
        second, counts = batch['second'], schedule.class_counts
        shares = jnp.stack([schedule.alpha, 1.0 - schedule.alpha])
        images = batch['image'], second['image']
        outputs, batch_stats = apply(variables, images, branch_weights=2 * shares)

        value = accuracy = jnp.zeros(())
        predicted = jnp.argmax(outputs.logits, axis=-1)
        for share, labels in zip(shares, (batch['label'], second['label']), strict=True):
            value += share * jnp.mean(self.classification.loss(outputs, labels, counts))
            accuracy += share * jnp.mean(predicted == labels)
        report = {'loss': value, 'classification': value, 'accuracy': accuracy}
        return value, Evaluated(batch_stats, {}, report)
