"""`prepare_data.py --dataset=NAME --source=DIR [--data_dir=DIR]`: checks files, writes records.

With --folds=K [--split=MODE], also prints what each fold of a cross-validation tests.

For your own images: --dataset=folder --name=NAME --source=DIR [--labels=FILE.csv]; the config then
has data.name=NAME.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from absl import flags
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.cli import main as cli
from metriclt_jax.data import records, storage
from metriclt_jax.data.dataset import divide
from metriclt_jax.data.defaults import data_config
from metriclt_jax.data.preparation import is_prepared, prepare
from metriclt_jax.data.sources import READERS
from metriclt_jax.errors import InputError
from metriclt_jax.files import write_atomically
from metriclt_jax.reports.dataset import describe, folds_table

_DATASET = flags.DEFINE_enum('dataset', None, list(READERS), 'data set to prepare')
_SOURCE = flags.DEFINE_string('source', None, 'folder or .npz file of the originals')
_DATA_DIR = flags.DEFINE_string('data_dir', '~/metriclt_data', 'for prepared data; may be gs://...')
_NAME = flags.DEFINE_string('name', None, 'data.name of the prepared data set; default: --dataset')
_LABELS = flags.DEFINE_string('labels', None, 'for folder: CSV file (path, label, group, split)')
_CLASSES = flags.DEFINE_list('classes', None, 'for folder: all class names in order')
_COLUMNS = [
    flags.DEFINE_string('path_column', None, 'for folder: column of --labels with the images'),
    flags.DEFINE_string('label_column', None, 'for folder: its column with the labels'),
    flags.DEFINE_string('group_column', None, 'for folder: ... with lesions or patients, or none'),
    flags.DEFINE_string('split_column', None, 'for folder: ... with the parts, or none'),
]
_ALLOW_UNKNOWN_CHECKSUM = flags.DEFINE_bool(
    'allow_unknown_checksum', None, 'for the MedMNIST family: accept a file that was not published'
)
_SKIP_BAD_FILES = flags.DEFINE_bool('skip_bad_files', False, 'leave out and list unusable files')
_FOLDS = flags.DEFINE_integer('folds', 0, 'folds of a cross-validation to show', lower_bound=0)
_SPLIT = flags.DEFINE_enum(
    'split', None, ['auto', 'paper', 'grouped'], 'data.split of --folds; default: as in the config'
)
flags.mark_flag_as_required('dataset')


@cli.command
def main() -> None:
    """Prepares the data set of the flags; prints where it is and what it holds."""
    dataset, data_dir = _DATASET.value, _DATA_DIR.value
    name = _NAME.value or dataset
    if dataset == 'folder' and not _NAME.value:
        raise InputError('--dataset=folder needs a name for your data set: --name=NAME')
    flags_of_reader = _LABELS, _CLASSES, *_COLUMNS, _ALLOW_UNKNOWN_CHECKSUM
    options = {flag.name: flag.value for flag in flags_of_reader if flag.value is not None}
    options['skip_bad_files'] = _SKIP_BAD_FILES.value
    already = is_prepared(name, data_dir)
    path = prepare(dataset, _SOURCE.value, data_dir, name, print, **options)
    if already:
        print(f'{name} was already prepared in {path}; delete that folder to prepare it again')
    else:
        print(f'{name} is prepared in {path}')
    config = data_config(dataset)
    config.name, config.data_dir = name, data_dir
    if _SPLIT.value and not _FOLDS.value:
        raise InputError('--split goes with --folds; the config has data.split for training')
    try:
        _show(config)
    except InputError as error:
        print(f'The default config cannot divide it: {error}')
    except OSError as error:
        print(f'Its table and picture cannot be saved, so the next call makes them again: {error}')
    if _FOLDS.value:
        config.folds, config.split = _FOLDS.value, _SPLIT.value or config.split
        Console().print(folds_table(config))


def _show(config: ConfigDict) -> None:
    """Prints table 1 of the data set and where its picture is; both are made once."""
    folder = Path(records.folder(config.name, storage.local_folder(config.data_dir)))
    picture, text = folder / 'classes.png', folder / 'classes.txt'
    if text.exists():
        print(text.read_text(encoding='utf-8'), end='')
    else:
        source = records.open_records(config.name, config.data_dir)
        columns = records.read_columns(source)
        console = Console(record=True)
        try:
            describe(config, console, picture, columns)
        except InputError as error:
            works = _other_splits(config, source.class_names, columns)
            raise InputError(f'{error} ({works})') from error
        write_atomically(text, console.export_text())
    print(f'its classes and some of their images: {picture}')


def _other_splits(config: ConfigDict, class_names: Sequence[str], columns: records.Columns) -> str:
    """Says which splits but that of `config` can divide the data set."""
    works = []
    for split in ('official', 'grouped', 'paper'):
        other = ConfigDict(config)
        other.split = split
        with contextlib.suppress(InputError):
            names, labels, parts = divide(other, class_names, *columns[:3])
            configured_groups(other, np.bincount(labels[parts['train']], minlength=len(names)))
            works.append(f'data.split={split}')
    return f'{" and ".join(works)} can divide it' if works else 'no other data.split can, either'
