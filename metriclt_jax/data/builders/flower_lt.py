"""flower_lt: Oxford Flowers 102, 8,189 photographs of 102 species.

Reads the folder with the official files (https://www.robots.ox.ac.uk/~vgg/data/flowers/102/):

    jpg/image_XXXXX.jpg     (102flowers.tgz, unpacked)
    imagelabels.mat
    setid.mat

Of the builder `oxford_flowers102` that TFDS 4.9.10 has, only its description works without
TensorFlow: it opens the MATLAB files with `tf.io.gfile`. So the official files are read here.
"""

import numpy as np

from metriclt_jax.data.builders.source import Source, find_images, from_examples, open_folder
from metriclt_jax.data.records import Example
from metriclt_jax.data.tables import read_mat, require_all
from metriclt_jax.errors import InputError

IMAGES, LABELS, PARTS = 'jpg', 'imagelabels.mat', 'setid.mat'
PART_NAMES = {'trnid': 'train', 'valid': 'validation', 'tstid': 'test'}
"""From the variables of setid.mat, which list images by their numbers, which start at 1."""

CLASS_NAMES = (
    'pink primrose', 'hard-leaved pocket orchid', 'canterbury bells', 'sweet pea',
    'english marigold', 'tiger lily', 'moon orchid', 'bird of paradise', 'monkshood',
    'globe thistle', 'snapdragon', "colt's foot", 'king protea', 'spear thistle', 'yellow iris',
    'globe-flower', 'purple coneflower', 'peruvian lily', 'balloon flower',
    'giant white arum lily', 'fire lily', 'pincushion flower', 'fritillary', 'red ginger',
    'grape hyacinth', 'corn poppy', 'prince of wales feathers', 'stemless gentian', 'artichoke',
    'sweet william', 'carnation', 'garden phlox', 'love in the mist', 'mexican aster',
    'alpine sea holly', 'ruby-lipped cattleya', 'cape flower', 'great masterwort', 'siam tulip',
    'lenten rose', 'barbeton daisy', 'daffodil', 'sword lily', 'poinsettia', 'bolero deep blue',
    'wallflower', 'marigold', 'buttercup', 'oxeye daisy', 'common dandelion', 'petunia',
    'wild pansy', 'primula', 'sunflower', 'pelargonium', 'bishop of llandaff', 'gaura',
    'geranium', 'orange dahlia', 'pink-yellow dahlia?', 'cautleya spicata', 'japanese anemone',
    'black-eyed susan', 'silverbush', 'californian poppy', 'osteospermum', 'spring crocus',
    'bearded iris', 'windflower', 'tree poppy', 'gazania', 'azalea', 'water lily', 'rose',
    'thorn apple', 'morning glory', 'passion flower', 'lotus', 'toad lily', 'anthurium',
    'frangipani', 'clematis', 'hibiscus', 'columbine', 'desert-rose', 'tree mallow', 'magnolia',
    'cyclamen', 'watercress', 'canna lily', 'hippeastrum', 'bee balm', 'ball moss', 'foxglove',
    'bougainvillea', 'camellia', 'mallow', 'mexican petunia', 'bromelia', 'blanket flower',
    'trumpet creeper', 'blackberry lily',
)  # fmt: skip
"""In the order of the official labels, which start at 1; the names are those of TFDS."""


def read_source(source: str | None) -> Source:
    """Returns every image of the folder `source`, with its official part.

    Raises:
        InputError: the folder is not complete, or its files do not fit each other.
    """
    layout = f'{IMAGES}/, {LABELS} and {PARTS}'
    folder = open_folder(source, 'flower_lt', layout, folders=(IMAGES,), files=(LABELS, PARTS))
    (labels,) = read_mat(folder / LABELS, {'labels': int})
    outside = set(labels.tolist()) - set(range(1, len(CLASS_NAMES) + 1))
    if outside:
        raise InputError(
            f'{folder / LABELS} has the label {min(outside)}; allowed: 1 to {len(CLASS_NAMES)}'
        )
    numbers = read_mat(folder / PARTS, dict.fromkeys(PART_NAMES, int))
    if sorted(np.concatenate(numbers).tolist()) != list(range(1, len(labels) + 1)):
        raise InputError(
            f'{folder / PARTS} does not list the images 1 to {len(labels)} of {folder / LABELS} '
            'once each'
        )
    files = find_images(folder / IMAGES, '.jpg', folder)
    examples = [
        (f'image_{number:05d}', int(labels[number - 1]) - 1, part)
        for part, members in zip(PART_NAMES.values(), numbers, strict=True)
        for number in members.tolist()
    ]
    require_all([name for name, _, _ in examples], folder / LABELS, files, folder / IMAGES)
    return from_examples(
        CLASS_NAMES,
        (Example(name, label, '', files[name], part) for name, label, part in examples),
    )
