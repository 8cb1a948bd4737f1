"""Backbone, head and projection put together, and the names they are chosen by."""

import inspect
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metriclt_jax.errors import InputError
from metriclt_jax.models.densenet import DenseNet
from metriclt_jax.models.heads import HEADS, Projection, dropout
from metriclt_jax.models.layers import StatisticsGroup
from metriclt_jax.models.mobilenet_v2 import MobileNetV2
from metriclt_jax.models.resnet import resnet18, resnet50

BACKBONES = {
    'resnet18': resnet18,
    'resnet50': resnet50,
    'densenet121': DenseNet,
    'mobilenet_v2': MobileNetV2,
}
# The rate of torchvision's classifier, where it has dropout.
DROPOUT = {'mobilenet_v2': 0.2}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Outputs(NamedTuple):
    """What a classifier returns, all float32."""

    features: jax.Array  # [B, D], pooled output of the backbone, before dropout
    logits: jax.Array  # [B, C]
    embeddings: jax.Array | None = None  # [B, P], of unit length, from the projection
    cosines: jax.Array | None = None  # [B, C], between features and class weights


class Classifier(nn.Module):
    """A backbone with its head: normalised images `[B, H, W, 3]` to Outputs.

    Parameters are grouped as `backbone`, `head` and, with these options, `projection` and `scales`.
    """

    backbone: nn.Module
    num_classes: int
    head: str = 'linear'
    scale: float = 30.0
    projection: tuple[int, ...] = ()
    dropout: float = 0.0
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self,
        images: jax.Array | tuple[jax.Array, ...],
        train: bool = False,
        backbone_train: bool | None = None,
        branch_weights: jax.Array | None = None,
    ) -> Outputs:
        """Classifies `images`.

        Args:
            images: a batch or, for a backbone with branches, a tuple with a batch for each.
            train: updates the batch statistics (pass `mutable=['batch_stats']`) and turns dropout
                on (pass `rngs={'dropout': key}`).
            backbone_train: False leaves the statistics of a frozen backbone alone; the default is
                `train`.
            branch_weights: factors `[n]` of the features of each branch, as the head sees them.
        """
        features = self.backbone(images, train if backbone_train is None else backbone_train)
        embeddings = None
        if self.projection:
            embeddings = Projection(self.projection, name='projection')(features)
        seen = features
        if branch_weights is not None:
            seen = features * jnp.repeat(branch_weights, features.shape[-1] // len(branch_weights))
        if train and self.dropout:
            seen = dropout(seen, self.dropout, self.make_rng('dropout'), self.axis_name)
        outputs = HEADS[self.head](seen, self.num_classes, self.scale)
        return Outputs(features, embeddings=embeddings, **outputs)


def create_model(
    name: str,
    num_classes: int,
    *,
    head: str = 'linear',
    scale: float = 30.0,
    projection: Sequence[int] | None = None,
    dropout: float | None = None,
    dtype: str = 'float32',
    axis_name: str | None = None,
    cross_device_batch_norm: bool = True,
    batch_norm_group: int = 0,
    **backbone_options: Any,
) -> Classifier:
    """Makes a classifier; raises InputError for a name or a value that is not allowed.

    Args:
        name: resnet18, resnet50, densenet121 or mobilenet_v2.
        num_classes: at least 2.
        head: 'linear', 'rescaled' (linear, and a scale for each class) or 'cosine'.
        scale: factor from the cosines of a cosine head to its logits.
        projection: widths of the projection's layers.
        dropout: probability with which the head does not see a feature in training; None is
            torchvision's (0.2 for mobilenet_v2, else 0).
        dtype: of the computation, 'float32' or 'bfloat16'; parameters, statistics and outputs are
            float32.
        axis_name: axis of the devices that share a batch in training.
        cross_device_batch_norm: whether BatchNorm takes its statistics over all of them.
        batch_norm_group: number of neighbouring images that share these statistics, on one device
            or several; 0 for all.
        **backbone_options: fields of `ResNet`, `DenseNet` or `MobileNetV2`.

    >>> model = create_model('resnet18', 7, stage_sizes=(1, 1), width=16, stem='small')
    >>> variables = initialize(model, seed=0)
    >>> model.apply(variables, jnp.zeros((2, 16, 16, 3))).logits.shape
    (2, 7)
    """
    _require_one_of('model', name, BACKBONES)
    for option in backbone_options:
        _require_one_of(f'option of {name}', option, options_of(name))
    _require_one_of('head', head, HEADS)
    _require_one_of('dtype', dtype, DTYPES)
    if num_classes < 2:
        raise InputError(f'num_classes is {num_classes}; a classifier needs at least 2')
    if projection and min(projection) < 1:
        raise InputError(f'projection is {tuple(projection)}; its widths must be at least 1')
    dropout = DROPOUT.get(name, 0.0) if dropout is None else dropout
    if not 0 <= dropout < 1:
        raise InputError(f'dropout is {dropout}; it must be 0 or more and below 1')
    options = {option: _hashable(value) for option, value in backbone_options.items()}
    shared = StatisticsGroup(axis_name if cross_device_batch_norm else None, batch_norm_group)
    backbone = BACKBONES[name](**options, dtype=DTYPES[dtype], statistics=shared)
    widths = tuple(projection or ())
    return Classifier(backbone, num_classes, head, scale, widths, dropout, axis_name)


def options_of(name: str) -> set[str]:
    """The options of the backbone `name`."""
    _require_one_of('model', name, BACKBONES)
    fields = set(inspect.signature(BACKBONES[name]).parameters)
    return fields - {'dtype', 'statistics', 'parent', 'name'}


def _hashable(value: Any) -> Any:
    """Sequences as tuples, since the fields of a module are static under `jit`."""
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value


def _require_one_of(what: str, name: str, choices: Collection[str]) -> None:
    if name not in choices:
        raise InputError(f'unknown {what} {name!r}; use one of {", ".join(sorted(choices))}')


def initialize(model: Classifier, seed: int) -> dict[str, Any]:
    """Fresh variables of `model` as NumPy arrays, without compiling.

    Drawn from the distributions of `model.init`, each by a NumPy generator seeded by `seed` and the
    path of the parameter: the same on every platform, and a part (a new head) does not depend on
    the rest.
    """
    modules = {}

    def remember(call, args, kwargs, context):
        modules[context.module.path] = context.module
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with nn.intercept_methods(remember):
        shapes = jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), images)

    drawn = {}
    for (collection, *parents, name), leaf in flatten_dict(shapes).items():
        generator = np.random.default_rng([seed, *'/'.join([*parents, name]).encode()])
        initializer = getattr(modules[tuple(parents)], f'{name}_init')
        drawn[collection, *parents, name] = initializer(generator, leaf.shape)
    return unflatten_dict(drawn)
