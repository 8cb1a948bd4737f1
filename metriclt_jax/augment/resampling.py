"""Values of an image at any points: gathered pixels on CPU and GPU, matrix products on TPU.

A TPU reads single pixels at its slowest, and multiplies matrices at its fastest. There an affine
map is done in two passes (Catmull and Smith, 1980): the first moves pixels along rows, the second
along columns, each a product with a matrix of interpolation weights. The two lowerings agree to
interpolation error, and exactly where the map is a crop or a flip.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

INTERPOLATIONS = ('bilinear', 'nearest')


def resample(
    image: jax.Array, matrix: jax.Array, size: int, interpolation: str, steep: bool
) -> jax.Array:
    """Interpolates an image where an affine map takes the centres of the output's pixels.

    The image is `[R, R, 3]`, uint8, with its border repeated outside; `matrix` `[3, 3]` takes a
    point (x, y, 1) of the output `[S, S, 3]`, 0 to 255, float32, to the point of the image. S is
    the `size`; `steep` says whether the map may turn by more than 45 degrees.
    """
    gathered = partial(gather, size=size, interpolation=interpolation)
    in_passes = partial(two_passes, size=size, interpolation=interpolation, steep=steep)
    return lax.platform_dependent(image, matrix, tpu=in_passes, default=gathered)


def points(matrix: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Where `matrix` takes the centres of the output's pixels: x and y, `[S, S]` each."""
    u, v = _centers(size)[None, :], _centers(size)[:, None]
    (a, b, e), (c, d, f) = matrix[:2]
    return a * u + b * v + e, c * u + d * v + f


def gather(image: jax.Array, matrix: jax.Array, size: int, interpolation: str) -> jax.Array:
    """Reads the pixels around each point; this is Pillow's `transform` without its rounding."""
    x, y = points(matrix, size)
    if interpolation == 'nearest':
        return _pixels(image, jnp.floor(x), jnp.floor(y))
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    across, down = (x - 0.5 - left)[..., None], (y - 0.5 - top)[..., None]

    def row(y):
        return (1 - across) * _pixels(image, left, y) + across * _pixels(image, left + 1, y)

    return (1 - down) * row(top) + down * row(top + 1)


def two_passes(
    image: jax.Array,
    matrix: jax.Array,
    size: int,
    interpolation: str,
    steep: bool,
    dtype: jnp.dtype = jnp.bfloat16,
) -> jax.Array:
    """Resamples rows, then columns, by matrix products of `dtype` added up in float32."""
    if steep:  # near 90 degrees rows would collapse: transpose the image, and swap x and y
        swap = jnp.abs(matrix[0, 1]) > jnp.abs(matrix[1, 1])
        image = jnp.where(swap, image.swapaxes(0, 1), image)
        matrix = jnp.where(swap, matrix[jnp.array([1, 0, 2])], matrix)
    (a, b, e), (c, d, f) = matrix[:2]
    side = image.shape[0]
    rows, u, v = _centers(side)[:, None], _centers(size)[None, :], _centers(size)[:, None]
    # Column u of the output sees row y of the image at v = (y - c u - f) / d, hence at this x.
    x = (a - b * c / d) * u + (b / d) * rows + (e - b * f / d)  # [R, S]
    y = c * u + d * v + f  # [S, S]
    product = partial(jnp.einsum, preferred_element_type=jnp.float32)
    weights = partial(_weights, side=side, interpolation=interpolation)
    sheared = product('yux,yxc->yuc', weights(x).astype(dtype), image.astype(dtype))
    return product('vuy,yuc->vuc', weights(y).astype(dtype), sheared.astype(dtype))


def _centers(size: int) -> jax.Array:
    return jnp.arange(size, dtype=jnp.float32) + 0.5


def _weights(position: jax.Array, side: int, interpolation: str) -> jax.Array:
    """What each of `side` pixels in a line adds to the value at a position: `[..., side]`."""
    if interpolation == 'nearest':
        pixel = jnp.clip(jnp.floor(position), 0, side - 1)
        return pixel[..., None] == jnp.arange(side)
    position = jnp.clip(position, 0.5, side - 0.5)
    return jnp.maximum(0.0, 1 - jnp.abs(position[..., None] - _centers(side)))


def _pixels(image: jax.Array, column: jax.Array, row: jax.Array) -> jax.Array:
    height, width = image.shape[:2]
    column = jnp.clip(column, 0, width - 1).astype(jnp.int32)
    row = jnp.clip(row, 0, height - 1).astype(jnp.int32)
    return image[row, column].astype(jnp.float32)
