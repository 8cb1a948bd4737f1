"""Residual networks (He et al. 2016), layer for layer those of torchvision.

Modules are named as in torchvision, so that its weights port; a bottleneck strides on its 3 x 3.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from metriclt_jax.errors import InputError
from metriclt_jax.models import layers

# Kernel size and stride of the first convolution.
STEMS = {'imagenet': (7, 2), 'small': (3, 1)}


class _Block(nn.Module):
    """Convolutions with norms, and a shortcut: `[B, H, W, C]` to `[B, H/stride, W/stride, F]`.

    A basic block has two 3 x 3 to F = `planes` channels; a bottleneck has a 1 x 1 and a 3 x 3 to
    `planes`, and a 1 x 1 to F = 4 `planes`.
    """

    bottleneck: bool
    planes: int
    stride: int
    conv: Any
    norm: Any

    @nn.compact
    def __call__(self, x, train):
        basic = (self.planes, 3, self.stride), (self.planes, 3, 1)
        bottleneck = (self.planes, 1, 1), (self.planes, 3, self.stride), (4 * self.planes, 1, 1)
        y = x
        for i, layer in enumerate(bottleneck if self.bottleneck else basic, start=1):
            features, size, stride = layer
            y = self.conv(features, size, stride, name=f'conv{i}')(y if i == 1 else nn.relu(y))
            y = self.norm(name=f'bn{i}')(y, train)
        if self.stride != 1 or x.shape[-1] != features:
            shortcut = partial(layers.ConvNorm, features, self.conv, self.norm, 1, self.stride)
            x = shortcut(name='downsample')(x, train)
        return nn.relu(x + y)


class _Stage(nn.Module):
    """Blocks at one resolution, from a tuple of maps to one map for each branch.

    The branches share all blocks but the last, of which each has its own (`2`, `2_1`, ...).
    """

    block: Any
    planes: int
    size: int
    stride: int
    conv: Any
    norm: Any
    branches: int = 1

    @nn.compact
    def __call__(self, inputs, train):
        def block(i, branch=0):
            stride, name = self.stride if i == 0 else 1, branch_name(i, branch)
            return self.block(self.planes, stride, self.conv, self.norm, name=name)

        for i in range(self.size - 1):
            shared = block(i)
            inputs = tuple(shared(x, train) for x in inputs)
        own = [block(self.size - 1, branch) for branch in range(self.branches)]
        if len(own) == 1:
            own *= len(inputs)
        elif len(inputs) == 1:
            inputs *= len(own)
        return tuple(block(x, train) for block, x in zip(own, inputs, strict=True))


def branch_name(block: int, branch: int) -> str:
    """The name of a branch's own block; branch 0 has that of a network without branches."""
    return f'{block}_{branch}' if branch else str(block)


def split_branches(tree: dict[str, Any], branches: int) -> dict[str, Any]:
    """A tree of variables for `branches`, each with the last block (the same arrays) of `tree`."""
    stage = max(name for name in tree if name.startswith('layer'))
    block = max(map(int, tree[stage]))
    copies = {branch_name(block, i): tree[stage][str(block)] for i in range(branches)}
    return {**tree, stage: {**tree[stage], **copies}}


class ResNet(nn.Module):
    """Images `[B, H, W, 3]` to features `[B, D]`, float32: stem, stages, global average.

    The stem 'imagenet' is a 7 x 7 with stride 2, then max-pooling (resolution / 4), 'small' a 3 x 3
    for images of 16 to 64 pixels (full resolution). With several branches, each has its own last
    block behind a shared trunk, and the features of all are concatenated, `[B, branches D]` (Zhou
    et al. 2020, figure 3).
    """

    bottleneck: bool  # whether blocks are bottlenecks or basic
    stage_sizes: tuple[int, ...]  # blocks of each stage
    width: int = 64  # planes of the first stage; each further one halves the sides and doubles them
    stem: str = 'imagenet'
    remat: bool = False  # compute the inside of a block again in the backward pass
    branches: int = 1
    statistics: layers.StatisticsGroup = layers.StatisticsGroup()
    dtype: jnp.dtype = jnp.float32  # of the computation

    def __post_init__(self):
        layers.require_positive(self, 'stage_sizes', 'width', 'branches')
        if self.stem not in STEMS:
            raise InputError(f'stem is {self.stem!r}; use {" or ".join(STEMS)}')
        super().__post_init__()

    @nn.compact
    def __call__(self, images: jax.Array | tuple[jax.Array, ...], train: bool = False) -> jax.Array:
        """Features of `images`, or of a tuple with a batch for each branch.

        With `train` batch statistics are used, and updated once for each batch.
        """
        conv = partial(layers.Conv, dtype=self.dtype)
        norm = partial(layers.BatchNorm, group=self.statistics, dtype=self.dtype)
        block = nn.remat(_Block, static_argnums=2) if self.remat else _Block
        block = partial(block, self.bottleneck)
        conv1 = conv(self.width, *STEMS[self.stem], name='conv1')
        bn1 = norm(name='bn1')
        batches = images if isinstance(images, tuple) else (images,)
        if len(batches) not in (1, self.branches):
            raise ValueError(f'{self.branches} branches take 1 or {self.branches} batches')
        maps = tuple(nn.relu(bn1(conv1(batch), train)) for batch in batches)
        if self.stem == 'imagenet':
            maps = tuple(layers.max_pool(x, window=3, stride=2, padding=1) for x in maps)
        for i, stage_size in enumerate(self.stage_sizes):
            planes, stride = self.width * 2**i, 1 if i == 0 else 2
            branches = self.branches if i == len(self.stage_sizes) - 1 else 1
            stage = partial(_Stage, block, planes, stage_size, stride, conv, norm, branches)
            maps = stage(name=f'layer{i + 1}')(maps, train)
        features = [jnp.mean(x.astype(jnp.float32), axis=(1, 2)) for x in maps]
        return jnp.concatenate(features, axis=-1)


resnet18 = partial(ResNet, False, stage_sizes=(2, 2, 2, 2))
resnet50 = partial(ResNet, True, stage_sizes=(3, 4, 6, 3))
