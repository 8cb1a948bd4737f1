"""skin7: ISIC 2018 task 3 (HAM10000), 10,015 dermoscopic images of 7 classes.

Reads the folder that the official archives unpack to (https://challenge.isic-archive.com/data/#2018):

    ISIC2018_Task3_Training_Input/ISIC_XXXXXXX.jpg
    ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    ISIC2018_Task3_Training_LesionGroupings.csv

or the same images as Kaggle and Dataverse have them (https://doi.org/10.7910/DVN/DBW86T):

    HAM10000_metadata.csv (or .tab)
    HAM10000_images_part_1/, HAM10000_images_part_2/ (or other folders)

and with them, if they are there, the official validation and test images:

    ISIC2018_Task3_Validation_Input/, ISIC2018_Task3_Validation_GroundTruth/
    ISIC2018_Task3_Test_Input/, ISIC2018_Task3_Test_GroundTruth/
"""

import os
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from metriclt_jax.data.sources import common
from metriclt_jax.data.sources.tables import by_image, read_table
from metriclt_jax.errors import InputError

CLASS_NAMES = ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC')
"""In the order of the official ground truth."""

IMAGES = 'ISIC2018_Task3_Training_Input'
LABELS = 'ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv'
LESIONS = 'ISIC2018_Task3_Training_LesionGroupings.csv'
METADATA = 'HAM10000_metadata.csv'

_TRAINING = 'isic2018_task3_training'
_OTHERS = {'validation': 'isic2018_task3_validation', 'test': 'isic2018_task3_test'}
_LABELS, _LESIONS, _METADATA = (Path(name).stem.lower() for name in (LABELS, LESIONS, METADATA))
_ARCHIVE = re.compile(r'isic20\d\d_task[\d-]+_[a-z]+')


def read_source(source: str | None) -> common.Source:
    """Returns the images of the folder `source`, grouped by lesion, with the official parts."""
    layout = f'{IMAGES}/, {LABELS} and {LESIONS}; or {METADATA} and HAM10000_images_part_1/ and 2'
    root = common.open_folder(source, 'skin7', layout)
    tables, images, notes = _files(root)
    for needed in (_LABELS, _LESIONS) if _LABELS in tables else (_METADATA,):
        if needed not in tables:
            raise InputError(f'there is no table {needed} in {root}; skin7 needs {layout}')
    table = tables[_LABELS if _LABELS in tables else _METADATA]
    labels = _read_labels(table)
    if _LABELS in tables:
        lesions = by_image(read_table(tables[_LESIONS]), ('image', 'lesion_id'))
        common.require_all(labels, table, lesions, tables[_LESIONS])
        common.require_all(lesions, tables[_LESIONS], labels, table)
        labels = {name: (label, *lesions[name]) for name, (label, _) in labels.items()}
    sets = {'train': (table, labels, images[_TRAINING] or images[''])}
    for part, start in _OTHERS.items():
        table = tables.get(f'{start}_groundtruth')
        if table and images[start]:
            sets[part] = (table, _read_labels(table), images[start])
        elif table or images[start]:
            lacking = 'images' if table else 'ground truth'
            notes.append(f'{part} left out, as it lacks its {lacking}')
    examples, unusable = [], {}
    for part, (table, labels, files) in sets.items():
        parents = {str(path.parent) for path in files.values()}
        where = Path(os.path.commonpath(parents)) if parents else root
        unusable |= common.missing_files(labels, table, files, where, '.jpg')
        unusable |= {files[name]: f'{table} does not list it' for name in files.keys() - labels}
        part = part if len(sets) > 1 else ''
        present = labels.keys() & files
        examples += [common.Example(n, *labels[n], files[n], part) for n in present]
    if len(sets) > 1:
        notes.append(f'{len(sets)} parts')
    return common.from_examples(CLASS_NAMES, examples, ', '.join(notes), unusable)


def _files(root: Path) -> tuple[dict[str, Path], Mapping[str, dict[str, Path]], list[str]]:
    """Returns the tables by name, the images by archive ('' for others) and name, and notes."""
    tables: dict[str, Path] = {}
    images: Mapping[str, dict[str, Path]] = defaultdict(dict)
    again = 0
    for path in common.files_below(root, root):
        stem, suffix = path.stem.lower(), path.suffix.lower()
        is_table = stem in (_LABELS, _LESIONS, _METADATA) or stem.endswith('_groundtruth')
        if suffix == '.jpg':
            archive = _ARCHIVE.search(str(path)[len(str(root)) :].lower())
            found, name = images[archive[0] if archive else ''], path.stem
        elif suffix in ('.csv', '.tab', '.tsv', '.txt', '') and is_table:
            found, name = tables, stem
        else:
            continue
        if name not in found:
            found[name] = path
        elif path.stat().st_size == found[name].stat().st_size:
            again += 1  # Kaggle's archive has all images twice
        else:
            raise InputError(f'{found[name]} exists again as {path}; remove one of them')
    return tables, images, [f'{again} files are there twice and used once'] if again else []


def _read_labels(path: Path) -> dict[str, tuple[int, str]]:
    """Label and lesion of each image, from a table of the challenge or like HAM10000_metadata."""
    table = read_table(path)
    if 'dx' not in table.header:
        rows = by_image(table, ('image', *CLASS_NAMES))
        return {image: (_label(image, values, path), '') for image, values in rows.items()}
    rows = by_image(table, ('image_id', 'dx', 'lesion_id'))
    labels = {}
    for image, (name, lesion) in rows.items():
        if name.upper() not in CLASS_NAMES:
            raise InputError(
                f'{path} has the dx {name!r} for image {image}; it must be one of '
                f'{", ".join(CLASS_NAMES).lower()}'
            )
        labels[image] = CLASS_NAMES.index(name.upper()), lesion
    return labels


def _label(image: str, values: list[str], path: Path) -> int:
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if sorted(numbers) != [0.0] * (len(CLASS_NAMES) - 1) + [1.0]:
        raise InputError(
            f'{path} has {",".join(values)} for image {image}; one of '
            f'{", ".join(CLASS_NAMES)} must be 1.0 and the others 0.0'
        )
    return numbers.index(1.0)
