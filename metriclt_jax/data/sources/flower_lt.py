"""flower_lt: Oxford Flowers 102, 8,189 photographs of 102 species.

Reads the folder with the official files (https://www.robots.ox.ac.uk/~vgg/data/flowers/102/):

    jpg/image_XXXXX.jpg     (102flowers.tgz, unpacked)
    imagelabels.mat
    setid.mat
"""

import json
from pathlib import Path

import numpy as np

from metriclt_jax.data.sources import common
from metriclt_jax.errors import InputError

IMAGES, LABELS, PARTS = 'jpg', 'imagelabels.mat', 'setid.mat'
PART_NAMES = {'trnid': 'train', 'valid': 'validation', 'tstid': 'test'}
"""Variables of setid.mat, which list images by their numbers, counted from 1."""

CLASS_NAMES = tuple(json.loads(Path(__file__).with_suffix('.json').read_text(encoding='utf-8')))
"""In the order of the official labels, counted from 1; the names are those of TFDS."""


def read_source(source: str | None) -> common.Source:
    """Returns every image of the folder `source`, with its official part."""
    layout = f'{IMAGES}/, {LABELS} and {PARTS}'
    folder = common.open_folder(source, 'flower_lt', layout, f'{IMAGES}/', LABELS, PARTS)
    (labels,) = common.read_mat(folder / LABELS, {'labels': int})
    outside = set(labels.tolist()) - set(range(1, len(CLASS_NAMES) + 1))
    if outside:
        wanted = f'it must be 1 to {len(CLASS_NAMES)}'
        raise InputError(f'{folder / LABELS} has the label {min(outside)}; {wanted}')
    numbers = common.read_mat(folder / PARTS, dict.fromkeys(PART_NAMES, int))
    if sorted(np.concatenate(numbers).tolist()) != list(range(1, len(labels) + 1)):
        raise InputError(f'{folder / PARTS} must list each of the images 1 to {len(labels)} once')
    files = common.find_images(folder / IMAGES, '.jpg', folder)
    names = [f'image_{number:05d}' for number in range(1, len(labels) + 1)]
    common.require_all(names, folder / LABELS, files, folder / IMAGES)
    examples = (
        common.Example(names[i], int(labels[i]) - 1, '', files[names[i]], part)
        for part, members in zip(PART_NAMES.values(), numbers, strict=True)
        for i in members - 1
    )
    return common.from_examples(CLASS_NAMES, examples)
