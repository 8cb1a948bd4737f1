"""Mixing of images and labels within a batch, on the device, after the augmentation.

Every mixing is one formula. An example with image x and label y gets a partner x', y':

    image = w x + (1 - w) x'
    label = lam y + (1 - lam) y'

They differ in who the partner is, in w and in lam. One draw serves the global batch: the key must
be the same on all devices, and partners may live on other devices.

All mixings take images `[B, H, W, 3]` (float) and integer labels in [0, C) `[B]`, and return images
`[B, H, W, 3]` and label probabilities `[B, C]`, float32.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from metriclt_jax.errors import InputError

Batch = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A mixing with its options: what a stage of training holds."""

    name: str  # a key of MIXINGS
    alpha: float = 1.0  # of the Beta distribution; small values leave most batches almost unmixed
    probability: float = 1.0  # of mixing a batch at all

    def __post_init__(self):
        for field, valid, allowed in (
            ('name', self.name in MIXINGS, f'one of {", ".join(MIXINGS)}'),
            ('alpha', 0 < self.alpha < float('inf'), 'a finite number above 0'),
            ('probability', 0 <= self.probability <= 1, 'from 0 to 1'),
        ):
            if not valid:
                raise InputError(f'{field} must be {allowed}, got {getattr(self, field)!r}')

    @property
    def needs(self) -> tuple[str, ...]:
        """What the mixing takes beside the batch: names out of 'class_counts' and 'second'."""
        return NEEDS.get(self.name, ())

    def __call__(
        self,
        key: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        num_classes: int,
        axis_name: str | None = None,
        **beside: Any,
    ) -> Batch:
        """Mixes a batch; `class_counts` and `second` are ignored by mixings that need neither."""
        if images.ndim != 4 or not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f'images must be float [B, H, W, 3], got {jax.typeof(images)}')
        options = {name: beside[name] for name in self.needs}
        options |= {'alpha': self.alpha, 'probability': self.probability, 'axis_name': axis_name}
        return MIXINGS[self.name](key, images, labels, num_classes, **options)


def mixup(key, images, labels, num_classes, *, alpha, probability=1.0, axis_name=None) -> Batch:
    """w = lam ~ Beta(alpha, alpha), partners by a permutation (Zhang et al. 2018)."""
    lam_key, order_key = jax.random.split(key)
    lam = draw_lam(lam_key, alpha, alpha, probability)
    partners = _permuted(order_key, images, labels, axis_name)
    return _blend((images, labels), partners, lam, lam, num_classes)


def cutmix(key, images, labels, num_classes, *, alpha, probability=1.0, axis_name=None) -> Batch:
    """w is 0 in a box and 1 elsewhere, lam the mean of w (Yun et al. 2019).

    The box, one for the whole batch, has its centre anywhere in the image and 1 - lambda of its
    area before it is clipped at the border, with lambda ~ Beta(alpha, alpha).
    """
    height, width = images.shape[1:3]
    lam_key, row_key, column_key, order_key = jax.random.split(key, 4)
    top, bottom, left, right = box(
        draw_lam(lam_key, alpha, alpha, probability),
        jax.random.randint(row_key, (), 0, height),
        jax.random.randint(column_key, (), 0, width),
        height,
        width,
    )
    rows, columns = jnp.arange(height)[:, None], jnp.arange(width)
    inside = (top <= rows) & (rows < bottom) & (left <= columns) & (columns < right)
    own = jnp.where(inside, 0.0, 1.0)[..., None]
    partners = _permuted(order_key, images, labels, axis_name)
    return _blend((images, labels), partners, own, jnp.mean(own), num_classes)


def remix(
    key, images, labels, num_classes, *, class_counts, alpha, probability=1.0, axis_name=None
) -> Batch:
    """Images as in `mixup`; labels in favour of the rarer class (Chou et al. 2020).

    The label is the rarer class's alone if the other class has at least kappa = 3 times its images
    in training (`class_counts` `[C]`) and less than tau = 0.5 of the mixed image; else lam = w.
    """
    lam_key, order_key = jax.random.split(key)
    lam = draw_lam(lam_key, alpha, alpha, probability)
    partners = _permuted(order_key, images, labels, axis_name)
    counts = jnp.asarray(class_counts, jnp.float32)
    label_lam = rebalanced_lam(lam, counts[labels], counts[partners[1]])
    return _blend((images, labels), partners, lam, label_lam, num_classes)


