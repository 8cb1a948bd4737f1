"""What all backbones are made of: initializers, Conv, BatchNorm, pooling. Images are NHWC."""

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metriclt_jax.errors import InputError
from metriclt_jax.models.convolution import convolve, window_taps

# Initializers have Flax's signature, `(rng, shape, dtype=float32) -> array [*shape]`. With a
# `numpy.random.Generator` as `rng` they give a NumPy array of the same distribution.
Initializer = Callable[..., jax.Array | np.ndarray]


def constant(value: float) -> Initializer:
    """Every entry is `value`."""
    return lambda rng, shape, dtype=jnp.float32: np.full(shape, value, dtype)


def uniform(bound: float) -> Initializer:
    """Uniform on [-bound, bound]; torch's Linear has bound 1/sqrt(fan_in), kernel and bias."""

    def initializer(rng, shape: Sequence[int], dtype=jnp.float32):
        if isinstance(rng, np.random.Generator):
            return rng.uniform(-bound, bound, shape).astype(dtype)
        return jax.random.uniform(rng, shape, dtype, -bound, bound)

    return initializer


def kaiming_normal(mode: str) -> Initializer:
    """Normal with variance 2 / fan (He et al. 2015) for kernels `[kh, kw, cin / groups, cout]`.

    `mode` is 'fan_in' (kh kw cin / groups) or 'fan_out' (kh kw cout, as torch counts it).
    """
    axis = {'fan_in': -2, 'fan_out': -1}[mode]

    def initializer(rng, shape: Sequence[int], dtype=jnp.float32):
        std = math.sqrt(2 / (math.prod(shape[:-2]) * shape[axis]))
        if isinstance(rng, np.random.Generator):
            return (std * rng.standard_normal(shape, np.float32)).astype(dtype)
        return std * jax.random.normal(rng, shape, dtype)

    return initializer


