"""Backbone, head and projection put together, and the names they are chosen by."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metriclt_jax.errors import InputError
from metriclt_jax.models import densenet, mobilenet_v2, resnet
from metriclt_jax.models.heads import HEADS, Projection, dropout

BACKBONES = {
    'resnet18': resnet.resnet18,
    'resnet50': resnet.resnet50,
    'densenet121': densenet.densenet121,
    'mobilenet_v2': mobilenet_v2.mobilenet_v2,
}
# The rate of torchvision's classifier, where it has dropout.
DROPOUT = {'mobilenet_v2': 0.2}
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


class Outputs(NamedTuple):
    """What a classifier returns, all float32.

    `features` `[B, D]`: pooled output of the backbone, before dropout. `logits` `[B, C]`.
    `embeddings` `[B, P]`: L2-normalised output of the projection, if there is one. `cosines`
    `[B, C]`: between features and class weights, if the head has them.
    """

    features: jax.Array
    logits: jax.Array
    embeddings: jax.Array | None = None
    cosines: jax.Array | None = None


class Classifier(nn.Module):
    """A backbone with its head: normalised images `[B, H, W, 3]` to Outputs.

    Parameters are grouped as `backbone`, `head` and, where `projection` gives widths, `projection`,
    and where the head is rescaled, `scales`; only the backbone has `batch_stats`. In training
    `dropout` is the probability with which the head does not see a feature, and `axis_name` the
    axis of the devices that share a batch. The logits of a cosine head are `scale` times its
    cosines.
    """

    backbone: nn.Module
    num_classes: int
    head: str = 'linear'
    scale: float = 30.0
    projection: tuple[int, ...] | None = None
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

        With `train` the batch statistics are updated: pass `mutable=['batch_stats']`; and where
        there is dropout it is on: pass `rngs={'dropout': key}`. A frozen backbone has
        `backbone_train=False` and leaves its statistics alone; the default is `train`.

        A backbone with n branches may get a tuple of images, a batch for each, and
        `branch_weights` `[n]`, by which the head sees the features of each branch multiplied.

        Raises InputError for dropout without a key.
        """
        features = self.backbone(images, train if backbone_train is None else backbone_train)
        embeddings = None
        if self.projection:
            embeddings = Projection(self.projection, name='projection')(features)
        seen = features
        if branch_weights is not None:
            branches = jnp.split(features, len(branch_weights), axis=-1)
            weighed = [w * f for w, f in zip(branch_weights, branches, strict=True)]
            seen = jnp.concatenate(weighed, axis=-1)
        if train and self.dropout:
            if not self.has_rng('dropout'):
                raise InputError(
                    f'dropout is {self.dropout} and the model got no key for it in training; '
                    "pass rngs={'dropout': key}"
                )
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
    **backbone_options: Any,
) -> Classifier:
    """Makes the classifier `name`: resnet18, resnet50, densenet121 or mobilenet_v2.

    `head` is 'linear', 'rescaled' (linear, and a scale for each class) or 'cosine', whose logits
    are `scale` times the cosines between features and class vectors; `projection` are the widths
    of the projection's layers; `dropout` is the probability with which the head does not see a
    feature in training (None: torchvision's, which is 0.2 for mobilenet_v2 and 0 for the others);
    `dtype` is that of the computation ('float32' or 'bfloat16'; parameters, statistics and outputs
    are float32); `axis_name` is the axis of the devices that share a batch in training, and
    `cross_device_batch_norm` whether BatchNorm takes its statistics over all of them. The options
    of the backbones stand with the classes `ResNet`, `DenseNet` and `MobileNetV2`; all have
    `remat`, which trades time for memory, and the ResNets `branches`.

    Raises InputError for a name or an option that does not exist, or a value that is not allowed.

    >>> model = create_model('resnet18', 7, stage_sizes=(1, 1), width=16, stem='small')
    >>> variables = initialize(model, seed=0)
    >>> model.apply(variables, jnp.zeros((2, 16, 16, 3))).logits.shape
    (2, 7)
    """
    backbone = _choose('model', name, BACKBONES)
    for option in backbone_options:
        _choose(f'option of {name}', option, dict.fromkeys(sorted(options_of(name))))
    _choose('head', head, HEADS)
    if num_classes < 2:
        raise InputError(f'num_classes is {num_classes}; a classifier needs at least 2')
    if projection and min(projection) < 1:
        raise InputError(f'projection is {tuple(projection)}; its widths must be at least 1')
    if dropout is None:
        dropout = DROPOUT.get(name, 0.0)
    if not 0 <= dropout < 1:
        raise InputError(f'dropout is {dropout}; it must be 0 or more and below 1')
    return Classifier(
        backbone(
            **backbone_options,
            dtype=_choose('dtype', dtype, DTYPES),
            axis_name=axis_name if cross_device_batch_norm else None,
        ),
        num_classes,
        head,
        scale,
        tuple(projection) if projection else None,
        dropout,
        axis_name,
    )


def options_of(name: str) -> set[str]:
    """The options of the backbone `name`; raises InputError if there is none of that name."""
    backbone = _choose('model', name, BACKBONES)
    return set(inspect.signature(backbone).parameters) - {'dtype', 'axis_name'}


def _choose(what: str, name: str, choices: Mapping[str, Any]) -> Any:
    if name not in choices:
        raise InputError(f'unknown {what} {name!r}; allowed: {", ".join(choices)}')
    return choices[name]


def initialize(model: Classifier, seed: int) -> dict[str, Any]:
    """Fresh variables of `model`, as NumPy arrays: what `model.init` gives, without compiling.

    Drawn from the same distributions with NumPy, from a generator seeded by `seed` and the path of
    the parameter, so that they are the same on every platform, and a part of them (a new head) does
    not depend on the rest.
    """
    modules = {}

    def remember(call, args, kwargs, context):
        modules[context.module.path] = context.module
        return call(*args, **kwargs)

    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    with nn.intercept_methods(remember):
        shapes = jax.eval_shape(lambda key, x: model.init(key, x), jax.random.key(0), images)

    def draw(path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
        *parents, name = path
        generator = np.random.default_rng([seed, *'/'.join(path).encode()])
        return getattr(modules[tuple(parents)], f'{name}_init')(generator, shape)

    return {
        collection: unflatten_dict(
            {path: draw(path, leaf.shape) for path, leaf in flatten_dict(tree).items()}
        )
        for collection, tree in shapes.items()
    }
