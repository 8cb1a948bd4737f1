"""folder: your own images, in one folder per class or listed in a table.

`class_folders` has the layouts of folders, `image_tables` the columns of tables.
"""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from metriclt_jax.data.sources import class_folders, common, image_tables, names
from metriclt_jax.errors import InputError
from metriclt_jax.paths import local_path


def read_source(
    source: str | None,
    labels: str | None = None,
    classes: Sequence[str] = (),
    path_column: str | None = None,
    label_column: str | None = None,
    group_column: str | None = None,
    split_column: str | None = None,
) -> common.Source:
    """Returns the images of the folder `source`, or those that the table `labels` lists.

    Args:
        source: the folder; ids of images are their paths in it.
        labels: a table that lists the images.
        classes: all class names in order, by default those that occur, sorted.
        path_column, label_column, group_column, split_column: columns of the table, by default
            found by their names; 'none' for no groups or parts.
    """
    layout = 'one folder per class, or images that a CSV file lists (--labels)'
    root = common.open_folder(source, 'folder', layout)
    classes = [names.tidy(name) for name in classes]
    columns = {
        'path': path_column, 'label': label_column, 'group': group_column, 'split': split_column
    }  # fmt: skip
    if labels:
        table = local_path(labels)
        found, unusable, note = image_tables.find(root, table, classes, columns)
    elif any(name is not None for name in columns.values()):
        raise InputError('columns are of a CSV file; name it with --labels=FILE.csv')
    else:
        found, unusable, note = class_folders.find(root, classes)
    if not classes:
        names.require_different({image.label for image in found}, labels or root)
    class_names = classes or sorted({image.label for image in found})
    label_of = {name: label for label, name in enumerate(class_names)}
    twice = Counter(unicodedata.normalize('NFC', str(path)) for path in {i.path for i in found})
    examples = []
    for path, label, group, part in found:
        if label not in label_of:
            known = ', '.join(class_names)
            raise InputError(f'image {path} has the label {label!r}; it must be one of {known}')
        image_id = path.relative_to(root).as_posix()
        if not image_id.isprintable() or image_id != image_id.strip():
            unusable[path] = 'its name has characters that cannot be printed; rename it'
        elif twice[unicodedata.normalize('NFC', str(path))] > 1:
            unusable[path] = 'another file has this name in another form of Unicode; rename one'
        else:
            examples.append(common.Example(image_id, label_of[label], group, path, part))
    if unusable and not examples:
        path, reason = next(iter(unusable.items()))
        raise InputError(
            f'none of the {len(unusable)} files of {labels or root} can be used, the first is '
            f'{path}: {reason}; paths are relative to {root}'
        )
    return common.from_examples(class_names, examples, note, unusable)