class Conv(nn.Module):
    """2-D convolution without bias, padded by `kernel_size // 2`, in `dtype`.

    `[B, H, W, cin]` to `[B, ceil(H / stride), ceil(W / stride), features]` for an odd size. The
    parameter `kernel` `[kernel_size, kernel_size, cin / groups, features]` is float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    groups: int = 1
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = kaiming_normal('fan_out')

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` with the kernel."""
        size = self.kernel_size
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param('kernel', self.kernel_init, shape).astype(self.dtype)
        return convolve(x.astype(self.dtype), kernel, self.stride, size // 2, self.groups)


class ConvNorm(nn.Module):
    """A convolution, `0`, and a norm, `1`, as partials of `Conv` and `BatchNorm`."""

    features: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    kernel_size: int = 1
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """`[B, H, W, C]` to `[B, H / stride, W / stride, features]`."""
        x = self.conv(self.features, self.kernel_size, self.stride, self.groups, name='0')(x)
        return self.norm(name='1')(x, train)


class StatisticsGroup(NamedTuple):
    """Which images share the statistics of BatchNorm: those of `axis_name`, or of one device.

    With `images` above 0, neighbouring images of that number, on one device or several.
    """

    axis_name: str | None = None
    images: int = 0


class Moments(NamedTuple):
    """Mean and biased variance of `count` values per channel, `[C]` or `[groups, C]`."""

    mean: jax.Array
    var: jax.Array
    count: int


class BatchNorm(nn.Module):
    """Batch normalisation as torch defines it (Ioffe & Szegedy 2015); output in `dtype`.

    With `train` it takes the mean and the biased variance of each image's group and moves the
    running statistics (`batch_stats`: `mean` and unbiased `var`, both `[C]`, float32) by the mean
    over groups; otherwise it takes these.
    """

    momentum: float = 0.1
    epsilon: float = 1e-5
    group: StatisticsGroup = StatisticsGroup()
    dtype: jnp.dtype = jnp.float32
    scale_init: Initializer = constant(1.0)
    bias_init: Initializer = constant(0.0)
    mean_init: Initializer = constant(0.0)
    var_init: Initializer = constant(1.0)

    @nn.compact
    @jax.named_scope('batch_norm')
    def __call__(
        self, x: jax.Array, train: bool = False, moments: Moments | None = None
    ) -> jax.Array:
        """Normalises `x` `[B, ..., C]`; `moments` saves computing its `batch_moments` again."""
        channels = x.shape[-1:]
        scale = self.param('scale', self.scale_init, channels)
        bias = self.param('bias', self.bias_init, channels)
        running_mean = self.variable('batch_stats', 'mean', self.mean_init, None, channels)
        running_var = self.variable('batch_stats', 'var', self.var_init, None, channels)
        if train:
            mean, var, count = moments or batch_moments(x, self.group)
            if not self.is_initializing():
                unbiased = var * (count / (count - 1))
                keep = 1 - self.momentum
                for running, of_groups in ((running_mean, mean), (running_var, unbiased)):
                    of_batch = jnp.mean(of_groups.reshape(-1, *channels), axis=0)
                    running.value = keep * running.value + self.momentum * of_batch
        else:
            mean, var = running_mean.value, running_var.value
        # One multiply-add, as `x - mean` would be kept in memory for the backward pass.
        multiplier = scale * lax.rsqrt(var + self.epsilon)
        offset = bias - mean * multiplier
        if mean.ndim > 1:  # [groups, C]
            of_image = (len(x), *(1,) * (x.ndim - 2), -1)
            multiplier, offset = (
                jnp.repeat(value, len(x) // len(value), axis=0).reshape(of_image)
                for value in (multiplier, offset)
            )
        return (x * multiplier + offset).astype(self.dtype)


@jax.named_scope('batch_norm')
def batch_moments(x: jax.Array, group: StatisticsGroup) -> Moments:
    """The moments of the channels of `x` `[B, ..., C]`, over each image's group."""
    devices = 1 if group.axis_name is None else lax.axis_size(group.axis_name)
    size = group.images or len(x) * devices
    groups, neighbours = max(len(x) // size, 1), max(size // len(x), 1)  # of a device; of a group
    if groups * size != neighbours * len(x) or devices % neighbours:
        raise InputError(
            f'batch_norm_group is {size}, which divides neither the {len(x)} images of a device '
            f'nor the {devices} devices into equal groups; use a divisor or a multiple of {len(x)}'
        )
    count = neighbours * x.size // (groups * x.shape[-1])
    if count < 2:
        raise InputError('batch normalisation got 1 value per channel; use at least 2 images')
    x = x.astype(jnp.float32)
    if groups > 1:
        x = x.reshape(groups, size, *x.shape[1:])
    axes = tuple(range(groups > 1, x.ndim - 1))
    # Mean and mean of squares share one pass over the activations and one message.
    moments = jnp.stack([jnp.mean(x, axes), jnp.mean(x * x, axes)])
    if group.axis_name is not None and (neighbours > 1 or not group.images):
        together = np.arange(devices).reshape(-1, neighbours).tolist()
        moments = lax.pmean(moments, group.axis_name, axis_index_groups=together)
    mean, mean_of_squares = moments
    return Moments(mean, jnp.maximum(mean_of_squares - mean * mean, 0.0), count)


def concatenate_moments(first: Moments, second: Moments) -> Moments:
    """The moments of channels side by side."""
    mean = jnp.concatenate([first.mean, second.mean], axis=-1)
    return Moments(mean, jnp.concatenate([first.var, second.var], axis=-1), first.count)


def average_pool(x: jax.Array, window: int) -> jax.Array:
    """Mean over windows side by side, as torch's AvgPool2d; rows and columns left over go."""
    batch, height, width, channels = x.shape
    height, width = height // window, width // window
    x = x[:, : height * window, : width * window]
    return x.reshape(batch, height, window, width, window, channels).mean(axis=(2, 4))


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over windows, as torch's MaxPool2d; the first of equal values takes the gradient."""

    def shifted(x):  # on CPU its backward pass is much faster than XLA's scattering
        return _max_along(_max_along(x, 2, window, stride, padding), 1, window, stride, padding)

    def reduced(x):
        return nn.max_pool(x, (window,) * 2, (stride,) * 2, ((padding,) * 2,) * 2)

    return lax.platform_dependent(x, cpu=shifted, default=reduced)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3, 4))
def _max_along(x, axis, window, stride, padding):
    return reduce(jnp.maximum, window_taps(x, axis, window, stride, padding, -jnp.inf))


def _max_forward(x, axis, window, stride, padding):
    maximum = _max_along(x, axis, window, stride, padding)
    return maximum, (x, maximum)


def _max_backward(axis, window, stride, padding, saved, gradient):
    x, maximum = saved
    zero = jnp.zeros((), gradient.dtype)
    taken = jnp.zeros(maximum.shape, bool)
    total = jnp.zeros_like(x)
    for tap, seen in enumerate(window_taps(x, axis, window, stride, padding, -jnp.inf)):
        first = (seen == maximum) & ~taken
        taken |= first
        # Back to where the tap saw it: position p of the output is p * stride + low of the input.
        low = tap - padding
        high = x.shape[axis] - low - (maximum.shape[axis] - 1) * stride - 1
        widths = [(low, high, stride - 1) if i == axis else (0, 0, 0) for i in range(x.ndim)]
        total += lax.pad(jnp.where(first, gradient, zero), zero, widths)
    return (total,)


_max_along.defvjp(_max_forward, _max_backward)


def require_positive(module: nn.Module, *fields: str) -> None:
    """Raises InputError for a field of `module` that is empty or has a number below 1."""
    for field in fields:
        value = getattr(module, field)
        if min(jax.tree.leaves(value), default=0) < 1:
            raise InputError(f'{field} is {value}; use numbers of at least 1')
