"""What a stage minimises: classification loss + coefficient x metric loss (paper section 2.2)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from metriclt_jax import losses
from metriclt_jax.models import Outputs
from metriclt_jax.training.schedule import LossInputs


@dataclass(frozen=True)
class ClassificationLoss:
    """A classification loss as an objective uses it.

    `loss(outputs, targets, class_counts) -> [B]` gets labels `[B]` or, for mixed images,
    probabilities `[B, C]`, in which it is linear.
    """

    loss: Callable[[Outputs, jax.Array, jax.Array], jax.Array]
    head: str = 'linear'  # the kind of head it needs, a key of `models.heads.HEADS`
    scale: float = 1.0  # of the logits of a cosine head


def _margin_loss(loss: Callable[..., jax.Array], options: ConfigDict) -> ClassificationLoss:
    """A loss of cosines, without class counts."""
    return ClassificationLoss(
        lambda outputs, targets, counts: loss(outputs.cosines, targets, **options),
        head='cosine',
        scale=options.scale,
    )


# Each takes `config.classification`.
CLASSIFICATION_LOSSES: dict[str, Callable[[ConfigDict], ClassificationLoss]] = {
    'cross_entropy': lambda config: ClassificationLoss(
        lambda outputs, targets, counts: losses.cross_entropy(outputs.logits, targets)
    ),
    'focal': lambda config: ClassificationLoss(
        lambda outputs, targets, counts: losses.focal(outputs.logits, targets, config.focal.gamma)
    ),
    'logit_adjusted': lambda config: ClassificationLoss(
        lambda outputs, targets, counts: losses.logit_adjusted(
            outputs.logits, targets, counts, config.logit_adjusted.tau
        )
    ),
    'ldam': lambda config: ClassificationLoss(
        lambda outputs, targets, counts: losses.ldam(
            outputs.cosines, targets, counts, **config.ldam
        ),
        head='cosine',
        scale=config.ldam.scale,
    ),
    'cosface': lambda config: _margin_loss(losses.cosface, config.cosface),
    'arcface': lambda config: _margin_loss(losses.arcface, config.arcface),
}


@dataclass(frozen=True)
class MetricLoss:
    """A metric loss as an objective uses it: `loss(params, outputs, labels, axis_name) -> scalar`.

    `init(key, num_classes, feature_dim)` makes the `params` of the loss itself, such as centers;
    they are not parameters of the model and have neither weight decay nor coefficient.
    They minimise `own_loss`, of the same form, or `loss` if None.
    """

    loss: Callable[[Any, Outputs, jax.Array, str | None], jax.Array]
    coefficient: float  # its factor in the objective
    init: Callable[[jax.Array, int, int], Any] = lambda key, num_classes, feature_dim: {}
    optimizer: optax.GradientTransformation = optax.identity()  # noqa: RUF009 (of `params`)
    projection: tuple[int, ...] | None = None  # widths of the projection head that it needs
    own_loss: Callable[[Any, Outputs, jax.Array, str | None], jax.Array] | None = None


def _center(config: ConfigDict) -> MetricLoss:
    def loss(params, outputs, labels, axis_name):
        values = losses.center(outputs.features, labels, params['centers'])
        return losses.weighted_mean(values, jnp.ones_like(values), axis_name)

    def init(key, num_classes, feature_dim):
        return {'centers': jax.random.normal(key, (num_classes, feature_dim))}

    def of_each_class(params, outputs, labels, axis_name):
        """Has the gradient sum(center - feature) / (1 + n) over the n examples of a class."""
        values = losses.center(outputs.features, labels, params['centers'])
        counts = global_sum(jnp.zeros(len(params['centers'])).at[labels].add(1), axis_name)
        weights = (1 / (1 + counts))[labels]
        mean = losses.weighted_mean(values, weights, axis_name)
        return global_sum(jnp.sum(weights), axis_name) * mean

    def global_sum(values, axis_name):
        return values if axis_name is None else jax.lax.psum(values, axis_name)

    if config.update_rule == 'original':  # Wen et al. 2016, equation 4
        sgd = optax.sgd(config.alpha)
        return MetricLoss(loss, config.coefficient, init, sgd, own_loss=of_each_class)
    optimizer = optax.sgd(config.learning_rate, config.momentum)
    return MetricLoss(loss, config.coefficient, init, optimizer)


def _triplet(config: ConfigDict) -> MetricLoss:
    def loss(params, outputs, labels, axis_name):
        options = config.margin, config.mining, config.squared
        return losses.triplet(outputs.features, labels, *options, axis_name)

    return MetricLoss(loss, config.coefficient)


def _supervised_contrastive(config: ConfigDict) -> MetricLoss:
    def loss(params, outputs, labels, axis_name):
        embeddings = outputs.embeddings
        return losses.supervised_contrastive(embeddings, labels, config.temperature, axis_name)

    return MetricLoss(loss, config.coefficient, projection=tuple(config.projection))


def _balanced_contrastive(config: ConfigDict) -> MetricLoss:
    def loss(params, outputs, labels, axis_name):
        return losses.balanced_contrastive(
            outputs.embeddings, labels, params['prototypes'], config.temperature, axis_name
        )

    def init(key, num_classes, feature_dim):
        return {'prototypes': jax.random.normal(key, (num_classes, config.projection[-1]))}

    optimizer = optax.sgd(config.learning_rate, config.momentum)
    return MetricLoss(loss, config.coefficient, init, optimizer, tuple(config.projection))


# Each takes its own group of `config.metric`.
METRIC_LOSSES = {
    'center': _center,
    'triplet': _triplet,
    'supervised_contrastive': _supervised_contrastive,
    'balanced_contrastive': _balanced_contrastive,
}


@dataclass(frozen=True)
class Objective:
    """Classification loss + coefficient x metric loss; either may be missing.

    With `normalize_weights` the classification loss is divided by the sum of the class weights,
    without by the number of examples (class-balanced losses; Cui et al. 2019).
    """

    classification: ClassificationLoss | None
    metric: MetricLoss | None = None
    normalize_weights: bool = True

    @property
    def logs(self) -> tuple[str, ...]:
        """Names of the scalars that it logs."""
        classification = ('classification', 'accuracy') if self.classification else ()
        return ('loss', *classification, *(('metric',) if self.metric else ()))

    def __call__(
        self,
        outputs: Outputs,
        batch: dict[str, jax.Array],
        inputs: LossInputs,
        metric_params: Any,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The value on the global batch and the scalars to log.

        `batch` has `label` `[B]` int32 and, for mixed images, `target` `[B, C]`: the probabilities
        that replace the labels in the loss. `axis_name` is the devices' axis, if any.
        """
        value, logs = jnp.zeros(()), {}
        if self.classification is not None:
            targets, weights, labels = _targets(batch, inputs.class_weights)
            values = self.classification.loss(outputs, targets, inputs.class_counts)
            if not self.normalize_weights:
                values, weights = weights * values, jnp.ones_like(weights)
            classification = losses.weighted_mean(values, weights, axis_name)
            value += classification
            correct = jnp.argmax(outputs.logits, axis=-1) == labels
            logs |= {'classification': classification, 'accuracy': jnp.mean(correct)}
        if self.metric is not None:
            with jax.named_scope('metric_loss'):
                metric = self.metric.loss(metric_params, outputs, batch['label'], axis_name)
            value += self.metric.coefficient * metric
            logs['metric'] = metric
        return value, {'loss': value} | logs


