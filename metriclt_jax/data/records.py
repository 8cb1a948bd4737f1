"""Prepared data sets on disk: one record an image, in files that TFDS describes and reads.

A record holds the undecoded image file, its label, its id, the group (lesion, patient) that it
belongs to and the part that its source puts it in, '' where there is none. Records lie in the
order of the image ids. All images are in one TFDS split; what is trained on and what is tested on
is decided later, by index arrays.

The array_record files are written here and not by a TFDS builder: that holds 1 GB in memory and
then goes on through TensorFlow, so without TensorFlow it cannot write more. The result is an
ordinary TFDS folder, which `tfds.builder_from_directory` reads without our code.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import math
import os
import shlex
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from metriclt_jax.data import remote
from metriclt_jax.errors import InputError
from metriclt_jax.files import locked
from metriclt_jax.progress import track

SPLIT = 'images'
"""The one TFDS split, whose name does not suggest a part."""

VERSION = '2.0.0'
"""Of what a record holds; records of another version are not read."""

_LAST = 'dataset_info.json'  # is there when everything else is
_FILE_BYTES = 2**29  # of images in one array_record file, about


class Example(NamedTuple):
    """One image, in a record or on its way there."""

    image_id: str
    label: int
    group: str
    image: bytes | Path
    """The encoded image, or (never when read from a record) the file that holds it."""
    part: str = ''
    """'train', 'validation' or 'test' where the data set has official parts, else ''."""


@dataclasses.dataclass(frozen=True)
class Records:
    """A prepared data set, open for reading.

    Attributes:
        name: of the data set.
        path: its folder on this machine.
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
                    part=record['part'].decode(),
                )
                for record in self.source.__getitems__([int(index) for index in indices])
            ]


def folder(name: str, data_dir: os.PathLike | str) -> epath.Path:
    """Returns where the records of a data set lie; it need not exist."""
    return epath.Path(data_dir).expanduser() / name / VERSION


def are_complete(path: os.PathLike | str) -> bool:
    """Whether a folder, which may be remote, holds the records of a data set."""
    return remote.exists(epath.Path(path) / _LAST)


def open_records(name: str, data_dir: os.PathLike | str) -> Records:
    """Opens the prepared records of a data set.

    Those of a remote `data_dir` are first copied to this machine, once.

    Raises:
        InputError: the data set is not prepared (the message has the command that prepares it), or
            its files are damaged or out of reach.
    """
    path = folder(name, data_dir)
    if not are_complete(path):
        from metriclt_jax.data.preparation import READERS  # which imports this module

        dataset = name if name in READERS else f'folder --name={name}'
        root = shlex.quote(str(epath.Path(data_dir).expanduser()))
        raise InputError(
            f'data set {name} is not prepared in data.data_dir {data_dir}; name the folder where '
            'it is, or prepare it with: '
            f'metriclt-prepare-data --dataset={dataset} --source=DIR --data_dir={root}'
        )
    if remote.is_remote(path):
        path = _local_copy(name, path, remote.local_folder(data_dir))
    return _open(name, Path(path))


