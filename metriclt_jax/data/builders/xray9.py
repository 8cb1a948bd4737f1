"""xray9: NIH ChestX-ray14, the frontal chest X-rays that have exactly one of its 14 findings.

Reads the folder that the official download unpacks to (https://nihcc.app.box.com/v/ChestXray-NIHCC):

    Data_Entry_2017.csv or Data_Entry_2017_v2020.csv
    images_001/images/XXXXXXXX_XXX.png ... images_012/images/ (or all of them in images/)

Which classes are used, and how many images of each, is decided by the config.
"""

from pathlib import Path

from metriclt_jax.data.builders.source import Source, find_images, from_examples, open_folder
from metriclt_jax.data.records import Example
from metriclt_jax.data.tables import read_csv, require_all
from metriclt_jax.errors import InputError

CLASS_NAMES = (
    'Atelectasis', 'Cardiomegaly', 'Effusion', 'Infiltration', 'Mass', 'Nodule', 'Pneumonia',
    'Pneumothorax', 'Consolidation', 'Edema', 'Emphysema', 'Fibrosis', 'Pleural_Thickening',
    'Hernia',
)  # fmt: skip
"""In the order of the paper that describes the data set."""

SINGLE_FINDINGS = [[name] for name in CLASS_NAMES]

NO_FINDING = 'No Finding'
TABLES = ('Data_Entry_2017.csv', 'Data_Entry_2017_v2020.csv')
IMAGES, SUFFIX = 'images', '.png'


def read_source(source: str | None) -> Source:
    """Returns the images of the folder `source` that have one finding, grouped by patient.

    Images with several findings or none are left out, and need not be there.

    Raises:
        InputError: the folder is not complete, or its table is not as expected.
    """
    folder = open_folder(source, 'xray9', f'{TABLES[0]} and images_001/images to images_012/images')
    table = _table(folder)
    rows: dict[str, tuple[int, str]] = {}  # from the name without .png to label and patient
    for row in read_csv(table, ('Image Index', 'Finding Labels', 'Patient ID')):
        findings = _findings(row, table)
        if findings in SINGLE_FINDINGS:
            rows[_name(row, table)] = CLASS_NAMES.index(findings[0]), row['Patient ID']
    files = _files(folder)
    require_all(rows, table, files, folder)
    return from_examples(
        CLASS_NAMES,
        (Example(name, label, patient, files[name]) for name, (label, patient) in rows.items()),
    )


def _table(folder: Path) -> Path:
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) != 1:
        raise InputError(
            f'{folder} has {len(tables)} of the tables {" and ".join(TABLES)}; allowed: one'
        )
    return tables[0]


def _name(row: dict[str, str], table: Path) -> str:
    name = Path(row['Image Index']).stem
    if row['Image Index'] != name + SUFFIX:
        raise InputError(
            f'{table} has the image {row["Image Index"]}; allowed: names of files that end with '
            f'{SUFFIX}'
        )
    return name


def _findings(row: dict[str, str], table: Path) -> list[str]:
    """Returns the findings of an image, each once, sorted; 'No Finding' is one of them."""
    findings = sorted(set(row['Finding Labels'].split('|')))
    for finding in findings:
        if finding not in (*CLASS_NAMES, NO_FINDING):
            raise InputError(
                f'{table} has the finding {finding!r} for image {row["Image Index"]}; allowed: '
                f'{NO_FINDING}, or some of {", ".join(CLASS_NAMES)} with a bar between'
            )
    return findings


def _files(folder: Path) -> dict[str, Path]:
    folders = [path / IMAGES for path in sorted(folder.glob('images_*'))] + [folder / IMAGES]
    folders = [path for path in folders if path.is_dir()]
    if not folders:
        raise InputError(
            f'{folder} has no images; allowed: folders images_001/images to images_012/images, or '
            'one folder images'
        )
    files: dict[str, Path] = {}
    for images in folders:
        found = find_images(images, SUFFIX, folder)
        for name in sorted(files.keys() & found.keys()):
            raise InputError(f'{files[name]} is there again as {found[name]}; allowed: once')
        files |= found
    return files
