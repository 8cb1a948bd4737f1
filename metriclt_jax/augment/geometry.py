"""Rotation, resize, crop and flip of image batches on the device: one affine map, one sampling.

The paper (section 3.1) rotates an image, resizes it to a square, crops and flips it. The data cache
holds every image resized already, so these are composed into one map from output pixels to cached
pixels, and the cached image is interpolated once.

Coordinates are continuous, as in Pillow: pixel i covers [i, i + 1) and has its centre at i + 1/2,
x runs to the right and y downwards. A matrix [3, 3] takes a point (x, y, 1) of an operation's
*output* to the point of its *input* that is seen there, so `first @ second` is the map of doing
`first`, then `second`.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from metriclt_jax.augment import resampling
from metriclt_jax.errors import InputError

_KINDS = resampling.INTERPOLATIONS


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """How images are augmented and evaluated; the defaults are the paper's (section 3.1)."""

    resize: int = 300  # side R of the cached square images, in pixels
    crop: int = 224  # side S of the images that the model sees, in pixels; at most `resize`
    rotation: float = 30.0  # degrees; angles are uniform in [-rotation, rotation]
    flip: float = 0.5  # probability of a horizontal flip
    fill: tuple[float, float, float] = (0, 0, 0)  # colour (0 to 255) of what is outside the image
    interpolation: str = 'bilinear'  # or 'nearest'
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of each channel in [0, 1]: ImageNet
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def __post_init__(self):
        def three(values, low: float, high: float) -> bool:
            return np.shape(values) == (3,) and all(low <= value <= high for value in values)

        large = np.finfo(np.float32).max
        for field, valid, allowed in (
            ('resize', self.resize >= 1, 'at least 1 pixel'),
            ('crop', 1 <= self.crop <= self.resize, f'from 1 to the resize, {self.resize}'),
            ('rotation', 0 <= self.rotation <= 180, 'from 0 to 180 degrees'),
            ('flip', 0 <= self.flip <= 1, 'a probability from 0 to 1'),
            ('fill', three(self.fill, 0, 255), 'three numbers (RGB) from 0 to 255'),
            ('interpolation', self.interpolation in _KINDS, ' or '.join(_KINDS)),
            ('mean', three(self.mean, -large, large), 'three numbers'),
            ('std', three(self.std, 1e-6, large), 'three numbers above 0'),
        ):
            if not valid:
                value = getattr(self, field)
                raise InputError(f'augmentation field {field} must be {allowed}, got {value!r}')


def augment(
    keys: jax.Array, images: jax.Array, aspects: jax.Array, config: AugmentConfig
) -> jax.Array:
    """Rotates, resizes, crops, flips and normalises images: float32 `[B, S, S, 3]`.

    Args:
        keys: random keys `[B]`; nothing else in the batch has an influence on an image.
        images: cached images `[B, R, R, 3]`, uint8.
        aspects: width / height `[B]` of the original images, which are rotated before the resize.
        config: what to draw, and the sizes R and S.
    """
    _check(images, config)

    def one(key, image, aspect):
        angle, left, top, flipped = draw(key, config)
        matrix = output_to_cache(angle, left, top, flipped, aspect, config)
        return sample(image, matrix, config)

    return normalize(jax.vmap(one)(keys, images, aspects), config)


def center(images: jax.Array, config: AugmentConfig) -> jax.Array:
    """The crop in the centre, normalised, for evaluation: `[B, R, R, 3]` to `[B, S, S, 3]`."""
    _check(images, config)
    start = round((config.resize - config.crop) / 2)  # halves to even, as torchvision does
    seen = slice(start, start + config.crop)
    return normalize(images[:, seen, seen], config)


def _check(images: jax.Array, config: AugmentConfig):
    side = config.resize
    if images.ndim != 4 or images.shape[1:] != (side, side, 3) or images.dtype != jnp.uint8:
        raise ValueError(f'images must be uint8 [B, {side}, {side}, 3], got {jax.typeof(images)}')


def draw(key: jax.Array, config: AugmentConfig) -> tuple[jax.Array, ...]:
    """Draws one example's random numbers: angle in degrees, left, top in pixels, flipped (bool).

    The offsets are whole pixels, uniform over 0 .. R - S with both ends, as torchvision's.
    """
    angle_key, offset_key, flip_key = jax.random.split(key, 3)
    angle = jax.random.uniform(angle_key, minval=-config.rotation, maxval=config.rotation)
    left, top = jax.random.randint(offset_key, (2,), 0, config.resize - config.crop + 1)
    return angle, left, top, jax.random.bernoulli(flip_key, config.flip)


def output_to_cache(
    angle: jax.Array,
    left: jax.Array,
    top: jax.Array,
    flipped: jax.Array,
    aspect: jax.Array,
    config: AugmentConfig,
) -> jax.Array:
    """The map `[3, 3]` from a point of the output to the point of the cached image seen there."""
    flip, width = jnp.where(flipped, -1, 1), jnp.where(flipped, config.crop, 0)
    cropped = _matrix((flip, 0, left + width), (0, 1, top))  # flipped within the crop
    # The default precision of a matrix product on GPU and TPU would cost a good part of a pixel.
    turned = rotation(angle, aspect, config.resize)
    return jnp.matmul(turned, cropped, precision='highest')


def rotation(angle: jax.Array, aspect: jax.Array, size: int) -> jax.Array:
    """Rotation of the original about its centre, as seen in the square that it is resized to.

    With R the rotation and Q the resize of the original to the square this is Q R Q^-1, written out
    because a rotation by 0 is then exactly the identity. `angle` is in degrees, counter-clockwise.
    """
    radians = jnp.deg2rad(jnp.asarray(angle, jnp.float32))
    cos, sin = jnp.cos(radians), jnp.sin(radians)
    across, down = sin / aspect, sin * aspect
    middle = size / 2
    return _matrix(
        (cos, -across, middle * (1 - cos + across)),
        (down, cos, middle * (1 - cos - down)),
    )


def _matrix(first: tuple, second: tuple) -> jax.Array:
    return jnp.array([first, second, (0, 0, 1)], jnp.float32)


def sample(image: jax.Array, matrix: jax.Array, config: AugmentConfig) -> jax.Array:
    """Interpolates an image `[R, R, 3]`, uint8, where `matrix` maps the output pixels' centres.

    Returns pixels `[S, S, 3]` from 0 to 255, float32. Points outside 0 <= x < R, 0 <= y < R see
    `fill`; for the others, neighbours are clamped to the image.
    """
    x, y = resampling.points(matrix, config.crop)
    inside = (x >= 0) & (x < config.resize) & (y >= 0) & (y < config.resize)
    steep = config.rotation > 45
    pixels = resampling.resample(image, matrix, config.crop, config.interpolation, steep)
    return jnp.where(inside[..., None], pixels, jnp.asarray(config.fill, jnp.float32))


def normalize(pixels: jax.Array, config: AugmentConfig) -> jax.Array:
    """Pixels 0 to 255 `[..., 3]` to float32 with the mean and standard deviation."""
    mean, std = (jnp.asarray(values, jnp.float32) for values in (config.mean, config.std))
    return (pixels.astype(jnp.float32) / 255 - mean) / std
