"""skin7: ISIC 2018 task 3 (HAM10000), 10,015 dermoscopic images of 7 classes.

Reads the folder that the official archives unpack to (https://challenge.isic-archive.com/data/#2018):

    ISIC2018_Task3_Training_Input/ISIC_XXXXXXX.jpg
    ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv
    ISIC2018_Task3_Training_LesionGroupings.csv
"""

from pathlib import Path

from metriclt_jax.data.sources import common
from metriclt_jax.errors import InputError

CLASS_NAMES = ('MEL', 'NV', 'BCC', 'AKIEC', 'BKL', 'DF', 'VASC')
"""In the order of the official ground truth."""

IMAGES = 'ISIC2018_Task3_Training_Input'
LABELS = 'ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv'
LESIONS = 'ISIC2018_Task3_Training_LesionGroupings.csv'


def read_source(source: str | None) -> common.Source:
    """Returns every image of the folder `source`, grouped by lesion."""
    layout = f'{IMAGES}/, {LABELS} and {LESIONS}'
    folder = common.open_folder(source, 'skin7', layout, f'{IMAGES}/', LABELS, LESIONS)
    rows = common.read_csv(folder / LABELS, ('image', *CLASS_NAMES))
    labels = {row['image']: _label(row, folder / LABELS) for row in rows}
    rows = common.read_csv(folder / LESIONS, ('image', 'lesion_id'))
    lesions = {row['image']: row['lesion_id'] for row in rows}
    files = common.find_images(folder / IMAGES, '.jpg', folder)
    for images, where in ((files, folder / IMAGES), (lesions, folder / LESIONS)):
        common.require_all(labels, folder / LABELS, images, where)
        common.require_all(images, where, labels, folder / LABELS)
    examples = (common.Example(name, labels[name], lesions[name], files[name]) for name in labels)
    return common.from_examples(CLASS_NAMES, examples)


def _label(row: dict[str, str], path: Path) -> int:
    values = [row[name] for name in CLASS_NAMES]
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if sorted(numbers) != [0.0] * (len(CLASS_NAMES) - 1) + [1.0]:
        raise InputError(
            f'{path} has {",".join(values)} for image {row["image"]}; one of '
            f'{", ".join(CLASS_NAMES)} must be 1.0 and the others 0.0'
        )
    return numbers.index(1.0)
