"""Images to interpolate, and the paper's rotation, resize, crop and flip by Pillow."""

import numpy as np
from PIL import Image

FILL = (200, 30, 90)
PILLOW = {'bilinear': Image.Resampling.BILINEAR, 'nearest': Image.Resampling.NEAREST}


def smooth_image(width: int, height: int) -> np.ndarray:
    """A few waves a side: interpolation errors are small, misplaced pixels are not."""
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = [np.sin(12 * x + 3 * y), np.cos(9 * y - 2 * x), np.sin(7 * (x + y))]
    return np.uint8(np.round(127.5 + 120 * np.stack(waves, axis=-1)))


def natural_image(width: int, height: int) -> np.ndarray:
    """Noise with the 1/f amplitude spectrum of photographs."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None])
    frequency[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.normal(size=(height, width, 3)), axes=(0, 1))
    noise = np.fft.ifft2(spectrum / frequency[..., None], axes=(0, 1)).real
    return np.uint8(np.clip(127.5 + 45 * noise / noise.std(), 0, 255))


def step_by_step(original, angle, left, top, flipped, geometry) -> np.ndarray:
    """The paper's pipeline on the original image."""
    resample = PILLOW[geometry.interpolation]
    image = Image.fromarray(original).rotate(angle, resample, fillcolor=geometry.fill)
    image = image.resize((geometry.resize,) * 2, PILLOW['bilinear'])
    image = image.crop((left, top, left + geometry.crop, top + geometry.crop))
    return np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flipped else image)
