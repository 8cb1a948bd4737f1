"""dogs_lt: Stanford Dogs, 20,580 photographs of 120 breeds.

Reads the folder that the official archives unpack to (http://vision.stanford.edu/aditya86/ImageNetDogs/):

    Images/nXXXXXXXX-breed/nXXXXXXXX_XXXX.jpg     (images.tar)
    train_list.mat and test_list.mat, or both in lists/     (lists.tar)

The bounding boxes (annotation.tar) are not used. Of the builder `stanford_dogs` that TFDS 4.9.10
has, only its description works without TensorFlow: it opens the lists with `tf.io.gfile`. So the
official files are read here.
"""

import itertools
from pathlib import Path, PurePosixPath

from metriclt_jax.data.builders.source import Source, from_examples, open_folder, require_inside
from metriclt_jax.data.records import Example
from metriclt_jax.data.tables import read_mat
from metriclt_jax.errors import InputError

IMAGES, LISTS = 'Images', 'lists'
PARTS = ('train', 'test')


def read_source(source: str | None) -> Source:
    """Returns every image that the lists in the folder `source` name, with its official part.

    Classes are called as their folders, without the WordNet id, in the order of the labels.

    Raises:
        InputError: the folder is not complete, or a list is not as expected.
    """
    layout = f'{IMAGES}/ and {LISTS}/ with train_list.mat and test_list.mat'
    folder = open_folder(source, 'dogs_lt', layout, folders=(IMAGES,))
    lists = LISTS if (folder / LISTS).is_dir() else '.'
    tables = {part: f'{lists}/{part}_list.mat' for part in PARTS}
    open_folder(source, 'dogs_lt', layout, files=list(tables.values()))

    rows: list[tuple[str, int, str]] = []  # path inside Images/, label from 1 on, part
    for part, table in tables.items():
        paths, labels = read_mat(folder / table, {'file_list': str, 'labels': int})
        if len(paths) != len(labels):
            raise InputError(
                f'{folder / table} has {len(paths)} files and {len(labels)} labels; allowed: as '
                'many of each'
            )
        rows += zip(paths.tolist(), labels.tolist(), itertools.repeat(part), strict=False)
    folders = _folders(rows, folder / lists)
    for path, _, _ in rows:
        file = require_inside(folder / IMAGES / path, folder)
        if not file.is_file():
            raise InputError(f'there is no image {file}, which {folder / lists} lists')
    return from_examples(
        [name.partition('-')[2] or name for name in folders],
        (
            Example(PurePosixPath(path).stem, label - 1, '', folder / IMAGES / path, part)
            for path, label, part in rows
        ),
    )


def _folders(rows: list[tuple[str, int, str]], lists: Path) -> list[str]:
    """Returns the folder of each class, by its label."""
    labels: dict[str, int] = {}
    for path, label, _ in rows:
        first = labels.setdefault(PurePosixPath(path).parent.name, label)
        if label != first:
            raise InputError(
                f'{lists} gives {path} the label {label} and others of its folder the label '
                f'{first}; allowed: one label a folder'
            )
    if sorted(labels.values()) != list(range(1, len(labels) + 1)):
        raise InputError(
            f'{lists} gives its {len(labels)} folders the labels {sorted(labels.values())}; '
            f'allowed: 1 to {len(labels)}, each for one folder'
        )
    return sorted(labels, key=labels.get)