@dataclass(frozen=True)
class BilateralObjective:
    """BBN's loss on two branches, each with a batch of its own (Zhou et al. 2020, section 4).

    It is alpha L(z, y_c) + (1 - alpha) L(z, y_r) with the labels y_c of the conventional and y_r of
    the re-balancing branch, and the logits z of 2 [alpha f_c; (1 - alpha) f_r].
    """

    classification: ClassificationLoss
    metric: None = None
    logs: tuple[str, ...] = ('loss', 'classification', 'accuracy')

    def __call__(
        self,
        outputs: Outputs,
        batch: dict[str, Any],
        inputs: LossInputs,
        metric_params: Any,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The value on a batch and the `second` beside it; see `Objective`."""
        value = accuracy = jnp.zeros(())
        predicted = jnp.argmax(outputs.logits, axis=-1)
        of_branches = batch['label'], batch['second']['label']
        for weight, labels in zip(inputs.branch_weights, of_branches, strict=True):
            values = self.classification.loss(outputs, labels, inputs.class_counts)
            value += weight * losses.weighted_mean(values, jnp.ones_like(values), axis_name)
            accuracy += weight * jnp.mean(predicted == labels)
        return value, {'loss': value, 'classification': value, 'accuracy': accuracy}


def _targets(
    batch: dict[str, jax.Array], class_weights: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The loss's targets, the weight of each example and the labels that count as correct."""
    if 'target' not in batch:
        return batch['label'], class_weights[batch['label']], batch['label']
    # Losses are linear in probabilities, so each class of a mixed image gets its own weight.
    weighted = batch['target'] * class_weights
    weights = jnp.sum(weighted, axis=-1)
    return weighted / weights[:, None], weights, jnp.argmax(batch['target'], axis=-1)
