"""Tables of images as text files, in the dialects of spreadsheets and programs."""

import csv
import dataclasses
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from metriclt_jax.errors import InputError, explained

_OTHER_FORMATS = {
    b'PK': 'a spreadsheet or a zip archive',
    b'\xd0\xcf\x11\xe0': 'an Excel file',
    b'\x1f\x8b': 'a compressed file',
    b'PAR1': 'a Parquet file',
    b'{': 'a JSON file',
    b'<': 'a web page or XML file',
}
_AS_TEXT = 'save it as "CSV UTF-8"'


@dataclasses.dataclass(frozen=True)
class Table:
    """The fields of a table, without blanks around them."""

    path: Path
    header: tuple[str, ...]  # [K]
    rows: list[list[str]] = dataclasses.field(repr=False)  # [N][K]

    def column(self, name: str) -> list[str]:
        """Returns the fields `[N]` of the column with a name, which must occur once."""
        count = self.header.count(name)
        if count != 1:
            raise InputError(
                f'{self.path} has {count or "no"} columns {name!r}; it needs one, and has '
                f'{self.shown()}'
            )
        index = self.header.index(name)
        return [row[index] for row in self.rows]

    def shown(self) -> str:
        """The header, for a message."""
        return ', '.join(filter(None, self.header)) or 'no columns'


def read_table(path: Path) -> Table:
    """Reads fields separated by commas, semicolons, tabs or bars, with a header.

    The text is UTF-8, or UTF-16 with a byte order mark. (pandas would rename repeated columns and
    shift rows with too many fields, which are errors here.)
    """
    with explained(f'{path} cannot be read as a CSV file'):
        text = _text(path, path.read_bytes())
        lines = io.StringIO(text, newline='')
        first = lines.readline()
        if first.lower().startswith('sep='):  # for Excel
            separator = first[4]
        else:
            separator = max(',;\t|', key=lambda s: len(next(csv.reader([first], delimiter=s), ())))
            lines.seek(0)
        reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
        rows = [([field.strip() for field in row], reader.line_num) for row in reader]
    rows = [row for row in rows if any(row[0])]
    if len(rows) < 2:
        raise InputError(f'{path} has no rows; it needs a header and one row per image')
    (header, _), *rows = rows
    header = [' '.join(name.split()) for name in header]  # it may have line breaks
    while not header[-1]:
        header.pop()
    for row, number in rows:
        if any(row[len(header) :]):
            raise InputError(
                f'{path} has more fields than columns in line {number} ({row[0]!r}); put "" around '
                f'a field that contains {separator!r}'
            )
        row[len(header) :] = []
        row.extend([''] * (len(header) - len(row)))
    return Table(path, tuple(header), [row for row, _ in rows])


def by_image(table: Table, columns: Sequence[str]) -> dict[str, list[str]]:
    """Returns fields by image, which the first of `columns` names; refuses empty ones."""
    path = table.path
    rows = list(zip(*(table.column(name) for name in columns), strict=True))
    for row in rows:
        if not all(row):
            raise InputError(f'{path} has an empty field in the row of image {row[0]!r}')
    ((image_id, count),) = Counter(row[0] for row in rows).most_common(1)
    if count > 1:
        raise InputError(f'{path} lists image {image_id} {count} times; list it once')
    return {image: fields for image, *fields in rows}


def _text(path: Path, content: bytes) -> str:
    for start, what in _OTHER_FORMATS.items():
        if content.startswith(start):
            raise InputError(f'{path} is {what}; {_AS_TEXT}')
    encoding = 'UTF-16' if content[:2] in (b'\xff\xfe', b'\xfe\xff') else 'UTF-8'
    try:
        text = content.decode(encoding).removeprefix('\ufeff')
    except UnicodeDecodeError as error:
        line = content.count(b'\n', 0, error.start) + 1
        raise InputError(f'{path} is not {encoding} text in line {line}; {_AS_TEXT}') from None
    if '\0' in text:
        raise InputError(f'{path} has a NUL character, so it is not a text file; {_AS_TEXT}')
    return text
