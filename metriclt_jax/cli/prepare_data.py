"""Prepares a data set: checks its files and writes them as records.

    metriclt-prepare-data --dataset=skin7 --source=FOLDER --data_dir=~/metriclt_data
"""

import sys

from absl import app, flags

from metriclt_jax.data import prepare
from metriclt_jax.errors import InputError

_DATASET = flags.DEFINE_string('dataset', None, 'digits_lt or skin7.', required=True)
_SOURCE = flags.DEFINE_string('source', None, 'Folder that the official archives unpack to.')
_DATA_DIR = flags.DEFINE_string('data_dir', '~/metriclt_data', 'Where prepared data sets lie.')


def _main(argv) -> None:
    del argv
    try:
        path = prepare(_DATASET.value, _SOURCE.value, _DATA_DIR.value)
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)
    print(f'{_DATASET.value} is prepared in {path}')


def main() -> None:
    """Runs the command."""
    app.run(_main)
