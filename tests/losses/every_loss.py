"""The classification losses as functions of scores and labels of three classes."""

import functools

import numpy as np

from metriclt_jax import losses

COUNTS = np.array([5000, 500, 50])
CLASSIFICATION = {
    'cross_entropy': losses.cross_entropy,
    'focal': losses.focal,
    'logit_adjusted': functools.partial(losses.logit_adjusted, class_counts=COUNTS),
    'ldam': functools.partial(losses.ldam, class_counts=COUNTS),
    'cosface': losses.cosface,
    'arcface': losses.arcface,
}
