"""xray9: NIH ChestX-ray14, the frontal chest X-rays that have exactly one of its 14 findings.

Reads the folder that the official download unpacks to (https://nihcc.app.box.com/v/ChestXray-NIHCC):

    Data_Entry_2017.csv or Data_Entry_2017_v2020.csv
    images_001/images/XXXXXXXX_XXX.png ... images_012/images/ (or other folders)
    train_val_list.txt and test_list.txt     (optional: the official parts)

The config decides which classes are used, and how many images of each.
"""

from collections.abc import Collection
from pathlib import Path

from metriclt_jax.data.sources import common
from metriclt_jax.data.sources.tables import by_image, read_table
from metriclt_jax.errors import InputError, explained

CLASS_NAMES = (
    'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia',
    'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening',
    'Hernia',
)  # fmt: skip
"""In the order of the paper that describes the data set."""

NO_FINDING = 'No Finding'
TABLES = ('Data_Entry_2017.csv', 'Data_Entry_2017_v2020.csv')
LISTS = {'train': 'train_val_list.txt', 'test': 'test_list.txt'}
SUFFIX = '.png'


def read_source(source: str | None) -> common.Source:
    """Returns the images of the folder `source` that have one finding, grouped by patient.

    Images with several findings or none are left out, and may be missing.
    """
    folder = common.open_folder(source, 'xray9', f'{TABLES[0]} and images_001/images/ to 012')
    folder = common.unwrapped(folder, *TABLES)
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        names = ' and '.join(TABLES)
        raise InputError(f'{folder} has {len(tables)} of the tables {names}; it must have one')
    (table,) = tables
    rows = {}  # from the name without .png to label and patient
    columns = ('Image Index', 'Finding Labels', 'Patient ID')
    for image, (labels, patient) in by_image(read_table(table), columns).items():
        findings = _findings(image, labels, table)
        if len(findings) == 1 and findings != {NO_FINDING}:
            name = Path(image).stem
            if image != name + SUFFIX:
                raise InputError(f'{table} has {image}; it must be a {SUFFIX} file')
            rows[name] = CLASS_NAMES.index(findings.pop()), patient
    files = common.find_images(folder, SUFFIX, folder)
    unusable = common.missing_files(rows, table, files, folder, SUFFIX)
    parts = _parts(rows, folder, table)
    present = rows.keys() & files
    examples = [common.Example(name, *rows[name], files[name], parts[name]) for name in present]
    return common.from_examples(CLASS_NAMES, examples, unusable=unusable)


def _parts(images: Collection[str], folder: Path, table: Path) -> dict[str, str]:
    """Returns the official part of each image; '' if the folder has no lists of them."""
    lists = {part: folder / name for part, name in LISTS.items() if (folder / name).is_file()}
    if not lists:
        return dict.fromkeys(images, '')
    if len(lists) < len(LISTS):
        raise InputError(f'{folder} has one of the lists {" and ".join(LISTS.values())}; add both')
    part_of: dict[str, str] = {}
    for part, path in lists.items():
        with explained(f'{path} cannot be read as a list of images'):
            listed = {Path(line.strip()).stem for line in path.read_text('utf-8-sig').splitlines()}
        for name in sorted(listed & part_of.keys() & set(images)):
            raise InputError(f'image {name} is in both lists, {" and ".join(LISTS.values())}')
        part_of |= dict.fromkeys(listed, part)
    common.require_all(images, table, part_of, folder / ' and '.join(LISTS.values()))
    return part_of


def _findings(image: str, labels: str, table: Path) -> set[str]:
    findings = set(labels.split('|'))
    for finding in sorted(findings.difference(CLASS_NAMES, [NO_FINDING])):
        raise InputError(
            f'{table} has the finding {finding!r} for image {image}; use {NO_FINDING}, or some of '
            f'{", ".join(CLASS_NAMES)} separated by |'
        )
    return findings
