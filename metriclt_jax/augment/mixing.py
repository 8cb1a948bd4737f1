"""Mixing of images and labels within a batch, on the device, after the augmentation.

Every mixing here is one formula. An example with image x and label y gets a partner x', y':

    image = w x + (1 - w) x'        w: the example's own share of each pixel
    label = s y + (1 - s) y'        s: its own share of the label

They differ in who the partner is, in w and in s. One draw serves the whole global batch: the key
must be the same on all devices, and the partners of a device's examples may live on other devices.
So the numbers do not depend on how many devices share the batch.
"""

import dataclasses

import jax
import jax.numpy as jnp

from metriclt_jax.errors import InputError

Mixed = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Mixing:
    """A mixing with its options: what a stage of training holds.

    Attributes:
        name: a key of `MIXINGS`.
        alpha: parameter of the Beta distribution; small values leave most batches almost unmixed.
        probability: of mixing a batch at all.

    Raises:
        InputError: a value is impossible; the message names the field.
    """

    name: str
    alpha: float = 1.0
    probability: float = 1.0

    def __post_init__(self):
        def require(name: str, valid: bool, allowed: str):
            if not valid:
                raise InputError(
                    f'mixing field {name} is {getattr(self, name)!r}; allowed: {allowed}'
                )

        require('name', self.name in MIXINGS, ', '.join(MIXINGS))
        require('alpha', 0 < self.alpha < float('inf'), 'a finite number above 0')
        require('probability', 0 <= self.probability <= 1, '0 to 1')

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
        *,
        class_counts: jax.Array | None = None,
        second: Mixed | None = None,
    ) -> Mixed:
        """Mixes a batch; see the functions below for the arguments.

        `class_counts` and `second` are handed on only to a mixing that needs them, so one call
        serves all.
        """
        beside = {'class_counts': class_counts, 'second': second}
        return MIXINGS[self.name](
            key,
            images,
            labels,
            num_classes,
            alpha=self.alpha,
            probability=self.probability,
            axis_name=axis_name,
            **{name: beside[name] for name in self.needs},
        )


