"""MobileNetV2 (Sandler et al. 2018), layer for layer torchvision's.

Modules are named as in torchvision without its `features.` in front, so that its weights port.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metriclt_jax.errors import InputError
from metriclt_jax.models.layers import BatchNorm, Conv, ConvNorm, StatisticsGroup, require_positive

# Expansion factor, output channels, number of blocks, stride of the first (table 2 of the paper).
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Bottleneck(nn.Module):
    """The layers of an inverted residual: 1 x 1 to `expansion` times the channels (left out at 1),
    depthwise 3 x 3, and 1 x 1 to `features` without an activation.
    """

    features: int
    stride: int
    expansion: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, train):
        hidden, i = self.expansion * x.shape[-1], 0
        layer = partial(ConvNorm, hidden, self.conv, self.norm)
        if self.expansion > 1:
            x, i = nn.relu6(layer(name='0')(x, train)), 1
        x = nn.relu6(layer(3, self.stride, groups=hidden, name=f'{i}')(x, train))
        x = self.conv(self.features, 1, name=f'{i + 1}')(x)
        return self.norm(name=f'{i + 2}')(x, train)


class _InvertedResidual(_Bottleneck):
    """A bottleneck, and a shortcut around it where it keeps the shape."""

    @nn.compact
    def __call__(self, x, train):
        shape = self.features, self.stride, self.expansion
        y = _Bottleneck(*shape, self.conv, self.norm, name='conv')(x, train)
        keeps_shape = self.stride == 1 and x.shape[-1] == self.features
        return x + y if keeps_shape else y


class MobileNetV2(nn.Module):
    """Images `[B, H, W, 3]` to features `[B, D]`, float32: stem, stages, global average."""

    stages: tuple[tuple[int, int, int, int], ...] = STAGES
    width_multiplier: float = 1.0  # scales the channels of all layers, to multiples of 8
    remat: bool = False  # compute the inside of a block again in the backward pass
    statistics: StatisticsGroup = StatisticsGroup()
    dtype: jnp.dtype = jnp.float32  # of the computation

    def __post_init__(self):
        require_positive(self, 'stages')
        if any(len(stage) != 4 for stage in self.stages):
            raise InputError(f'stages is {self.stages}; each must have 4 numbers')
        if not self.width_multiplier > 0:
            raise InputError(f'width_multiplier is {self.width_multiplier}; use a number above 0')
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features of `images`; with `train` batch statistics are used and updated."""
        conv = partial(Conv, dtype=self.dtype)
        norm = partial(BatchNorm, group=self.statistics, dtype=self.dtype)
        block = nn.remat(_InvertedResidual, static_argnums=2) if self.remat else _InvertedResidual
        width = self.width_multiplier
        stem = ConvNorm(multiple_of_8(32 * width), conv, norm, 3, stride=2, name='0')
        x, i = nn.relu6(stem(images, train)), 1
        for expansion, channels, size, first_stride in self.stages:
            for stride in (first_stride, *[1] * (size - 1)):
                features = multiple_of_8(channels * width)
                x = block(features, stride, expansion, conv, norm, name=f'{i}')(x, train)
                i += 1
        last = multiple_of_8(1280 * max(1.0, width))
        x = nn.relu6(ConvNorm(last, conv, norm, name=f'{i}')(x, train))
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))


def multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, or the next one if that would lose more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * channels else nearest + 8
