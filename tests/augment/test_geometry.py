"""The one affine map and its sampling against Pillow doing the same step by step."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pillow_steps import FILL, PILLOW, natural_image, smooth_image, step_by_step

from metriclt_jax.augment import AugmentConfig, augment, center
from metriclt_jax.augment import geometry as geometry_module
from metriclt_jax.errors import InputError

SMALL = AugmentConfig(resize=64, crop=56)


@jax.jit(static_argnames='geometry')
def at_once(cache, angle, left, top, flipped, aspect, geometry) -> jax.Array:
    matrix = geometry_module.output_to_cache(angle, left, top, flipped, aspect, geometry)
    return geometry_module.sample(cache, matrix, geometry)


augmented = jax.jit(augment, static_argnames='config')


def keys(count: int) -> jax.Array:
    return jax.random.split(jax.random.key(0), count)


def random_images(count: int, geometry: AugmentConfig) -> np.ndarray:
    shape = (count, geometry.resize, geometry.resize, 3)
    return np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)


# Against Pillow


@pytest.mark.parametrize('size', [(200, 150), (180, 180), (100, 300)])
@pytest.mark.parametrize(
    ('angle', 'left', 'top', 'flipped'),
    [(25.0, 3, 8, False), (-14.0, 8, 0, True), (30.0, 4, 4, True)],
)
@pytest.mark.parametrize(
    ('make_image', 'tolerance'),
    # Mean grey levels. The two ways differ in how often and at which scale they interpolate: by
    # half a level for waves of 30 pixels, by 4 to 5 levels for the sharp edges of a photograph. An
    # error of half a pixel in any step is 3 levels or more in the first, 8 in the second.
    [(smooth_image, 1.0), (natural_image, 6.0)],
)
def test_one_sampling_agrees_with_rotate_resize_crop_flip(
    make_image, tolerance, angle, left, top, flipped, size
):
    original, aspect = make_image(*size), size[0] / size[1]
    cache = np.asarray(Image.fromarray(original).resize((64, 64), PILLOW['bilinear']))
    geometry = dataclasses.replace(SMALL, fill=FILL)
    in_black = dataclasses.replace(SMALL, fill=(0, 0, 0))
    expected = step_by_step(original, angle, left, top, flipped, geometry)
    white = np.full_like(original, 255)
    cover = step_by_step(white, angle, left, top, flipped, in_black)[..., 0]

    def pixels(angle=angle, left=left, top=top, flipped=flipped, aspect=aspect):
        return np.asarray(at_once(cache, angle, left, top, flipped, aspect, geometry))

    def error(**wrong):
        return np.mean(np.abs(pixels(**wrong) - expected)[cover == 255])

    assert error() < tolerance
    np.testing.assert_array_equal(pixels()[cover == 0], np.tile(FILL, ((cover == 0).sum(), 1)))
    assert np.mean((cover > 0) & (cover < 255)) < 0.1  # what neither of the two looks at

    assert error(left=left + 0.5) > tolerance
    assert error(top=top - 0.5) > tolerance
    assert error(angle=-angle) > 5 * tolerance
    assert error(flipped=not flipped) > 5 * tolerance
    if aspect != 1:
        assert error(aspect=1.0) > 2 * tolerance
        assert error(aspect=1 / aspect) > 4 * tolerance


@settings(deadline=None, max_examples=25)
@given(
    angle=st.floats(-180, 180, width=32),
    left=st.integers(0, 8),
    top=st.integers(0, 8),
    flipped=st.booleans(),
    aspect=st.floats(0.25, 4, width=32),
    interpolation=st.sampled_from(['bilinear', 'nearest']),
)
def test_sampling_is_pillows_transform_of_the_cached_image(
    angle, left, top, flipped, aspect, interpolation
):
    geometry = dataclasses.replace(SMALL, fill=FILL, interpolation=interpolation)
    cache = natural_image(64, 64)
    pixels = at_once(cache, angle, left, top, flipped, aspect, geometry)
    matrix = geometry_module.output_to_cache(angle, left, top, flipped, aspect, geometry)
    expected = Image.fromarray(cache).transform(
        (56, 56),
        Image.Transform.AFFINE,
        np.asarray(matrix)[:2].ravel().tolist(),
        PILLOW[interpolation],
        fillcolor=FILL,
    )
    # A point on the border of a pixel may fall to either side (Pillow's coordinates are fixed-point
    # for 'nearest'), so these are left out. Pillow's levels are whole numbers.
    u, v = np.meshgrid(np.arange(56) + 0.5, np.arange(56) + 0.5)
    points = np.einsum('ij,jyx->yxi', np.asarray(matrix)[:2], np.stack([u, v, np.ones_like(u)]))
    clear = np.all(np.abs(points - np.round(points)) > 5e-3, axis=-1)
    error = np.abs(np.asarray(pixels) - np.asarray(expected))[clear]
    assert np.all(error <= (1.01 if interpolation == 'bilinear' else 0))


# The map


@pytest.mark.parametrize('interpolation', ['bilinear', 'nearest'])
def test_without_rotation_the_pixels_are_the_cached_ones_exactly(interpolation):
    geometry = AugmentConfig(resize=64, crop=55, interpolation=interpolation)
    image = random_images(1, geometry)[0]
    for left, top in [(0, 0), (9, 9), (3, 7)]:
        crop = image[top : top + 55, left : left + 55]
        for flipped, expected in [(False, crop), (True, crop[:, ::-1])]:
            pixels = at_once(image, 0.0, left, top, flipped, 1.37, geometry)
            np.testing.assert_array_equal(pixels, expected)


@pytest.mark.parametrize(
    ('resize', 'size', 'offset'), [(300, 224, 38), (64, 56, 4), (9, 4, 2), (11, 4, 4), (32, 32, 0)]
)
def test_evaluation_sees_the_cached_pixels_of_the_centre(resize, size, offset):
    geometry = AugmentConfig(resize=resize, crop=size)
    images = random_images(2, geometry)
    expected = images[:, offset : offset + size, offset : offset + size]
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normalized = (expected / 255 - np.array(mean)) / std
    np.testing.assert_allclose(center(images, geometry), normalized, atol=1e-6)
    own = dataclasses.replace(geometry, mean=(0, 0, 0), std=(1, 1, 1))
    np.testing.assert_allclose(center(images, own), expected / 255, atol=1e-6)

    for image, crop in zip(images, expected, strict=True):
        still = at_once(image, 0.0, offset, offset, False, 1.0, geometry)
        np.testing.assert_array_equal(still, crop)


def test_fill_is_seen_outside_the_image_and_is_normalised():
    geometry = AugmentConfig(resize=64, crop=64, rotation=180, fill=FILL)
    images = np.full((32, 64, 64, 3), 255, np.uint8)
    seen = np.asarray(augmented(keys(32), images, np.full(32, 1.5), geometry))
    seen = (seen * geometry.std + geometry.mean) * 255
    outside = np.all(np.abs(seen - FILL) < 1e-3, axis=-1)
    inside = np.all(np.abs(seen - 255) < 1e-3, axis=-1)
    assert np.all(outside | inside)
    assert 0.05 < outside.mean() < 0.5
    assert inside[:, 32, 32].all()


# Random numbers


def test_angles_offsets_and_flips_are_uniform_over_their_ranges():
    geometry = AugmentConfig(resize=64, crop=60, rotation=30, flip=0.25)
    draw = jax.vmap(lambda key: geometry_module.draw(key, geometry))
    angle, left, top, flipped = draw(keys(4000))
    assert angle.dtype == jnp.float32
    assert np.all(np.abs(angle) <= 30)
    histogram, _ = np.histogram(angle, bins=6, range=(-30, 30))
    np.testing.assert_allclose(histogram / 4000, 1 / 6, atol=0.03)
    for offset in (left, top):
        np.testing.assert_allclose(np.bincount(offset, minlength=5) / 4000, 1 / 5, atol=0.03)
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.03)
    draws = np.stack([angle, left, top, flipped]).astype(float)
    np.testing.assert_allclose(np.corrcoef(draws), np.eye(4), atol=0.06)  # independent


def test_an_example_depends_on_its_own_key_image_and_aspect_alone():
    images, aspects = random_images(8, SMALL), np.linspace(0.7, 1.5, 8).astype(np.float32)
    whole = augmented(keys(8), images, aspects, SMALL)
    assert whole.shape == (8, 56, 56, 3)
    assert whole.dtype == jnp.float32
    order = np.array([4, 1, 2, 0, 7, 6, 5, 3])
    part = augmented(keys(8)[order], images[order], aspects[order], SMALL)
    # Not to the bit: a compiler may fuse a multiplication and an addition.
    np.testing.assert_allclose(part, whole[order], atol=1e-3)

    same_image = np.repeat(images[:1], 8, axis=0)
    views = np.asarray(augmented(keys(8), same_image, np.ones(8, np.float32), SMALL))
    for i in range(8):
        assert np.all(np.abs(views[i] - np.delete(views, i, axis=0)).mean(axis=(1, 2, 3)) > 0.1)

    def split(array):
        return array.reshape(4, 2, *array.shape[1:])

    on_four = jax.pmap(functools.partial(augment, config=SMALL), devices=jax.devices()[:4])
    seen = on_four(split(keys(8)), split(images), split(aspects))
    np.testing.assert_allclose(seen.reshape(whole.shape), whole, rtol=0, atol=1e-3)


# Errors


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        ('resize', 0),
        ('crop', 65),
        ('crop', 0),
        ('rotation', -1.0),
        ('rotation', float('nan')),
        ('flip', 1.5),
        ('fill', (0, 0, 256)),
        ('fill', 0),
        ('interpolation', 'bicubic'),
        ('mean', (0.5, 0.5)),
        ('mean', (0.5, 0.5, float('inf'))),
        ('std', (0.2, 0.2, 0.0)),
    ],
)
def test_impossible_geometry_is_refused(field, value):
    with pytest.raises(InputError, match=field):
        dataclasses.replace(SMALL, **{field: value})


def test_other_images_are_refused():
    for images in (
        np.zeros((2, 64, 64, 3), np.float32),
        np.zeros((2, 60, 60, 3), np.uint8),
        np.zeros((64, 64, 3), np.uint8),
    ):
        with pytest.raises(ValueError, match='images must be uint8'):
            center(images, SMALL)
        with pytest.raises(ValueError, match='images must be uint8'):
            augment(keys(2), images, np.ones(2), SMALL)
