"""Prepared data sets on disk: one record an image, written and read through TFDS and array_record.

A record holds the undecoded image file, its label, its id and the group (lesion, patient) that it
belongs to, '' where there is none. Records lie in the order of the image ids. All images are in
one TFDS split; what is trained on and what is tested on is decided later, by index arrays.
"""

import contextlib
import hashlib
import importlib
import io
import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from metriclt_jax.data.locking import exclusive
from metriclt_jax.data.progress import progress
from metriclt_jax.errors import InputError

SPLIT = 'images'
"""The one TFDS split; its name must not suggest a part."""

_BUILDERS = {
    'digits_lt': 'metriclt_jax.data.builders.digits_lt.digits_lt_dataset_builder',
    'skin7': 'metriclt_jax.data.builders.skin7.skin7_dataset_builder',
}
_log = logging.getLogger(__name__)


class Example(NamedTuple):
    """One image on its way into a record."""

    image_id: str
    label: int
    group: str
    image: bytes | Path
    """The encoded image, or the file that holds it."""


class Records(NamedTuple):
    """A prepared data set, opened for reading."""

    name: str
    path: Path
    class_names: tuple[str, ...]
    fingerprint: str
    """SHA-256 over everything that was written."""
    source: Any
    """The TFDS data source; read it with `read`."""

    def __len__(self) -> int:
        return len(self.source)


def names() -> tuple[str, ...]:
    """Returns the names of the data sets."""
    return tuple(_BUILDERS)


def builder_module(name: str) -> ModuleType:
    """Imports the module that reads the source of a data set and has its TFDS builder."""
    if name not in _BUILDERS:
        raise InputError(f'data.name must be one of {", ".join(_BUILDERS)}, not {name!r}.')
    return importlib.import_module(_BUILDERS[name])


def dataset_info(builder, class_names: Sequence[str], description: str, homepage: str):
    """Returns the `tfds.core.DatasetInfo` that is the same for all data sets but for the names."""
    import tensorflow_datasets as tfds

    return tfds.core.DatasetInfo(
        builder=builder,
        description=description,
        homepage=homepage,
        features=tfds.features.FeaturesDict(
            {
                'image': tfds.features.Image(shape=(None, None, None)),
                'label': tfds.features.ClassLabel(names=list(class_names)),
                'image_id': tfds.features.Text(),
                'group': tfds.features.Text(),
            }
        ),
        disable_shuffling=True,
        metadata=tfds.core.MetadataDict(),
    )


def generate(builder, examples: Sequence[Example]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields what TFDS writes and leaves the fingerprint of it in the builder's metadata."""
    digest = hashlib.sha256()
    ordered = sorted(examples, key=lambda example: example.image_id)
    for index, example in enumerate(progress(ordered, f'Writing {builder.name}', len(ordered))):
        image = example.image if isinstance(example.image, bytes) else example.image.read_bytes()
        fields = {'label': example.label, 'image_id': example.image_id, 'group': example.group}
        digest.update(json.dumps([fields, len(image)]).encode())
        digest.update(image)
        yield index, {'image': io.BytesIO(image), **fields}
    builder.info.metadata['fingerprint'] = digest.hexdigest()


def prepare(name: str, source: str | None, data_dir: str) -> Path:
    """Writes the records of a data set, unless they are there already; returns their folder.

    The source is checked completely before anything is written, the records appear under their
    name in one step when they are complete, and of two processes the second waits for the first.

    Raises:
        InputError: unknown name, a source that is not as expected, or a folder that cannot be
            written to.
    """
    module = builder_module(name)
    path = _path(module, name, data_dir)
    if _is_prepared(path):
        return path
    module.check_source(source)
    with _written_to(data_dir):
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent / '.lock'):
            if not _is_prepared(path):
                _write(module, source, path)
    return path


def open_records(name: str, data_dir: str) -> Records:
    """Opens the prepared records of a data set.

    Raises:
        InputError: the data set is unknown or not prepared (the message has the command that
            prepares it), or its files are damaged.
    """
    import tensorflow_datasets as tfds

    module = builder_module(name)
    path = _path(module, name, data_dir)
    if not _is_prepared(path):
        raise InputError(
            f'Data set {name} is not prepared in data.data_dir={data_dir}; prepare it with: '
            f'metriclt-prepare-data --dataset={name} --source=FOLDER --data_dir={data_dir}'
        )
    with _damage_explained(path):
        builder = module.Builder(data_dir=Path(data_dir).expanduser())
        skip = {'image': tfds.decode.SkipDecoding()}
        return Records(
            name=name,
            path=path,
            class_names=tuple(builder.info.features['label'].names),
            fingerprint=builder.info.metadata['fingerprint'],
            source=builder.as_data_source(split=SPLIT, decoders=skip),
        )


def read(records: Records, indices: Sequence[int]) -> list[Example]:
    """Reads records; images come back undecoded."""
    with _damage_explained(records.path):
        return [
            Example(
                image_id=record['image_id'].decode(),
                label=int(record['label']),
                group=record['group'].decode(),
                image=record['image'],
            )
            for record in records.source.__getitems__([int(index) for index in indices])
        ]


def _path(module: ModuleType, name: str, data_dir: str) -> Path:
    return Path(data_dir).expanduser() / name / str(module.Builder.VERSION)


def _is_prepared(path: Path) -> bool:
    return (path / 'dataset_info.json').exists()


def _write(module: ModuleType, source: str | None, path: Path) -> None:
    """Lets TFDS write into a folder aside, and moves the result to its place when complete."""
    import tensorflow_datasets as tfds

    if path.exists():
        raise InputError(f'{path} is in the way: it is not a prepared data set; please remove it.')
    aside = path.parent / '.incomplete'
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed: we hold the lock
    try:
        builder = module.Builder(data_dir=aside)
        config = tfds.download.DownloadConfig(manual_dir=source)
        with _quiet_tfds(tfds):
            builder.download_and_prepare(file_format='array_record', download_config=config)
        os.rename(builder.data_path, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    _log.info('Prepared %s in %s.', path.parent.name, path)


@contextlib.contextmanager
def _quiet_tfds(tfds) -> Iterator[None]:
    """TFDS prints where it writes and shows four bars; ours is the one that says something."""
    from tensorflow_datasets.core.utils import tqdm_utils
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(True)


@contextlib.contextmanager
def _written_to(folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f'Cannot write to {folder}: {error.strerror or error}.') from error


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, IndexError) as error:
        raise InputError(
            f'The records in {path} are incomplete or damaged ({error}); remove that folder and '
            'prepare the data set again.'
        ) from error
