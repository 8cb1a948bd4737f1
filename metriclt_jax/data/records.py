"""Prepared data sets on disk: one record per image, in files that TFDS describes and reads.

A record is an `Example`; records lie in the order of the image ids. All are in one TFDS split, as
index arrays decide later what is trained on and what is tested on. We write the array_record files
ourselves because a TFDS builder needs TensorFlow beyond 1 GB; `tfds.builder_from_directory` reads
the folder without our code.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
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

from metriclt_jax.data import storage
from metriclt_jax.data.sources import READERS
from metriclt_jax.data.sources.common import Example, Source
from metriclt_jax.errors import InputError, explained
from metriclt_jax.files import locked
from metriclt_jax.paths import is_remote, reached
from metriclt_jax.progress import track

SPLIT = 'images'
VERSION = '2.0.0'  # of the contents of a record; others are not read
LAST = 'dataset_info.json'  # written last: its presence marks complete records
_FILE_BYTES = 2**29  # approximate size of one array_record file


@dataclasses.dataclass(frozen=True)
class Records:
    """A prepared data set, open for reading."""

    name: str
    path: Path  # its folder on this machine
    class_names: tuple[str, ...]  # [C]
    fingerprint: str  # SHA-256 over all that was written
    source: Any = dataclasses.field(repr=False)  # TFDS data source with random access
    dataset: str = ''  # the kind of original files, a key of READERS

    def __len__(self) -> int:
        return len(self.source)

    def read(self, indices: Sequence[int]) -> list[Example]:
        """Reads records without decoding their images."""
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

    def read_all(self, chunk: int = 64) -> Iterator[Example]:
        """Yields all records in order, a chunk in memory at a time."""
        for start in range(0, len(self), chunk):
            yield from self.read(range(start, min(start + chunk, len(self))))


def folder(name: str, data_dir: os.PathLike | str) -> epath.Path:
    """Returns where the records of a data set lie, or would lie."""
    return epath.Path(data_dir).expanduser() / name / VERSION


def are_complete(path: os.PathLike | str) -> bool:
    """Whether a folder, which may be remote, holds the records of a data set."""
    with reached(path):
        return (epath.Path(path) / LAST).exists()


def open_records(name: str, data_dir: os.PathLike | str) -> Records:
    """Opens the prepared records of a data set, after copying remote ones to this machine once."""
    path = folder(name, data_dir)
    if not are_complete(path):
        dataset = name if name in READERS else f'folder --name={name}'
        root = shlex.quote(str(epath.Path(data_dir).expanduser()))
        raise InputError(
            f'data set {name} is not prepared in data.data_dir {data_dir}; set data.data_dir, or '
            f'run: metriclt-prepare-data --dataset={dataset} --source=DIR --data_dir={root}'
        )
    if is_remote(path):
        path = _local_copy(name, path, storage.local_folder(data_dir))
    return _open(name, Path(path))


class Columns(NamedTuple):
    """What is known of each image `[N]` before it is decoded."""

    labels: np.ndarray  # int32
    group_ids: np.ndarray  # str
    parts: np.ndarray  # str, the official ones
    ids: np.ndarray  # str
    contents: np.ndarray  # uint64, equal for identical files


def read_columns(source: Records) -> Columns:
    """Reads the records, of which it keeps all but the images."""
    examples = track(source.read_all(256), f'Reading the labels of {source.name}', len(source))
    rows = [e._replace(image=hashlib.sha256(e.image).digest()[:8]) for e in examples]
    ids, labels, group_ids, digests, parts = zip(*rows, strict=True)
    return Columns(
        labels=np.array(labels, np.int32),
        group_ids=np.array(group_ids, str),
        parts=np.array(parts, str),
        ids=np.array(ids, str),
        contents=np.frombuffer(b''.join(digests), np.uint64),
    )


def write(path: Path, name: str, source: Source, dataset: str, origin: Mapping[str, Any]) -> None:
    """Writes the records of a data set into an empty folder, with bounded memory.

    `dataset` (kind of the original files) and `origin` (where they came from) are kept with them.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    texts = {field: tfds.features.Text() for field in ('image_id', 'group', 'part')}
    image = tfds.features.Image(shape=(None, None, None))
    label = tfds.features.ClassLabel(names=list(source.class_names))
    features = tfds.features.FeaturesDict({'image': image, 'label': label, **texts})
    num_files = min(source.count, math.ceil(source.num_bytes / _FILE_BYTES) or 1)
    ends = [(file + 1) * source.count // num_files for file in range(num_files)]
    sizes = np.diff(ends, prepend=0).tolist()
    digest = _new_digest(source.class_names)
    examples = iter(track(source.examples, f'Writing {name}', source.count))
    for file, size in enumerate(sizes):
        file_name = f'{name}-{SPLIT}.array_record-{file:05d}-of-{num_files:05d}'
        writer = ArrayRecordWriter(str(path / file_name), 'group_size:1')
        with contextlib.closing(writer):
            for example in itertools.islice(examples, size):
                example = with_bytes(example)
                _update(digest, example)
                fields = example._asdict() | {'image': io.BytesIO(example.image)}
                writer.write(features.serialize_example(features.encode_example(fields)))
    split = tfds.core.SplitInfo(name=SPLIT, shard_lengths=sizes, num_bytes=source.num_bytes)
    metadata = {'dataset': dataset, 'class_names': list(source.class_names)}
    metadata |= {'fingerprint': digest.hexdigest(), 'origin': dict(origin)}
    tfds.folder_dataset.write_metadata(
        data_dir=path,
        features=features,
        version=VERSION,
        split_infos=[split],
        metadata=tfds.core.MetadataDict(metadata),
        disable_shuffling=True,
        check_data=False,  # the check needs TensorFlow
    )


def fingerprint(class_names: Sequence[str], examples: Iterable[Example]) -> str:
    """Returns the SHA-256 over all that `write` would write."""
    digest = _new_digest(class_names)
    for example in examples:
        _update(digest, with_bytes(example))
    return digest.hexdigest()


def with_bytes(example: Example) -> Example:
    """Returns the example with its encoded image instead of the file."""
    if isinstance(example.image, Path):
        return example._replace(image=example.image.read_bytes())
    return example


def read_metadata(path: os.PathLike | str) -> dict[str, Any]:
    """Returns the 'dataset', 'class_names', 'fingerprint' and 'origin' of (remote) records."""
    with _damage_explained(path):
        with reached(path):
            found = json.loads((epath.Path(path) / 'metadata.json').read_text())
        found.setdefault('origin', {})
        return {key: found[key] for key in ('dataset', 'class_names', 'fingerprint', 'origin')}


def _local_copy(name: str, path: epath.Path, local_root: Path) -> Path:
    """Returns the folder with an up-to-date copy of remote records."""
    current = read_metadata(path)['fingerprint']
    local = Path(folder(name, local_root))

    def is_current() -> bool:
        return are_complete(local) and read_metadata(local)['fingerprint'] == current

    if is_current():
        return local
    try:
        local.parent.mkdir(parents=True, exist_ok=True)
        with locked(local.parent / '.lock'):
            if not is_current():  # another process may have copied it meanwhile
                shutil.rmtree(local, ignore_errors=True)
                with storage.written_aside(local) as aside:
                    storage.copy_files(path, epath.Path(aside), LAST)
                    copy = _open(name, aside)
                    examples = track(copy.read_all(), f'Checking {name}', len(copy))
                    if fingerprint(copy.class_names, examples) != current:
                        raise InputError(
                            f'the copy of {path} does not have its fingerprint: the records were '
                            'damaged there or on their way here; try again'
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
            dataset=metadata['dataset'],
        )


def _new_digest(class_names: Sequence[str]):
    return hashlib.sha256(json.dumps(list(class_names)).encode())


def _update(digest, example: Example) -> None:
    fields = [example.image_id, example.label, example.group, example.part, len(example.image)]
    digest.update(json.dumps(fields).encode())
    digest.update(example.image)


def _damage_explained(path: os.PathLike | str) -> contextlib.AbstractContextManager:
    return explained(
        f'the records in {path} are incomplete or damaged; remove that folder and prepare the data '
        'set again'
    )
