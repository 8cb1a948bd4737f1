"""Batch normalisation as torch defines it (Ioffe & Szegedy 2015), on one device or many."""

from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from metriclt_jax.errors import InputError
from metriclt_jax.models.initializers import Initializer, constant


class BatchNorm(nn.Module):
    """Normalises each channel of `[B, H, W, C]`, or of `[B, C]`; output in `dtype`.

    With `train` by the mean and the biased variance of the batch, which also move the running
    statistics (`batch_stats`: `mean`, `var`, both `[C]`); without, by the running statistics. As in
    torch the running variance is the unbiased one. Statistics are float32 whatever `dtype` is; with
    `axis_name` they are those of the global batch, over all devices.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    axis_name: str | None = None
    dtype: jnp.dtype = jnp.float32
    scale_init: Initializer = constant(1.0)
    bias_init: Initializer = constant(0.0)
    mean_init: Initializer = constant(0.0)
    var_init: Initializer = constant(1.0)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False, moments: 'Moments | None' = None
    ) -> jax.Array:
        """Normalises `x`; `train` needs `mutable=['batch_stats']`.

        `moments` are those of `x`, from `batch_moments`, if the caller knows them already.
        """
        channels = x.shape[-1:]
        scale = self.param('scale', self.scale_init, channels)
        bias = self.param('bias', self.bias_init, channels)
        running_mean = self.variable('batch_stats', 'mean', self.mean_init, None, channels)
        running_var = self.variable('batch_stats', 'var', self.var_init, None, channels)
        if train:
            mean, var, count = moments or batch_moments(x, self.axis_name)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                keep = 1 - self.momentum
                running_mean.value = keep * running_mean.value + self.momentum * mean
                running_var.value = keep * running_var.value + self.momentum * unbiased
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply-add, as `x - mean` would be kept in memory for the backward pass.
        multiplier = scale * lax.rsqrt(var + self.epsilon)
        return (x * multiplier + (bias - mean * multiplier)).astype(self.dtype)


class Moments(NamedTuple):
    """Mean `[C]`, biased variance `[C]`, and from how many values of each channel they are."""

    mean: jax.Array
    var: jax.Array
    count: int


def batch_moments(x: jax.Array, axis_name: str | None = None) -> Moments:
    """The moments of the channels of `x` `[..., C]`, over all devices.

    Raises InputError when there is one value per channel, which has no variance.
    """
    axes = tuple(range(x.ndim - 1))
    count = x.size // x.shape[-1]
    x = x.astype(jnp.float32)
    # Mean and mean of squares share one pass over the activations and one message.
    moments = jnp.stack([jnp.mean(x, axes), jnp.mean(x * x, axes)])
    if axis_name is not None:
        count *= lax.psum(1, axis_name)
        moments = lax.pmean(moments, axis_name)
    if count < 2:
        raise InputError(
            'batch normalisation got 1 value per channel in training; '
            'use a batch of at least 2 images'
        )
    mean, mean_of_squares = moments
    return Moments(mean, jnp.maximum(mean_of_squares - mean * mean, 0.0), count)


def concatenate_moments(moments: Sequence[Moments]) -> Moments:
    """The moments of channels side by side."""
    means, variances, counts = zip(*moments, strict=True)
    return Moments(jnp.concatenate(means), jnp.concatenate(variances), counts[0])