def mixup(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    alpha: float = 1.0,
    probability: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """w = s = lambda ~ Beta(alpha, alpha), partners by a permutation (Zhang et al. 2018).

    Args:
        key: random key, the same on all devices.
        images: float `[B, H, W, 3]`; of this device, if there is an `axis_name`.
        labels: integers in [0, C) `[B]`.
        num_classes: C.
        alpha: a Python number above 0, static under `jit`.
        probability: of mixing the batch; otherwise it stays as it is.
        axis_name: mapped axis over which the batch is split, or None. Partners come from the
            batches of all devices.

    Returns:
        Mixed images `[B, H, W, 3]` and label probabilities `[B, C]`, float32.

    Raises:
        InputError: shapes or types do not fit.
    """
    _check(images, labels)
    share_key, order_key = jax.random.split(key)
    share = draw_share(share_key, alpha, alpha, probability)
    partners = _permuted(order_key, images, labels, axis_name)
    return _blend((images, labels), partners, share, share, num_classes)


def cutmix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    alpha: float = 1.0,
    probability: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """w is 0 in a box and 1 elsewhere, s the mean of w (Yun et al. 2019).

    The box has its centre anywhere in the image and, before it is clipped at the border, a share of
    1 - lambda of the area, with lambda ~ Beta(alpha, alpha). It is the same for the whole batch.

    Args, returns and errors are those of `mixup`.
    """
    _check(images, labels)
    height, width = images.shape[1:3]
    share_key, row_key, column_key, order_key = jax.random.split(key, 4)
    top, bottom, left, right = box(
        draw_share(share_key, alpha, alpha, probability),
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
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    class_counts: jax.Array,
    kappa: float = 3.0,
    tau: float = 0.5,
    alpha: float = 1.0,
    probability: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """Images as in `mixup`; labels in favour of the rarer class (Chou et al. 2020).

    Where the class of one of a pair has at least `kappa` times the images of the other's, and the
    share of its image is below `tau`, the label is the rarer class's alone. Otherwise s = lambda.

    Args:
        class_counts: training images of each class, `[C]`.
        kappa: 1 or more.
        tau: 0 to 1.

    The other args, returns and errors are those of `mixup`.
    """
    _check(images, labels)
    if class_counts is None or jnp.shape(class_counts) != (num_classes,):
        given = None if class_counts is None else list(jnp.shape(class_counts))
        raise InputError(f'class_counts have shape {given}; allowed: [{num_classes}]')
    share_key, order_key = jax.random.split(key)
    share = draw_share(share_key, alpha, alpha, probability)
    partners = _permuted(order_key, images, labels, axis_name)
    counts = jnp.asarray(class_counts, jnp.float32)
    label_share = rebalanced_share(share, counts[labels], counts[partners[1]], kappa, tau)
    return _blend((images, labels), partners, share, label_share, num_classes)


def balanced_mixup(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    *,
    second: Mixed,
    alpha: float = 0.2,
    probability: float = 1.0,
    axis_name: str | None = None,
) -> Mixed:
    """w = s = 1 - lambda, lambda ~ Beta(alpha, 1), partners out of a second, class-balanced batch.

    This is Balanced-MixUp (Galdran et al. 2021); there the first batch is instance-sampled and
    alpha is 0.1 to 0.3, so that most of what is seen is the first batch's.

    Args:
        second: images `[B, H, W, 3]` and labels `[B]`; example i is mixed with example i of the
            second batch. It is split over devices as the first is, so nothing is sent.
        axis_name: not used; it is here because all mixings are called alike.

    The other args, returns and errors are those of `mixup`.
    """
    del axis_name
    _check(images, labels)
    shapes = None if second is None else tuple(list(jnp.shape(array)) for array in second)
    if shapes != (list(images.shape), list(labels.shape)):
        raise InputError(
            f'the second batch has images and labels of shapes {shapes}; allowed: those of the '
            f'first, {list(images.shape)} and {list(labels.shape)}'
        )
    # 1 - lambda of Beta(alpha, 1) is distributed as Beta(1, alpha).
    share = draw_share(key, 1.0, alpha, probability)
    return _blend((images, labels), second, share, share, num_classes)


MIXINGS = {'mixup': mixup, 'cutmix': cutmix, 'remix': remix, 'balanced_mixup': balanced_mixup}

# What a mixing takes beside the batch itself.
NEEDS = {'remix': ('class_counts',), 'balanced_mixup': ('second',)}


def draw_share(key: jax.Array, a: float, b: float, probability: float) -> jax.Array:
    """The example's own share: Beta(a, b) with the given probability, else 1 (not mixed)."""
    share_key, mixed_key = jax.random.split(key)
    if a == 1:
        # The inverse of the distribution function. The general case is a loop with rejections,
        # which costs seconds to compile and makes a GPU wait for the host.
        drawn = 1 - jax.random.uniform(share_key) ** (1 / b)
    else:
        drawn = jax.random.beta(share_key, a, b)
    return jnp.where(jax.random.bernoulli(mixed_key, probability), drawn, 1.0)


def box(
    share: jax.Array, row: jax.Array, column: jax.Array, height: int, width: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The box that CutMix takes from the partner: top, bottom, left, right; the ends are outside.

    Its sides are sqrt(1 - share) of the image's, rounded down to an even number of pixels, around
    (row, column), and it is clipped at the border.
    """

    def extent(center, size):
        half = jnp.floor(size * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        return jnp.clip(center - half, 0, size), jnp.clip(center + half, 0, size)

    return *extent(row, height), *extent(column, width)


def rebalanced_share(
    share: jax.Array, own_counts: jax.Array, other_counts: jax.Array, kappa: float, tau: float
) -> jax.Array:
    """Remix's own share of the label `[B]`: 0, 1 or `share`.

    Args:
        share: own share of the image, a scalar.
        own_counts: training images of the example's class `[B]`.
        other_counts: those of its partner's class `[B]`.
        kappa: factor from which on a class is the more frequent one.
        tau: share of the image below which the more frequent class loses its label.
    """
    loses = (own_counts >= kappa * other_counts) & (share < tau)
    wins = (other_counts >= kappa * own_counts) & (1 - share < tau)
    return jnp.where(loses, 0.0, jnp.where(wins, 1.0, share))


def _check(images: jax.Array, labels: jax.Array):
    shapes_fit = images.ndim == 4 and labels.shape == images.shape[:1]
    integers = jnp.issubdtype(labels.dtype, jnp.integer)
    if not (shapes_fit and integers and jnp.issubdtype(images.dtype, jnp.floating)):
        raise InputError(
            f'the batch to mix has images {images.dtype} {list(images.shape)} and labels '
            f'{labels.dtype} {list(labels.shape)}; allowed: float [B, H, W, 3] and integer [B]'
        )


def _permuted(key: jax.Array, images: jax.Array, labels: jax.Array, axis_name: str | None) -> Mixed:
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


def _blend(
    own: Mixed, partners: Mixed, pixels: jax.Array, share: jax.Array, num_classes: int
) -> Mixed:
    """The formula: `pixels` is w, a scalar or `[H, W, 1]`; `share` is s, a scalar or `[B]`."""
    images, others = own[0], partners[0]
    labels, other_labels = (jax.nn.one_hot(batch[1], num_classes) for batch in (own, partners))
    share = jnp.reshape(share, (-1, 1))
    return (
        pixels * images + (1 - pixels) * others,
        share * labels + (1 - share) * other_labels,
    )
