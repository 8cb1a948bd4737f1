"""TFDS builder of skin7: ISIC 2018 task 3 (HAM10000), 10,015 dermoscopic images of 7 classes.

Reads the folder that the official archives unpack to (https://challenge.isic-archive.com/data/#2018):

    ISIC2018_Task3_Training_Input/ISIC_XXXXXXX.jpg
    ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    ISIC2018_Task3_Training_LesionGroupings.csv
"""

import collections
import csv
from collections.abc import Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from metriclt_jax.data import decoding, records
from metriclt_jax.errors import InputError

CLASS_NAMES = ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC')
"""In the order of the official ground truth."""

IMAGES = 'ISIC2018_Task3_Training_Input'
LABELS = 'ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv'
LESIONS = 'ISIC2018_Task3_Training_LesionGroupings.csv'


def check_source(source: str | None) -> None:
    """Checks the whole folder, down to the pixels of every image.

    Raises:
        InputError: something is missing, superfluous, contradictory or unreadable.
    """
    decoding.check_images([example.image for example in read_source(source)])


def read_source(source: str | None) -> list[records.Example]:
    """Returns label, lesion and file of every image of the folder `source`.

    Raises:
        InputError: the folder is not complete, or its tables do not fit each other or the images.
    """
    if not source:
        raise InputError(
            f'skin7 needs a source; allowed: a folder with {IMAGES}/, {LABELS} and {LESIONS}'
        )
    folder = Path(source).expanduser()
    for name, kind in (('', 'folder'), (IMAGES, 'folder'), (LABELS, 'file'), (LESIONS, 'file')):
        if not ((folder / name).is_dir() if kind == 'folder' else (folder / name).is_file()):
            raise InputError(
                f'there is no {kind} {folder / name}; the source of skin7 is a folder with '
                f'{IMAGES}/, {LABELS} and {LESIONS}'
            )
    labels = {
        row['image']: _label(row, folder / LABELS)
        for row in _table(folder / LABELS, ('image', *CLASS_NAMES))
    }
    lesions = {
        row['image']: row['lesion_id'] for row in _table(folder / LESIONS, ('image', 'lesion_id'))
    }
    files = {
        path.stem: path
        for path in (folder / IMAGES).iterdir()
        if path.suffix == '.jpg' and not path.name.startswith('.')
    }
    _same_images(labels, folder / LABELS, files, folder / IMAGES)
    _same_images(labels, folder / LABELS, lesions, folder / LESIONS)
    return [
        records.Example(image_id, labels[image_id], lesions[image_id], files[image_id])
        for image_id in sorted(labels)
    ]


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the records of skin7."""

    VERSION = tfds.core.Version('1.0.0')
    MANUAL_DOWNLOAD_INSTRUCTIONS = __doc__

    def _info(self):
        return records.dataset_info(
            self,
            CLASS_NAMES,
            'Training images of ISIC 2018 task 3 (HAM10000), 7 classes of skin lesions.',
            'https://challenge.isic-archive.com/data/#2018',
        )

    def _split_generators(self, dl_manager):
        return {records.SPLIT: self._generate_examples(dl_manager.manual_dir)}

    def _generate_examples(self, source):
        yield from records.generate(self, read_source(source))


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Reads a CSV file that has (at least) these columns, a row an image, no image twice."""
    try:
        with path.open(newline='', encoding='utf-8-sig') as file:
            reader = csv.DictReader(file)
            header, rows = reader.fieldnames or (), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f'{path} cannot be read as a CSV file: {error}') from error
    for column in columns:
        if column not in header:
            raise InputError(
                f'{path} has no column {column!r}; it needs the columns {", ".join(columns)}'
            )
    if not rows:
        raise InputError(f'{path} has no rows; it needs one an image')
    for row in rows:
        if any(not row[column] for column in columns):
            raise InputError(f'{path} has an empty field in the row of image {row["image"]!r}')
    for image_id, count in collections.Counter(row['image'] for row in rows).items():
        if count > 1:
            raise InputError(f'{path} lists image {image_id} {count} times; allowed: once')
    return rows


def _label(row: dict[str, str], path: Path) -> int:
    values = [row[name] for name in CLASS_NAMES]
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if sorted(numbers) != [0.0] * (len(CLASS_NAMES) - 1) + [1.0]:
        raise InputError(
            f'{path} has {",".join(values)} for image {row["image"]}; allowed: 1.0 for one of '
            f'{", ".join(CLASS_NAMES)} and 0.0 for the others'
        )
    return numbers.index(1.0)


def _same_images(first: dict, first_path: Path, second: dict, second_path: Path) -> None:
    for these, path, others, other_path in (
        (first, first_path, second, second_path),
        (second, second_path, first, first_path),
    ):
        missing = sorted(these.keys() - others.keys())
        if missing:
            raise InputError(
                f'{other_path} lacks {len(missing)} of the {len(these)} images of {path}, the '
                f'first is {missing[0]}'
            )
