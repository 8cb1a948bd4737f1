"""`prepare_data.py --dataset=NAME --source=DIR [--data_dir=DIR]`: checks files, writes records.

For images of your own: --dataset=folder --name=NAME --source=DIR [--labels=FILE.csv]; the config
then has data.name=NAME.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.cli import main as cli
from metriclt_jax.data import preparation, records, remote
from metriclt_jax.data.dataset import divide
from metriclt_jax.data.defaults import data_config
from metriclt_jax.errors import InputError
from metriclt_jax.reports.dataset import describe

_DATASET = flags.DEFINE_enum('dataset', None, list(preparation.READERS), 'data set to prepare')
_SOURCE = flags.DEFINE_string(
    'source', None, 'folder with the original files, or the .npz file; not for digits_lt'
)
_DATA_DIR = flags.DEFINE_string(
    'data_dir', '~/metriclt_data', 'where prepared data sets lie, also gs://...'
)
_NAME = flags.DEFINE_string('name', None, 'data.name of the prepared data set; like --dataset')
_LABELS = flags.DEFINE_string(
    'labels', None, 'of folder: CSV file with the columns path, label and maybe group and split'
)
_CLASSES = flags.DEFINE_list(
    'classes', None, 'of folder: all class names, in this order; those that occur, sorted'
)
_ALLOW_UNKNOWN_CHECKSUM = flags.DEFINE_bool(
    'allow_unknown_checksum', None, 'of the MedMNIST family: take a file that is not as published'
)
flags.mark_flag_as_required('dataset')


def prepare_data() -> None:
    """Prepares what the flags say; prints where it is."""
    dataset, data_dir = _DATASET.value, _DATA_DIR.value
    name = _NAME.value or dataset
    if dataset == 'folder' and not _NAME.value:
        raise InputError('--dataset=folder needs a name for your data set: --name=NAME')
    options = {
        flag.name: flag.value
        for flag in (_LABELS, _CLASSES, _ALLOW_UNKNOWN_CHECKSUM)
        if flag.value is not None
    }
    already = preparation.is_prepared(name, data_dir)
    path = preparation.prepare(dataset, _SOURCE.value, data_dir, name, print, **options)
    if already:
        print(f'{name} was already prepared in {path}; delete that folder to prepare it again')
    else:
        print(f'{name} is prepared in {path}')
    config = data_config(dataset)
    config.name, config.data_dir = name, data_dir
    try:
        _describe(config, dataset)
    except InputError as error:
        print(f'It cannot be shown as the config divides it by default: {error}')
    except OSError as error:
        print(f'Its table and picture cannot be kept, so the next call makes them again: {error}')


def _describe(config: ConfigDict, dataset: str) -> None:
    """Prints table 1 of the data set and says where its picture is; both are made once.

    Images of one's own whose source names parts are shown in these.
    """
    folder = Path(records.folder(config.name, remote.local_folder(config.data_dir)))
    picture, text = folder / 'classes.png', folder / 'classes.txt'
    if text.exists():
        print(text.read_text(encoding='utf-8'), end='')
    else:
        from metriclt_jax.files import write_atomically  # which imports JAX

        source = records.open_records(config.name, config.data_dir)
        columns = records.read_columns(source)
        console = Console(record=True)
        if dataset == 'folder' and np.any(columns[2] != ''):
            fields = _official(columns[2])
            config.update(fields)
            shown = ', '.join(f'data.{field}={value}' for field, value in fields.items())
            console.print(f'By the parts of the source ({shown}):')
        try:
            describe(config, console, picture, columns)
        except InputError as error:
            works = _other_splits(config, source.class_names, columns)
            raise InputError(f'{error} ({works})') from error
        write_atomically(text, console.export_text())
    print(f'its classes and some of their images: {picture}')


def _official(parts: np.ndarray) -> dict[str, Any]:
    """The fields that take the parts of the source; a validation part only where there is one."""
    return {'split': 'official'} | ({} if 'validation' in parts else {'validation_parts': ()})


def _other_splits(
    config: ConfigDict, class_names: Sequence[str], columns: Sequence[np.ndarray]
) -> str:
    """Says which splits but for the one of `config` work."""
    working = []
    for fields in ({'split': 'paper'}, _official(columns[2]), {'split': 'grouped'}):
        other = ConfigDict(config).unlock()
        other.update(fields)
        try:
            _, labels, parts = divide(other, class_names, *columns)
            counts = np.bincount(labels[parts['train']], minlength=len(class_names))
            configured_groups(other, counts)
        except InputError:
            continue
        if other.split != config.split:
            working.append(f'data.split={other.split}')
    return f'{" and ".join(working) or "no other data.split"} would work'


def main() -> None:
    """Entry point."""
    cli.run(prepare_data)


if __name__ == '__main__':
    main()
