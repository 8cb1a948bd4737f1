"""Heads of stage 2 that are computed instead of trained, from what stage 1 left.

All are closed forms (Kang et al. 2020, section 4; Menon et al. 2021, section 4.1), so a stage that
uses one has no epochs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from metriclt_jax import losses

Head = dict[str, jax.Array]


class Features(NamedTuple):
    """The training part as stage 1's backbone sees it, without augmentation.

    Attributes:
        features: `[N, D]`.
        labels: `[N]`.
    """

    features: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class HeadRule:
    """How a head is computed.

    Attributes:
        compute: `(head, counts, features)` -> the new head's parameters. `head` is stage 1's
            (`kernel` `[D, C]`, `bias` `[C]`), `counts` `[C]` the training images of each class,
            and `features` a function without arguments that gives the `Features`.
        head: the kind of the new head, a key of `models.heads.HEADS`.
        scale: of the logits of a cosine head.
        needs_classifier: whether it starts from a linear classifier that stage 1 trained.
    """

    compute: Callable[[Head, np.ndarray, Callable[[], Features]], Head]
    head: str = 'linear'
    scale: float = 1.0
    needs_classifier: bool = True


def tau_normalized(head: Head, tau: float) -> Head:
    """Class vectors w / |w|^tau, without bias (Kang et al. 2020, equation 3).

    `head` has `kernel` `[D, C]` and `bias` `[C]`. With `tau` 0 only the bias goes, with 1 all
    vectors have length 1.
    """
    kernel = jnp.asarray(head['kernel'])
    norms = jnp.linalg.norm(kernel, axis=0, keepdims=True)
    return {'kernel': kernel / norms**tau, 'bias': jnp.zeros_like(head['bias'])}


def adjusted_post_hoc(head: Head, counts: np.ndarray, tau: float) -> Head:
    """Logits minus tau times the log of the class priors (Menon et al. 2021, equation 9).

    `head` has `kernel` `[D, C]` and `bias` `[C]`; `counts` `[C]` are the training images of each
    class, and a prior is a share of them.
    """
    bias = losses.adjust_logits(jnp.asarray(head['bias'])[None], counts, tau)[0]
    return {'kernel': jnp.asarray(head['kernel']), 'bias': bias}


def nearest_class_mean(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Head:
    """The means of the classes as vectors of a cosine head (Kang et al. 2020, section 4.2).

    `features` `[N, D]`, `labels` `[N]`; the result has `kernel` `[D, C]`. Each class must have at
    least one example.
    """
    sums = np.zeros((num_classes, features.shape[1]), np.float64)
    np.add.at(sums, labels, features)
    means = sums / np.bincount(labels, minlength=num_classes)[:, None]
    return {'kernel': jnp.asarray(means.T, jnp.float32)}


def _tau_normalized(config: ConfigDict) -> HeadRule:
    return HeadRule(lambda head, counts, features: tau_normalized(head, config.tau))


def _adjusted_post_hoc(config: ConfigDict) -> HeadRule:
    return HeadRule(lambda head, counts, features: adjusted_post_hoc(head, counts, config.tau))


def _nearest_class_mean(config: ConfigDict) -> HeadRule:
    def compute(head, counts, features):
        return nearest_class_mean(*features(), len(counts))

    return HeadRule(compute, 'cosine', config.scale, needs_classifier=False)


HEAD_RULES = {
    'tau_normalized': _tau_normalized,
    'adjusted_post_hoc': _adjusted_post_hoc,
    'nearest_class_mean': _nearest_class_mean,
}


def make_head_rule(name: str, config: ConfigDict) -> HeadRule | None:
    """The rule `name` with its fields of `config.second_heads`; None for a head that is trained."""
    return HEAD_RULES[name](config[name]) if name in HEAD_RULES else None