def read_columns(source: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns what is known of all images without decoding them.

    Returns:
        Labels int32 `[N]`, groups str `[N]` and official parts str `[N]`.
    """
    columns = []
    chunks = range(0, len(source), 256)
    for start in track(chunks, f'Reading the labels of {source.name}', len(chunks)):
        examples = source.read(range(start, min(start + 256, len(source))))
        columns += [(example.label, example.group, example.part) for example in examples]
    labels, groups, parts = zip(*columns, strict=True)
    return np.array(labels, np.int32), np.array(groups, str), np.array(parts, str)


def write(
    path: Path,
    name: str,
    class_names: Sequence[str],
    examples: Iterable[Example],
    count: int,
    num_bytes: int,
    dataset: str,
    origin: Mapping[str, Any] | None = None,
) -> None:
    """Writes the records of a data set, file after file, with bounded memory.

    Args:
        path: a folder that exists and is empty.
        name: of the data set.
        class_names: `[C]`.
        examples: in ascending order of their ids, no id twice.
        count: of the examples.
        num_bytes: of their images, about.
        dataset: what the original files are; is kept with the records, as is their fingerprint.
        origin: where they came from, in terms of JSON; is kept, too.

    Raises:
        OSError, RuntimeError: the files cannot be written (array_record raises the latter).
    """
    import tensorflow_datasets as tfds

    features = _features(class_names)
    num_files = min(count, math.ceil(num_bytes / _FILE_BYTES) or 1)
    ends = [(file + 1) * count // num_files for file in range(num_files)]
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    digest = _new_digest(class_names)
    rest = iter(track(_in_order_of_ids(examples), f'Writing {name}', count))
    for file, size in enumerate(sizes):
        file_name = f'{name}-{SPLIT}.array_record-{file:05d}-of-{num_files:05d}'
        with _array_record_writer(path / file_name) as writer:
            for _ in range(size):
                example = next(rest)
                if not isinstance(example.image, bytes):
                    example = example._replace(image=example.image.read_bytes())
                _update(digest, example)
                fields = example._asdict() | {'image': io.BytesIO(example.image)}
                writer.write(features.serialize_example(features.encode_example(fields)))
    if next(rest, None) is not None:
        raise AssertionError(f'{name} has more than {count} examples')
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=features,
        version=VERSION,
        split_infos=[tfds.core.SplitInfo(name=SPLIT, shard_lengths=sizes, num_bytes=num_bytes)],
        metadata=tfds.core.MetadataDict(
            dataset=dataset,
            class_names=list(class_names),
            fingerprint=digest.hexdigest(),
            origin=dict(origin or {}),
        ),
        disable_shuffling=True,
        check_data=False,  # it would do that through TensorFlow
    )


def read_metadata(path: os.PathLike | str) -> dict[str, Any]:
    """Returns what `write` keeps with the records, whose folder may be remote.

    That is 'dataset', 'class_names', 'fingerprint', and 'origin' (empty where it was not kept).
    """
    with _damage_explained(path):
        metadata = json.loads(remote.read_text(epath.Path(path) / 'metadata.json'))
        kept = {key: metadata[key] for key in ('dataset', 'class_names', 'fingerprint')}
        return kept | {'origin': metadata.get('origin', {})}


@contextlib.contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """Yields an empty folder that takes the place `path` in the end, or vanishes on an error.

    The caller holds a lock, so what is there already is of a process that was killed.
    """
    aside = path.parent / '.incomplete'
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def upload(path: Path, target: os.PathLike | str) -> None:
    """Copies complete records to a remote folder, where they are complete when this returns."""
    remote.upload(path, target, last=_LAST)


def _local_copy(name: str, path: epath.Path, local_root: Path) -> Path:
    """Returns the folder with a copy of remote records; copies them where that is needed."""
    fingerprint = read_metadata(path)['fingerprint']
    local = Path(folder(name, local_root))

    def is_there() -> bool:
        return are_complete(local) and read_metadata(local)['fingerprint'] == fingerprint

    if is_there():
        return local
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked(local.parent / '.lock'):
            if not is_there():
                shutil.rmtree(local, ignore_errors=True)
                with written_aside(local) as aside:
                    remote.download(path, aside)
                    if _fingerprint(_open(name, aside)) != fingerprint:
                        raise InputError(
                            f'the records in {path} are damaged, or were on their way here: they '
                            'do not have the fingerprint that they are published with; try again'
                        )
    except OSError as error:
        raise InputError(f'{path} cannot be copied to {local}: {error}') from error
    return local


def _open(name: str, path: Path) -> Records:
    import tensorflow_datasets as tfds

    with _damage_explained(path):
        builder = tfds.builder_from_directory(path)
        metadata = read_metadata(path)
        skip = {'image': tfds.decode.SkipDecoding()}
        return Records(
            name=name,
            path=path,
            class_names=tuple(metadata['class_names']),
            fingerprint=metadata['fingerprint'],
            source=builder.as_data_source(split=SPLIT, decoders=skip),
        )


def _features(class_names: Sequence[str]):
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(shape=(None, None, None)),
            'label': tfds.features.ClassLabel(names=list(class_names)),
            'image_id': tfds.features.Text(),
            'group': tfds.features.Text(),
            'part': tfds.features.Text(),
        }
    )


def _in_order_of_ids(examples: Iterable[Example]) -> Iterator[Example]:
    previous = ''
    for example in examples:
        if not previous < example.image_id:
            raise AssertionError(f'image {example.image_id} comes after {previous}')
        previous = example.image_id
        yield example


@contextlib.contextmanager
def _array_record_writer(path: Path) -> Iterator[Any]:
    from array_record.python.array_record_module import ArrayRecordWriter

    writer = ArrayRecordWriter(str(path), 'group_size:1')
    try:
        yield writer
    finally:
        writer.close()


def _new_digest(class_names: Sequence[str]):
    return hashlib.sha256(json.dumps(list(class_names)).encode())


def _update(digest, example: Example) -> None:
    fields = [example.image_id, example.label, example.group, example.part, len(example.image)]
    digest.update(json.dumps(fields).encode())
    digest.update(example.image)


def _fingerprint(source: Records, chunk: int = 64) -> str:
    digest = _new_digest(source.class_names)
    starts = range(0, len(source), chunk)
    for start in track(starts, f'Checking {source.name}', len(starts)):
        for example in source.read(range(start, min(start + chunk, len(source)))):
            _update(digest, example)
    return digest.hexdigest()


@contextlib.contextmanager
def _damage_explained(path: os.PathLike | str) -> Iterator[None]:
    from google.protobuf.json_format import ParseError

    try:
        yield
    except InputError:
        raise
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,  # a record that is not there has None in its fields
        RuntimeError,
        LookupError,
        ParseError,
    ) as error:
        raise InputError(
            f'the records in {path} are incomplete or damaged ({error}); remove that folder and '
            'prepare the data set again'
        ) from error
