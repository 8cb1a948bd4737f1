"""Convolution and max-pooling, NHWC, written for the platform they run on.

XLA's convolution is right on GPU and TPU. On CPU it is several times slower than the same numbers
obtained as a matrix product: slices of the padded input, concatenated on the channel axis, times
the kernel as a matrix. Both lowerings share parameters and results.
"""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from metriclt_jax.models.initializers import Initializer, kaiming_normal

LOWERINGS = ('auto', 'patches', 'xla')


class Conv(nn.Module):
    """2-D convolution without bias, with torch's explicit padding.

    Input `[B, H, W, cin]`, output `[B, H', W', features]` in `dtype`, with
    `H' = (H + 2 padding - kernel_size) // stride + 1`. The parameter `kernel`
    `[kernel_size, kernel_size, cin / groups, features]` is float32.

    `lowering` is 'xla', 'patches' or 'auto': patches on CPU, XLA's convolution elsewhere.
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
    """Convolves images `[B, H, W, cin]` with a kernel `[kh, kw, cin / groups, cout]`."""
    if lowering == 'auto':
        lowering = 'patches' if jax.default_backend() == 'cpu' else 'xla'
    # A grouped convolution has no single matrix product; it stays with XLA.
    if lowering == 'patches' and groups == 1:
        return _convolve_patches(x, kernel, stride, padding)
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=((padding, padding), (padding, padding)),
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


def _convolve_patches(x, kernel, stride, padding):
    height, width, inputs, outputs = kernel.shape
    if (height, width) == (1, 1):
        return _window(_window(x, 1, 1, stride, padding)[0], 2, 1, stride, padding)[0] @ kernel[0, 0]
    positions = x.shape[0] * x.shape[1] * x.shape[2]
    if stride == 1 and width * inputs >= outputs and positions >= outputs:
        return _convolve_separably(x, kernel, padding)
    columns = jnp.concatenate(_window(x, 2, width, stride, padding), axis=-1)
    patches = jnp.concatenate(_window(columns, 1, height, stride, padding), axis=-1)
    return patches @ kernel.reshape(-1, outputs)


def _window(x, axis, size, stride, padding, fill=0.0):
    """What each of `size` taps along `axis` sees: a list of arrays, each shorter by the stride."""
    length = (x.shape[axis] + 2 * padding - size) // stride + 1
    if padding:
        widths = [(0, 0, 0)] * x.ndim
        widths[axis] = (padding, padding, 0)
        x = lax.pad(x, jnp.asarray(fill, x.dtype), widths)
    return [
        lax.slice_in_dim(x, tap, tap + (length - 1) * stride + 1, stride, axis)
        for tap in range(size)
    ]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _convolve_separably(x, kernel, padding):
    height, width, inputs, outputs = kernel.shape
    matrix = kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)
    columns = jnp.concatenate(_window(x, 2, width, 1, padding), axis=-1)
    products = jnp.split(columns @ matrix, height, axis=-1)
    return sum(_shift(z, 1, i - padding, x.shape[1] + 2 * padding - height + 1) for i, z in enumerate(products))


def _shift(x, axis, offset, length):
    """`y[t] = x[t + offset]` for t in 0 .. length - 1, zero where `x` has nothing."""
    widths = [(0, 0, 0)] * x.ndim
    widths[axis] = (-offset, offset + length - x.shape[axis], 0)
    return lax.pad(x, jnp.zeros((), x.dtype), widths)


def _separable_forward(x, kernel, padding):
    return _convolve_separably(x, kernel, padding), (x, kernel)


def _separable_backward(padding, saved, gradient):
    x, kernel = saved
    height, width, inputs, outputs = kernel.shape
    matrix = kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)
    columns = jnp.concatenate(_window(x, 2, width, 1, padding), axis=-1)
    rows = jnp.concatenate(
        [_shift(gradient, 1, padding - i, x.shape[1]) for i in range(height)], axis=-1
    )
    kernel_gradient = jnp.einsum('bhwi,bhwo->io', columns, rows)
    kernel_gradient = kernel_gradient.reshape(width, inputs, height, outputs).transpose(2, 0, 1, 3)
    products = jnp.split(rows @ matrix.T, width, axis=-1)
    x_gradient = sum(
        _shift(z, 2, padding - j, x.shape[2]) for j, z in enumerate(products)
    )
    return x_gradient, kernel_gradient


_convolve_separably.defvjp(_separable_forward, _separable_backward)


def max_pool(x: jax.Array, window: int, stride: int, padding: int) -> jax.Array:
    """Maximum over windows, torch's MaxPool2d: `[B, H, W, C]` to `[B, H', W', C]`."""
    pads = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), (stride, stride), pads)