def balanced_mixup(
    key, images, labels, num_classes, *, second: Batch, alpha, probability=1.0, axis_name=None
) -> Batch:
    """Example i is mixed with example i of a `second`, class-balanced batch (Galdran et al. 2021).

    w = lam = 1 - lambda, lambda ~ Beta(alpha, 1). There the first batch is instance-sampled and
    alpha is 0.1 to 0.3, so that most of what is seen is the first batch's. The second batch is
    split over devices as the first is.
    """
    del axis_name
    if second[0].shape != images.shape:
        raise ValueError(f'the second batch must be of shape {images.shape}')
    # 1 - lambda of Beta(alpha, 1) is distributed as Beta(1, alpha).
    lam = draw_lam(key, 1.0, alpha, probability)
    return _blend((images, labels), second, lam, lam, num_classes)


MIXINGS = {'mixup': mixup, 'cutmix': cutmix, 'remix': remix, 'balanced_mixup': balanced_mixup}

# What a mixing takes beside the batch itself.
NEEDS = {'remix': ('class_counts',), 'balanced_mixup': ('second',)}


def draw_lam(key: jax.Array, a: float, b: float, probability: float) -> jax.Array:
    """Beta(a, b) with the given probability, else 1 (not mixed)."""
    lam_key, mixed_key = jax.random.split(key)
    # The general case is a loop with rejections, which takes long to compile and makes a GPU wait
    # for the host. With a = 1 the distribution function can be inverted.
    inverted = 1 - jax.random.uniform(lam_key) ** (1 / b)
    lam = inverted if a == 1 else jax.random.beta(lam_key, a, b)
    return jnp.where(jax.random.bernoulli(mixed_key, probability), lam, 1.0)


def box(lam: jax.Array, row: jax.Array, column: jax.Array, height: int, width: int) -> tuple:
    """The box that CutMix takes from the partner: top, bottom, left, right, in half-open ranges.

    Its sides are sqrt(1 - lam) of the image's, rounded down to an even number of pixels, around
    (row, column), and it is clipped at the border.
    """

    def extent(center, size):
        half = jnp.floor(size * jnp.sqrt(1 - lam)).astype(jnp.int32) // 2
        return jnp.clip(center - half, 0, size), jnp.clip(center + half, 0, size)

    return *extent(row, height), *extent(column, width)


def rebalanced_lam(lam: jax.Array, own_counts: jax.Array, other_counts: jax.Array) -> jax.Array:
    """Remix's weight of the example's own label `[B]`: 0, 1 or the `lam` of its image.

    The counts `[B]` are the training images of the classes of the example and its partner.
    """
    kappa, tau = 3.0, 0.5
    loses = (own_counts >= kappa * other_counts) & (lam < tau)
    wins = (other_counts >= kappa * own_counts) & (1 - lam < tau)
    return jnp.where(loses, 0.0, jnp.where(wins, 1.0, lam))


def _permuted(key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None) -> Batch:
    """Each example's partner under one permutation of the global batch."""
    batch_size = len(labels)
    if axis_name is None:
        order = jax.random.permutation(key, batch_size)
        return images[order], labels[order]
    order = jax.random.permutation(key, batch_size * jax.lax.axis_size(axis_name))
    first = jax.lax.axis_index(axis_name) * batch_size
    order = jax.lax.dynamic_slice_in_dim(order, first, batch_size)
    # The permutation is drawn anew in every step, so any device may need any image.
    everything = jax.lax.all_gather((images, labels), axis_name, tiled=True)
    return jax.tree.map(lambda array: array[order], everything)


def _blend(own: Batch, partners: Batch, pixels, lam, num_classes: int) -> Batch:
    """The formula: `pixels` is w, a scalar or `[H, W, 1]`; `lam` is a scalar or `[B]`."""
    images, others = own[0], partners[0]
    labels, other_labels = (jax.nn.one_hot(batch[1], num_classes) for batch in (own, partners))
    lam = jnp.reshape(lam, (-1, 1))
    return pixels * images + (1 - pixels) * others, lam * labels + (1 - lam) * other_labels
