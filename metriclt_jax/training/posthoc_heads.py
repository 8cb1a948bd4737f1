"""Heads of stage 2 that are computed instead of trained, from what stage 1 left.

All are closed forms (Kang et al. 2020, section 4; Menon et al. 2021, section 4.1).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from metriclt_jax import losses

Head = dict[str, jax.Array]


@dataclass(frozen=True)
class PosthocHead:
    """How a head is computed.

    `compute(head, counts, features)` gets stage 1's head (`kernel` `[D, C]`, `bias` `[C]`), the
    training images of each class `[C]`, and a function that returns features `[N, D]` and labels
    `[N]` of the training part, without augmentation.
    """

    compute: Callable[[Head, np.ndarray, Callable[[], tuple[np.ndarray, np.ndarray]]], Head]
    head: str = 'linear'  # the kind of the new head, a key of `models.heads.HEADS`
    scale: float = 1.0  # of the logits of a cosine head
    needs_classifier: bool = True  # starts from a linear classifier that stage 1 trained


def tau_normalized(head: Head, tau: float) -> Head:
    """Class vectors w / |w|^tau, without bias (Kang et al. 2020, equation 3)."""
    kernel = jnp.asarray(head['kernel'])
    norms = jnp.linalg.norm(kernel, axis=0, keepdims=True)
    return {'kernel': kernel / norms**tau, 'bias': jnp.zeros_like(head['bias'])}


def adjusted_post_hoc(head: Head, counts: np.ndarray, tau: float) -> Head:
    """Logits minus tau x log of the class priors (Menon et al. 2021, equation 9)."""
    bias = losses.adjust_logits(jnp.asarray(head['bias'])[None], counts, tau)[0]
    return {'kernel': jnp.asarray(head['kernel']), 'bias': bias}


def nearest_class_mean(features: np.ndarray, labels: np.ndarray, num_classes: int) -> Head:
    """Class means as the vectors of a cosine head (Kang et al. 2020, section 4.2)."""
    sums = np.zeros((num_classes, features.shape[1]), np.float64)
    np.add.at(sums, labels, features)
    means = sums / np.bincount(labels, minlength=num_classes)[:, None]
    return {'kernel': jnp.asarray(means.T, jnp.float32)}


# Each takes its own group of `config.second_heads`.
POSTHOC_HEADS: dict[str, Callable[[ConfigDict], PosthocHead]] = {
    'tau_normalized': lambda config: PosthocHead(
        lambda head, counts, features: tau_normalized(head, config.tau)
    ),
    'adjusted_post_hoc': lambda config: PosthocHead(
        lambda head, counts, features: adjusted_post_hoc(head, counts, config.tau)
    ),
    'nearest_class_mean': lambda config: PosthocHead(
        lambda head, counts, features: nearest_class_mean(*features(), len(counts)),
        head='cosine',
        scale=config.scale,
        needs_classifier=False,
    ),
}
