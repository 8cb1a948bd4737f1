"""Convolution and pooling against XLA's own."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax import lax

from metriclt_jax.models.convolution import convolve
from metriclt_jax.models.layers import Conv, max_pool


def reference(x, kernel, stride, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
        precision='highest',
    )


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def assert_same_values_and_gradients(function, reference, *arguments, atol):
    @jax.jit
    def both(*arguments):
        results = []
        for f in (function, reference):
            value, vjp = jax.vjp(f, *arguments)
            cotangent = jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)
            results.append((value, *vjp(cotangent)))
        return results

    for actual, expected in zip(*both(*arguments), strict=True):
        assert actual.shape == expected.shape
        np.testing.assert_allclose(actual, expected, atol=atol)


@settings(deadline=None, max_examples=5)
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    window=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    # Few and many outputs for the inputs: all ways of arranging the product.
    channels=st.tuples(st.sampled_from([1, 2, 12]), st.sampled_from([1, 2, 24])),
    groups=st.sampled_from([1, 1, 1, 2, 5]),
)
@example((9, 6), (3, 3), 1, 1, (6, 4), 1)  # rows added in the output
@example((9, 6), (3, 3), 1, 1, (1, 24), 1)  # whole patches in the input
@example((9, 6), (3, 3), 1, 1, (12, 2), 1)  # all taps in the output: a dense layer
@example((5, 8), (3, 2), 1, 3, (12, 2), 1)  # the same, with more padding than window
@example((9, 6), (7, 7), 2, 3, (3, 4), 1)  # the stem of a ResNet
@example((9, 6), (1, 1), 2, 0, (2, 2), 1)  # the shortcut of a ResNet
@example((9, 6), (3, 3), 1, 1, (1, 1), 5)  # depthwise
@example((9, 6), (3, 3), 2, 1, (1, 1), 5)
@example((9, 6), (3, 3), 1, 1, (2, 3), 2)  # groups
def test_patches_agree_with_xla_in_value_and_gradient(
    size, window, stride, padding, channels, groups
):
    inputs, outputs = channels[0] * groups, channels[1] * groups
    window = min(window[0], size[0] + 2 * padding), min(window[1], size[1] + 2 * padding)
    x = draw(0, 2, *size, inputs)
    kernel = draw(1, *window, inputs // groups, outputs)

    options = {'stride': stride, 'padding': padding, 'groups': groups}
    both = partial(convolve, **options), partial(reference, **options)
    assert_same_values_and_gradients(*both, x, kernel, atol=3e-4)


@pytest.mark.parametrize(
    ('size', 'window', 'stride', 'padding'),
    [((8, 8), 3, 2, 1), ((9, 6), 3, 2, 1), ((7, 5), 2, 2, 0), ((2, 1), 3, 1, 1)],
)
def test_max_pool_agrees_with_xla_in_value_and_gradient_even_with_ties(
    size, window, stride, padding
):
    # Few distinct values, half of them one: most windows have ties, as after a ReLU. All below 0,
    # the padding must never win.
    values = np.random.default_rng(0).integers(-2, 3, (3, *size, 4)).clip(0) - 3

    def xla(x):
        return nn.max_pool(x, (window,) * 2, (stride,) * 2, ((padding, padding),) * 2)

    ours = partial(max_pool, window=window, stride=stride, padding=padding)
    assert_same_values_and_gradients(ours, xla, jnp.asarray(values, jnp.float32), atol=1e-6)


def test_conv_convolves_in_its_dtype():
    x = draw(0, 2, 11, 8, 3)
    conv = Conv(5, 3)
    variables = conv.init(jax.random.key(0), x)
    kernel = variables['params']['kernel']
    assert kernel.shape == (3, 3, 3, 5)
    np.testing.assert_allclose(conv.apply(variables, x), reference(x, kernel, 1, 1, 1), atol=1e-4)
    assert conv.clone(dtype=jnp.bfloat16).apply(variables, x).dtype == jnp.bfloat16


def test_each_arrangement_is_chosen_where_it_is_meant():
    names = '_taps_in_output', '_depthwise', 'conv_general_dilated'
    for inputs, outputs, groups, stride, expected in (
        (128, 32, 1, 1, '_taps_in_output'),
        (32, 32, 32, 2, '_depthwise'),
        (32, 64, 32, 1, 'conv_general_dilated'),
        (32, 32, 1, 1, ''),
        (128, 32, 1, 2, ''),
    ):
        arrays = draw(0, 1, 4, 4, inputs), draw(1, 3, 3, inputs // groups, outputs)
        traced = jax.jit(partial(convolve, stride=stride, groups=groups)).trace(*arrays)
        on_cpu = traced.lower(lowering_platforms=('cpu',)).as_text(debug_info=True)
        assert [name for name in names if name in on_cpu] == [expected] * bool(expected)


def test_depthwise_adds_in_float32():
    x, kernel = draw(0, 1, 6, 6, 3), draw(1, 3, 3, 1, 3)
    exact = convolve(x, kernel, padding=1, groups=3)
    halves = [array.astype(jnp.bfloat16) for array in (x, kernel)]
    of_halves = convolve(*(half.astype(jnp.float32) for half in halves), padding=1, groups=3)
    rounded = convolve(*halves, padding=1, groups=3)
    assert rounded.dtype == jnp.bfloat16
    np.testing.assert_array_equal(rounded, of_halves.astype(jnp.bfloat16))
    assert np.abs(rounded.astype(jnp.float32) - exact).max() < 0.1
