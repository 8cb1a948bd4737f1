"""dogs_lt: Stanford Dogs, 20,580 photographs of 120 breeds.

Reads the folder that the official archives unpack to (http://vision.stanford.edu/aditya86/ImageNetDogs/):

    Images/nXXXXXXXX-breed/nXXXXXXXX_XXXX.jpg     (images.tar)
    train_list.mat and test_list.mat, or both in lists/     (lists.tar)

The bounding boxes (annotation.tar) are not used.
"""

from pathlib import PurePosixPath

from metriclt_jax.data.sources import common
from metriclt_jax.errors import InputError

IMAGES, LISTS = 'Images', 'lists'
PARTS = ('train', 'test')


def read_source(source: str | None) -> common.Source:
    """Returns every image that the lists in the folder `source` name, with its official part.

    Classes are named after their folders, without the WordNet id, in the order of the labels.
    """
    layout = f'{IMAGES}/ and {LISTS}/ with train_list.mat and test_list.mat'
    folder = common.open_folder(source, 'dogs_lt', layout, f'{IMAGES}/')
    lists = LISTS if (folder / LISTS).is_dir() else '.'
    tables = {part: f'{lists}/{part}_list.mat' for part in PARTS}
    common.open_folder(str(folder), 'dogs_lt', layout, *tables.values())

    examples = []
    label_of: dict[str, int] = {}  # by the name of the folder, from 1
    for part, table in tables.items():
        paths, labels = common.read_mat(folder / table, {'file_list': str, 'labels': int})
        if len(paths) != len(labels):
            raise InputError(f'{folder / table} has {len(paths)} files but {len(labels)} labels')
        for path, label in zip(paths.tolist(), labels.tolist(), strict=True):
            file = common.require_inside(folder / IMAGES / path, folder)
            if label != label_of.setdefault(file.parent.name, label):
                raise InputError(f'{folder / table} gives the folder of {path} several labels')
            examples.append(common.Example(PurePosixPath(path).stem, label - 1, '', file, part))
    files = {str(file.image): file.image for file in examples}
    present = [name for name, file in files.items() if file.is_file()]
    common.require_all(files, folder / lists, present, folder / IMAGES)
    if sorted(label_of.values()) != list(range(1, len(label_of) + 1)):
        raise InputError(
            f'{folder / lists} gives its {len(label_of)} folders the labels '
            f'{sorted(label_of.values())}; they must be 1 to {len(label_of)}, one per folder'
        )
    names = sorted(label_of, key=label_of.get)
    return common.from_examples([name.partition('-')[2] or name for name in names], examples)
