"""xray9: NIH ChestX-ray14, the frontal chest X-rays that have exactly one of its 14 findings.

Reads the folder that the official download unpacks to (https://nihcc.app.box.com/v/ChestXray-NIHCC):

    Data_Entry_2017.csv or Data_Entry_2017_v2020.csv
    images_001/images/XXXXXXXX_XXX.png ... images_012/images/ (or all of them in images/)

The config decides which classes are used, and how many images of each.
"""

from pathlib import Path

from metriclt_jax.data.sources import common
from metriclt_jax.errors import InputError

CLASS_NAMES = (
    'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia',
    'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening',
    'Hernia',
)  # fmt: skip
"""In the order of the paper that describes the data set."""

NO_FINDING = 'No Finding'
TABLES = ('Data_Entry_2017.csv', 'Data_Entry_2017_v2020.csv')
IMAGES, SUFFIX = 'images', '.png'


def read_source(source: str | None) -> common.Source:
    """Returns the images of the folder `source` that have one finding, grouped by patient.

    Images with several findings or none are left out, and may be missing.
    """
    folder = common.open_folder(source, 'xray9', f'{TABLES[0]} and images_001/images/ to 012')
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        raise InputError(
            f'{folder} has {len(tables)} of the tables {" and ".join(TABLES)}; it must have one'
        )
    (table,) = tables
    rows = {}  # from the name without .png to label and patient
    for row in common.read_csv(table, ('Image Index', 'Finding Labels', 'Patient ID')):
        findings = _findings(row, table)
        if len(findings) == 1 and findings != {NO_FINDING}:
            name = Path(row['Image Index']).stem
            if row['Image Index'] != name + SUFFIX:
                raise InputError(f'{table} has {row["Image Index"]}; it must be a {SUFFIX} file')
            rows[name] = CLASS_NAMES.index(findings.pop()), row['Patient ID']
    files = _files(folder)
    common.require_all(rows, table, files, folder)
    examples = (common.Example(name, *row, files[name]) for name, row in rows.items())
    return common.from_examples(CLASS_NAMES, examples)


def _findings(row: dict[str, str], table: Path) -> set[str]:
    findings = set(row['Finding Labels'].split('|'))
    for finding in sorted(findings.difference(CLASS_NAMES, [NO_FINDING])):
        raise InputError(
            f'{table} has the finding {finding!r} for image {row["Image Index"]}; use '
            f'{NO_FINDING}, or some of {", ".join(CLASS_NAMES)} separated by |'
        )
    return findings


def _files(folder: Path) -> dict[str, Path]:
    folders = [path / IMAGES for path in sorted(folder.glob('images_*'))] + [folder / IMAGES]
    files: dict[str, Path] = {}
    for images in filter(Path.is_dir, folders):
        found = common.find_images(images, SUFFIX, folder)
        for name in sorted(files.keys() & found.keys()):
            raise InputError(f'{files[name]} exists again as {found[name]}; remove one of them')
        files |= found
    return files
