"""Densely connected networks (Huang et al. 2017), layer for layer those of torchvision.

Modules are named as in torchvision without its `features.` in front, so that its weights port.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metriclt_jax.models import layers


class _DenseLayer(nn.Module):
    """Norm, ReLU, 1 x 1 to 4 `growth_rate` maps, and norm, ReLU, 3 x 3 to `growth_rate`."""

    growth_rate: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, moments, train):
        y = nn.relu(self.norm(name='norm1')(x, train, moments))
        y = self.conv(4 * self.growth_rate, 1, name='conv1')(y)
        y = nn.relu(self.norm(name='norm2')(y, train))
        return self.conv(self.growth_rate, 3, name='conv2')(y)


class _DenseBlock(nn.Module):
    """Layers that each see the maps of all before; their moments, in training, are taken once."""

    layer: Any
    size: int
    statistics: layers.StatisticsGroup

    @nn.compact
    def __call__(self, x, train):
        moments = layers.batch_moments(x, self.statistics) if train else None
        for i in range(self.size):
            y = self.layer(name=f'denselayer{i + 1}')(x, moments, train)
            x = jnp.concatenate([x, y], axis=-1)
            if train:
                added = layers.batch_moments(y, self.statistics)
                moments = layers.concatenate_moments(moments, added)
        return x, moments


class _Transition(nn.Module):
    """Norm, ReLU, 1 x 1 to half the channels, average over 2 x 2: `[B, H / 2, W / 2, C / 2]`."""

    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, moments, train):
        x = nn.relu(self.norm(name='norm')(x, train, moments))
        x = self.conv(x.shape[-1] // 2, 1, name='conv')(x)
        return layers.average_pool(x, window=2)


class DenseNet(nn.Module):
    """Images `[B, H, W, 3]` to features `[B, D]`, float32: stem, dense blocks, global average.

    The defaults are those of DenseNet-121.
    """

    block_sizes: tuple[int, ...] = (6, 12, 24, 16)  # layers of each block
    growth_rate: int = 32  # feature maps that a layer adds
    width: int = 64  # channels after the stem: 7 x 7 with stride 2, then max-pooling
    remat: bool = False  # compute the inside of a layer again in the backward pass
    statistics: layers.StatisticsGroup = layers.StatisticsGroup()
    dtype: jnp.dtype = jnp.float32  # of the computation

    def __post_init__(self):
        layers.require_positive(self, 'block_sizes', 'growth_rate', 'width')
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Features of `images`; with `train` batch statistics are used and updated."""
        conv = partial(layers.Conv, dtype=self.dtype, kernel_init=layers.kaiming_normal('fan_in'))
        norm = partial(layers.BatchNorm, group=self.statistics, dtype=self.dtype)
        layer = nn.remat(_DenseLayer, static_argnums=3) if self.remat else _DenseLayer
        layer = partial(layer, self.growth_rate, conv, norm)
        x = conv(self.width, 7, stride=2, name='conv0')(images)
        x = nn.relu(norm(name='norm0')(x, train))
        x = layers.max_pool(x, window=3, stride=2, padding=1)
        for i, size in enumerate(self.block_sizes, start=1):
            x, moments = _DenseBlock(layer, size, self.statistics, name=f'denseblock{i}')(x, train)
            if i < len(self.block_sizes):
                x = _Transition(conv, norm, name=f'transition{i}')(x, moments, train)
        x = nn.relu(norm(name=f'norm{len(self.block_sizes) + 1}')(x, train, moments))
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))
