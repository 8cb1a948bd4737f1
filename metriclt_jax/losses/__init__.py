"""Losses as pure functions of arrays: classification, metric learning, class weights.

They can be used in any JAX code. Every function can be jitted, calculates in float32 or wider, and
stays finite, as do its gradients; labels and values that it is not made for give NaN. The formulas,
and other libraries' losses beside these: docs/losses.md.
"""

from metriclt_jax.losses import class_weights
from metriclt_jax.losses.classification import (
    adjust_logits,
    arcface,
    cosface,
    cross_entropy,
    focal,
    ldam,
    ldam_margins,
    logit_adjusted,
)
from metriclt_jax.losses.metric import balanced_contrastive, center, supervised_contrastive, triplet
from metriclt_jax.losses.reductions import weighted_mean

__all__ = [
    'adjust_logits',
    'arcface',
    'balanced_contrastive',
    'center',
    'class_weights',
    'cosface',
    'cross_entropy',
    'focal',
    'ldam',
    'ldam_margins',
    'logit_adjusted',
    'supervised_contrastive',
    'triplet',
    'weighted_mean',
]
