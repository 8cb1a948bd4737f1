"""Prepared data sets on disk: one record an image, written and read through TFDS and array_record.

A record holds the undecoded image file, its label, its id and the group (lesion, patient) that it
belongs to, '' where there is none. Records lie in the order of the image ids. All images are in
one TFDS split; what is trained on and what is tested on is decided later, by index arrays.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import io
import json
import os
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from metriclt_jax.data.locking import exclusive
from metriclt_jax.data.progress import progress
from metriclt_jax.errors import InputError

SPLIT = 'images'
"""The one TFDS split, whose name does not suggest a part."""

_BUILDERS = {
    'digits_lt': 'metriclt_jax.data.builders.digits_lt.digits_lt_dataset_builder',
    'skin7': 'metriclt_jax.data.builders.skin7.skin7_dataset_builder',
}


class Example(NamedTuple):
    """One image, in a record or on its way there."""

    image_id: str
    label: int
    group: str
    image: bytes | Path
    """The encoded image, or (never when read from a record) the file that holds it."""


@dataclasses.dataclass(frozen=True)
class Records:
    """A prepared data set, open for reading.

    Attributes:
        name: of the data set.
        path: its folder.
        class_names: `[C]`.
        fingerprint: SHA-256 over all that was written.
        source: TFDS data source with random access.
    """

    name: str
    path: Path
    class_names: tuple[str, ...]
    fingerprint: str
    source: Any = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> list[Example]:
        """Reads records, with their images undecoded; InputError if they are damaged."""
        with _damage_explained(self.path):
            return [
                Example(
                    image_id=record['image_id'].decode(),
                    label=int(record['label']),
                    group=record['group'].decode(),
                    image=record['image'],
                )
                for record in self.source.__getitems__([int(index) for index in indices])
            ]


def names() -> tuple[str, ...]:
    """Returns the names of the data sets."""
    return tuple(_BUILDERS)


def is_prepared(name: str, data_dir: str) -> bool:
    """Whether the records of a data set are there; raises `InputError` for an unknown name."""
    return _is_prepared(_path(_builder_module(name), name, data_dir))


def prepare(name: str, source: str | None, data_dir: str) -> Path:
    """Writes the records of a data set, unless they are there already; returns their folder.

    The source is checked completely before anything is written. The records appear in one step
    when they are complete, and of two processes the second waits for the first.

    Args:
        name: 'digits_lt' or 'skin7'.
        source: the folder with the original files; not used by digits_lt.
        data_dir: where prepared data sets lie.

    Raises:
        InputError: unknown name, a source that is not as expected, or a folder that cannot be
            written to.
    """
    module = _builder_module(name)
    path = _path(module, name, data_dir)
    if _is_prepared(path):
        return path
    module.check_source(source)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.parent / '.lock'):
            if not _is_prepared(path):
                _write(module, source, path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of array_record
        raise InputError(f'{name} cannot be prepared in {data_dir}: {error}') from error
    return path


def open_records(name: str, data_dir: str) -> Records:
    """Opens the prepared records of a data set.

    Raises:
        InputError: the data set is unknown or not prepared (the message has the command that
            prepares it), or its files are damaged.
    """
    import tensorflow_datasets as tfds

    module = _builder_module(name)
    path = _path(module, name, data_dir)
    if not _is_prepared(path):
        source = ' --source=DIR' if module.Builder.MANUAL_DOWNLOAD_INSTRUCTIONS else ''
        root = shlex.quote(str(Path(data_dir).expanduser()))
        raise InputError(
            f'data set {name} is not prepared in data.data_dir {data_dir}; name the folder where '
            'it is, or prepare it with: '
            f'metriclt-prepare-data --dataset={name}{source} --data_dir={root}'
        )
    with _damage_explained(path), _quiet_tfds():
        builder = module.Builder(data_dir=Path(data_dir).expanduser())
        skip = {'image': tfds.decode.SkipDecoding()}
        return Records(
            name=name,
            path=path,
            class_names=tuple(builder.info.features['label'].names),
            fingerprint=builder.info.metadata['fingerprint'],
            source=builder.as_data_source(split=SPLIT, decoders=skip),
        )


def dataset_info(builder, class_names: Sequence[str], description: str, homepage: str):
    """Returns the `tfds.core.DatasetInfo` of a builder; the features are those of all data sets."""
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
    """Yields what a builder writes and leaves the fingerprint of it in the builder's metadata."""
    digest = hashlib.sha256()
    ordered = sorted(examples, key=lambda example: example.image_id)
    for index, example in enumerate(progress(ordered, f'Writing {builder.name}', len(ordered))):
        image = example.image if isinstance(example.image, bytes) else example.image.read_bytes()
        fields = {'label': example.label, 'image_id': example.image_id, 'group': example.group}
        digest.update(json.dumps([fields, len(image)]).encode())
        digest.update(image)
        yield index, {'image': io.BytesIO(image), **fields}
    builder.info.metadata['fingerprint'] = digest.hexdigest()


def _builder_module(name: str) -> ModuleType:
    """Imports the module that checks and reads the source of a data set and has its builder."""
    if name not in _BUILDERS:
        raise InputError(f'the data set is {name!r}; allowed: {", ".join(_BUILDERS)}')
    return importlib.import_module(_BUILDERS[name])


def _path(module: ModuleType, name: str, data_dir: str) -> Path:
    return Path(data_dir).expanduser() / name / str(module.Builder.VERSION)


def _is_prepared(path: Path) -> bool:
    return (path / 'dataset_info.json').exists()


def _write(module: ModuleType, source: str | None, path: Path) -> None:
    """Lets TFDS write into a folder aside and moves the result to its place when complete."""
    import tensorflow_datasets as tfds

    if path.exists():
        raise InputError(f'{path} is in the way: it is not a prepared data set; remove it first')
    aside = path.parent / '.incomplete'
    shutil.rmtree(aside, ignore_errors=True)  # of a process that was killed: we hold the lock
    try:
        builder = module.Builder(data_dir=aside)
        config = tfds.download.DownloadConfig(manual_dir=source)
        with _quiet_tfds():
            builder.download_and_prepare(file_format='array_record', download_config=config)
        os.rename(builder.data_path, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[None]:
    """Holds back what TFDS prints and logs about folders aside, and its bars beside ours."""
    from absl import logging
    from tensorflow_datasets.core.utils import tqdm_utils

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    tqdm_utils.display_progress_bar(False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tqdm_utils.display_progress_bar(True)
        logging.set_verbosity(verbosity)


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    from google.protobuf.json_format import ParseError

    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, IndexError, ParseError) as error:
        raise InputError(
            f'the records in {path} are incomplete or damaged ({error}); remove that folder and '
            'prepare the data set again'
        ) from error
