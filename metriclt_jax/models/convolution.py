"""2-D convolution, NHWC, lowered for the platform it runs on.

XLA's own convolution is right on GPU and TPU. On CPU the same numbers come several times faster
from slices of the padded input side by side, times the kernel as a matrix. Parameters and results
are the same.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from metriclt_jax.errors import InputError
from metriclt_jax.models.initializers import Initializer, kaiming_normal


class Conv(nn.Module):
    """2-D convolution without bias, with torch's explicit padding.

    `[B, H, W, cin]` to `[B, H', W', features]` in `dtype`, where
    `H' = (H + 2 padding - kernel_size) // stride + 1`. The parameter `kernel`
    `[kernel_size, kernel_size, cin / groups, features]` is float32. `lowering` is 'xla', 'patches'
    or 'auto': patches on CPU, XLA's convolution elsewhere.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    lowering: str = 'auto'
    dtype: jnp.dtype = jnp.float32
    kernel_init: Initializer = kaiming_normal('fan_out')

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` with the kernel."""
        size = self.kernel_size
        shape = (size, size, x.shape[-1] // self.groups, self.features)
        kernel = self.param('kernel', self.kernel_init, shape)
        return convolve(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
            lowering=self.lowering,
        )


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    lowering: str = 'auto',
) -> jax.Array:
    """Convolves images `[B, H, W, cin]` with a kernel `[kh, kw, cin / groups, cout]`.

    Raises InputError for an unknown `lowering`.
    """
    if lowering == 'auto':
        lowering = 'patches' if jax.default_backend() == 'cpu' else 'xla'
    if lowering not in LOWERINGS:
        raise InputError(f'unknown lowering {lowering!r}; allowed: auto, {", ".join(LOWERINGS)}')
    return LOWERINGS[lowering](x, kernel, stride, padding, groups)


def _convolve_xla(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def _convolve_patches(x, kernel, stride, padding, groups):
    if groups > 1:  # no single matrix product
        return _convolve_xla(x, kernel, stride, padding, groups)
    height, width, inputs, outputs = kernel.shape
    columns = _side_by_side(x, 2, width, stride, padding)
    if stride == 1 and width * inputs >= outputs and columns.size >= kernel.size:
        # Only the columns of a window stand side by side in the product's input. Its rows do so in
        # the product's output, to be shifted and added: fewer copies, but no row can be skipped.
        matrix = kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)
        products = jnp.split(_product(columns, matrix), height, axis=-1)
        length = x.shape[1] + 2 * padding - height + 1
        return sum(_rows(y, i - padding, length) for i, y in enumerate(products))
    patches = _side_by_side(columns, 1, height, stride, padding)
    return _product(patches, kernel.reshape(height * width * inputs, outputs))


LOWERINGS = {'patches': _convolve_patches, 'xla': _convolve_xla}


def window_taps(
    x: jax.Array, axis: int, size: int, stride: int, padding: int, fill: float = 0.0
) -> list[jax.Array]:
    """What each of the `size` taps of a window sees as it slides along `axis` of the padded `x`."""
    length = (x.shape[axis] + 2 * padding - size) // stride + 1
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (padding, padding, 0)
    x = lax.pad(x, jnp.asarray(fill, x.dtype), widths)
    return [
        lax.slice_in_dim(x, tap, tap + (length - 1) * stride + 1, stride, axis)
        for tap in range(size)
    ]


def _side_by_side(x, axis, size, stride, padding):
    """The taps of a window along `axis`, concatenated on the channel axis."""
    return jnp.concatenate(window_taps(x, axis, size, stride, padding), axis=-1)


def _product(x, matrix):
    """`x @ matrix` in two dimensions: with more, the backward pass transposes all of `x`."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _rows(x, first, length):
    """Rows `first`, ..., `first + length - 1` of `[B, H, W, C]`, zero where there are none."""
    widths = (-first, first + length - x.shape[1], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), widths, (0, 0, 0), (0, 0, 0)))
