"""2-D convolution, NHWC, lowered for the platform it runs on.

XLA's own convolution is right on GPU and TPU. On CPU, matrix products give the same numbers several
times faster, with the taps of the window side by side in the product's input or output, and shifted
multiply-adds give a depthwise convolution.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def convolve(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, groups: int = 1
) -> jax.Array:
    """Convolves images `[B, H, W, cin]` with a kernel `[kh, kw, cin / groups, cout]`.

    On CPU it can be differentiated in reverse mode only.
    """
    options = {'stride': stride, 'padding': padding, 'groups': groups}
    patches, xla = partial(_convolve_patches, **options), partial(_convolve_xla, **options)
    return lax.platform_dependent(x, kernel, cpu=patches, default=xla)


def _convolve_xla(x, kernel, stride, padding, groups):
    layout = ('NHWC', 'HWIO', 'NHWC')
    widths = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x, kernel, (stride, stride), widths, dimension_numbers=layout, feature_group_count=groups
    )


def _convolve_patches(x, kernel, stride, padding, groups):
    height, width, inputs, outputs = kernel.shape
    if 1 < groups == x.shape[-1] == outputs:
        around = (padding, padding)
        return _depthwise(_pad(x, around, around), kernel[:, :, 0], stride)
    if groups > 1:  # not one matrix product
        return _convolve_xla(x, kernel, stride, padding, groups)
    if stride == 1 and height * outputs <= inputs:
        return _taps_in_output(x, kernel, padding)
    columns = _side_by_side(x, 2, width, stride, padding)
    # An exported program takes any number of images, which cannot be compared.
    large = not isinstance(columns.size, int) or columns.size >= kernel.size
    if stride == 1 and width * inputs >= outputs and large:
        # Only the columns of a window stand side by side in the product's input. Its rows do so in
        # the product's output, to be shifted and added: fewer copies, but no row can be skipped.
        matrix = kernel.transpose(1, 2, 0, 3).reshape(width * inputs, height * outputs)
        products = jnp.split(_product(columns, matrix), height, axis=-1)
        below = padding - height + 1
        return sum(_pad(y, (padding - i, below + i)) for i, y in enumerate(products))
    patches = _side_by_side(columns, 1, height, stride, padding)
    return _product(patches, kernel.reshape(height * width * inputs, outputs))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _taps_in_output(x, kernel, padding):
    """Convolution at stride 1 to few channels: all taps side by side in the product's output."""
    height, width, inputs, outputs = kernel.shape
    matrix = kernel.transpose(2, 0, 1, 3).reshape(inputs, height * width * outputs)
    products = _pad(_product(x, matrix), (padding, padding), (padding, padding))
    rows, columns = products.shape[1] - height + 1, products.shape[2] - width + 1
    return sum(
        products[:, i : i + rows, j : j + columns, tap * outputs : (tap + 1) * outputs]
        for tap, (i, j) in enumerate(np.ndindex(height, width))
    )


def _taps_in_output_forward(x, kernel, padding):
    return _taps_in_output(x, kernel, padding), (x, kernel)


def _taps_in_output_backward(padding, saved, gradient):
    x, kernel = saved
    height, width, inputs, outputs = kernel.shape
    # Patches of the gradient serve both products. They hold the taps in reverse.
    rows, columns = height - 1 - padding, width - 1 - padding
    padded = _pad(gradient, (rows, rows), (columns, columns))
    patches = _side_by_side(_side_by_side(padded, 2, width, 1, 0), 1, height, 1, 0)
    matrix = kernel[::-1, ::-1].swapaxes(2, 3).reshape(height * width * outputs, inputs)
    of_kernel = x.reshape(-1, inputs).T @ patches.reshape(-1, height * width * outputs)
    of_kernel = of_kernel.reshape(inputs, height, width, outputs)[:, ::-1, ::-1]
    return _product(patches, matrix), of_kernel.transpose(1, 2, 0, 3)


_taps_in_output.defvjp(_taps_in_output_forward, _taps_in_output_backward)


def _taps(x, kernel, stride):
    """The part of `x` that each weight of a window `[kh, kw, C]` sees, row by row."""
    rows = window_taps(x, 1, kernel.shape[0], stride, 0)
    return [window_taps(row, 2, kernel.shape[1], stride, 0) for row in rows]


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _depthwise(x, kernel, stride):
    """Convolution of padded images with a window `[kh, kw, C]`, added up in float32."""
    rows, weights = _taps(x, kernel, stride), kernel.astype(jnp.float32)
    products = (tap * weights[i, j] for i, row in enumerate(rows) for j, tap in enumerate(row))
    return sum(products).astype(x.dtype)


def _depthwise_forward(x, kernel, stride):
    return _depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride, saved, gradient):
    x, kernel = saved
    weights = kernel.astype(jnp.float32)
    taps, transpose = jax.vjp(lambda x: _taps(x, kernel, stride), x)
    (of_x,) = transpose([[(gradient * w).astype(x.dtype) for w in row] for row in weights])
    # Products are added up over parts of the batch in the loop that multiplies, a row of taps at
    # once: XLA would write all of each product to memory before it sums.
    count = max(n for n in range(1, 9) if len(gradient) % n == 0)
    parts = partial(jnp.split, indices_or_sections=count)
    gradients = parts(gradient.astype(jnp.float32))
    of_kernel = [
        jnp.stack([sum(map(jnp.multiply, parts(tap), gradients)) for tap in row]) for row in taps
    ]
    return of_x, jnp.stack([jnp.sum(row, axis=(1, 2, 3)) for row in of_kernel]).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def window_taps(
    x: jax.Array, axis: int, size: int, stride: int, padding: int, fill: float = 0.0
) -> list[jax.Array]:
    """What each of the `size` taps of a window sees as it slides along `axis` of the padded `x`."""
    length = (x.shape[axis] + 2 * padding - size) // stride + 1
    widths = [(padding, padding, 0) if i == axis else (0, 0, 0) for i in range(x.ndim)]
    x = lax.pad(x, jnp.asarray(fill, x.dtype), widths)
    reach = (length - 1) * stride + 1
    return [lax.slice_in_dim(x, tap, tap + reach, stride, axis) for tap in range(size)]


def _side_by_side(x, axis, size, stride, padding):
    """The taps of a window along `axis`, concatenated on the channel axis."""
    return jnp.concatenate(window_taps(x, axis, size, stride, padding), axis=-1)


def _product(x, matrix):
    """`x @ matrix` in two dimensions: with more, the backward pass transposes all of `x`."""
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)


def _pad(x, rows, columns=(0, 0)):
    """Zeros before and after the rows and columns of `[B, H, W, C]`; below 0 they are cut off."""
    widths = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), widths)
