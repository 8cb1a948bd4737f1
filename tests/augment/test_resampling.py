"""Two passes of matrix products, as on TPU, against gathered pixels, as elsewhere."""

import functools
import io
import os
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from pillow_steps import natural_image, smooth_image, step_by_step

from metriclt_jax.augment import AugmentConfig, geometry, resampling

CONFIG = AugmentConfig(resize=128, crop=96)
TWO_PASSES = functools.partial(resampling.two_passes, steep=True)


@functools.partial(jax.jit, static_argnames=('lowering', 'interpolation'))
def warp(lowering, cache, angle, left, top, flipped, aspect, interpolation='bilinear'):
    """The pixels, and which of them lie inside the image."""
    matrix = geometry.output_to_cache(angle, left, top, flipped, aspect, CONFIG)
    x, y = resampling.points(matrix, CONFIG.crop)
    inside = (x >= 0) & (x < CONFIG.resize) & (y >= 0) & (y < CONFIG.resize)
    return lowering(cache, matrix, size=CONFIG.crop, interpolation=interpolation), inside


def cached(original):
    return np.asarray(Image.fromarray(original).resize((128, 128), Image.Resampling.BILINEAR))


def error(pixels, expected, where):
    return np.mean(np.abs(np.asarray(pixels) - expected)[where])


@pytest.mark.parametrize('interpolation', resampling.INTERPOLATIONS)
@pytest.mark.parametrize('steep', [False, True])
def test_without_rotation_two_passes_give_the_cached_pixels_exactly(interpolation, steep):
    image = np.random.default_rng(0).integers(0, 256, (128, 128, 3), np.uint8)
    lowering = functools.partial(resampling.two_passes, steep=steep)
    for left, top, flipped in [(0, 0, False), (32, 32, True), (3, 7, False)]:
        pixels, _ = warp(lowering, image, 0.0, left, top, flipped, 1.37, interpolation)
        crop = image[top : top + 96, left : left + 96]
        np.testing.assert_array_equal(pixels, crop[:, ::-1] if flipped else crop)


@pytest.mark.parametrize('angle', [5.0, -30.0, 44.0, -60.0, 90.0, 135.0, 180.0])
@pytest.mark.parametrize(
    # In mean grey levels; half a pixel off would be 3 and 8.
    ('make_image', 'bound'),
    [(smooth_image, 0.3), (natural_image, 2.5)],
)
def test_two_passes_agree_with_gathered_pixels(make_image, bound, angle):
    cache = cached(make_image(200, 150))
    gathered, inside = warp(resampling.gather, cache, angle, 7, 20, True, 4 / 3)
    pixels, _ = warp(TWO_PASSES, cache, angle, 7, 20, True, 4 / 3)
    assert inside.mean() > 0.6
    assert error(pixels, gathered, inside) < bound


def test_two_passes_take_the_nearest_pixel_of_each():
    cache = cached(smooth_image(200, 150))
    gathered, inside = warp(resampling.gather, cache, 25.0, 7, 20, False, 4 / 3, 'nearest')
    pixels, _ = warp(TWO_PASSES, cache, 25.0, 7, 20, False, 4 / 3, 'nearest')
    assert np.isin(pixels, cache).all()
    assert error(pixels, gathered, inside) < 3


def test_on_real_photographs_two_passes_are_as_near_to_pillow_as_gathered_pixels():
    if not os.environ.get('METRICLT_DATA'):
        pytest.skip('METRICLT_DATA names no folder with isic2018_task3_200x150.zip')
    archive = zipfile.ZipFile(Path(os.environ['METRICLT_DATA']) / 'isic2018_task3_200x150.zip')
    names = sorted(name for name in archive.namelist() if name.endswith('.jpg'))[::1500]
    for name in names:
        original = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert('RGB'))
        white = np.full_like(original, 255)
        for angle in (-30.0, 11.0, 44.0, 80.0):
            arguments = angle, 7, 20, True
            expected = step_by_step(original, *arguments, CONFIG).astype(float)
            covered = step_by_step(white, *arguments, CONFIG)[..., 0] == 255
            of_gather, of_passes = (
                error(warp(way, cached(original), *arguments, 4 / 3)[0], expected, covered)
                for way in (resampling.gather, TWO_PASSES)
            )
            assert of_passes < of_gather + 1, (name, angle)
