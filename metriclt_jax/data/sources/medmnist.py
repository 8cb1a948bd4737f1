"""pathmnist_lt and its sisters: the 2-D sets of the MedMNIST family that have one label per image.

Reads an official file (https://zenodo.org/records/10519652), such as pathmnist.npz (28 x 28 pixels)
or pathmnist_64.npz, pathmnist_128.npz, pathmnist_224.npz. Images are streamed out of it, as the
largest files hold more than the memory of most machines.
"""

import contextlib
import hashlib
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from metriclt_jax.data.decoding import in_order
from metriclt_jax.data.sources.common import Example, Source, to_png
from metriclt_jax.errors import InputError, explained
from metriclt_jax.paths import local_path

PUBLISHED = json.loads(Path(__file__).with_suffix('.json').read_text(encoding='utf-8'))
"""Class names and MD5 checksums (by image size) of each set, from the package medmnist 3.0.2."""

PARTS = {'test': 'test', 'train': 'train', 'val': 'validation'}
"""From the names in the files, in the order of the image ids."""

_PNG_BYTES = 128  # that PNG adds to the pixels, at most


def read_source(name: str, source: str | None, allow_unknown_checksum: bool = False) -> Source:
    """Returns every image of an official file, with its official part.

    `name` is a key of PUBLISHED; `source` is the file, or a folder with it under its official name.
    """
    path = _file(name, source)
    class_names = PUBLISHED[name]['class_names']
    shapes, labels = {}, {}
    with _damage_explained(path), zipfile.ZipFile(path) as archive:
        for part in PARTS:
            with archive.open(f'{part}_images.npy') as file:
                shapes[part] = _image_shape(file, f'{path} has {part}_images')
            with archive.open(f'{part}_labels.npy') as file:
                labels[part] = np.lib.format.read_array(file, allow_pickle=False)
    for part, shape in shapes.items():
        _check_labels(labels[part], shape[0], len(class_names), f'{path} has {part}_labels')
        if shape[1:] != shapes['train'][1:]:
            raise InputError(
                f'{path} has {part}_images of shape {shape}; their size must be that of '
                f'train_images, {shapes["train"]}'
            )
    if not allow_unknown_checksum:
        _check_md5(path, PUBLISHED[name]['md5'].get(str(shapes['train'][1])))
    return Source(
        class_names=tuple(class_names),
        examples=_examples(path, labels),
        count=sum(shape[0] for shape in shapes.values()),
        num_bytes=sum(math.prod(shape) + _PNG_BYTES * shape[0] for shape in shapes.values()),
    )


def _file(name: str, source: str | None) -> Path:
    names = [f'{name}.npz', *(f'{name}_{size}.npz' for size in list(PUBLISHED[name]['md5'])[1:])]
    wanted = f'use one of the files {", ".join(names)}, or a folder with one of them'
    if not source:
        raise InputError(f'{name} needs a source; {wanted}')
    path = local_path(source)
    if path.is_file():
        return path
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        raise InputError(f'{path} has {len(found)} files of {name}; {wanted}')
    return found[0]


def _image_shape(file: IO[bytes], what: str) -> tuple[int, ...]:
    """Reads an .npy header; returns `[N, S, S]` (gray) or `[N, S, S, 3]`."""
    major, _ = np.lib.format.read_magic(file)
    read_header = getattr(np.lib.format, f'read_array_header_{major}_0')
    shape, fortran_order, dtype = read_header(file)
    gray_or_rgb = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if dtype != np.uint8 or fortran_order or not gray_or_rgb or shape[1] != shape[2]:
        wanted = 'uint8 [N, S, S] or [N, S, S, 3]'
        raise InputError(f'{what} of type {dtype} and shape {list(shape)}; they must be {wanted}')
    return shape


def _check_labels(labels: np.ndarray, count: int, num_classes: int, what: str) -> None:
    if labels.dtype.kind not in 'iu' or labels.shape not in ((count,), (count, 1)):
        of = f'{what} of type {labels.dtype} and shape {list(labels.shape)}'
        raise InputError(f'{of}; they must be integers [{count}, 1], one per image')
    outside = labels[(labels < 0) | (labels >= num_classes)]
    if outside.size:
        raise InputError(f'{what} with the label {outside[0]}; they must be 0 to {num_classes - 1}')


def _examples(path: Path, labels: Mapping[str, np.ndarray]) -> Iterator[Example]:
    """Yields the images as PNG files, a few ahead of the consumer."""
    with _damage_explained(path), zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
        for part, part_name in PARTS.items():
            with archive.open(f'{part}_images.npy') as file:
                images = in_order(pool, to_png, _pixels(file))
                pairs = zip(labels[part].ravel(), images, strict=True)
                for index, (label, image) in enumerate(pairs):
                    yield Example(f'{part}_{index:06d}', int(label), '', image, part_name)


def _pixels(file: IO[bytes]) -> Iterator[np.ndarray]:
    count, *shape = _image_shape(file, file.name)
    for _ in range(count):
        yield np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)


def _check_md5(path: Path, published: str | None) -> None:
    with path.open('rb') as file:
        digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if digest != published:
        raise InputError(
            f'{path} has the MD5 checksum {digest}, but {published or "none"} is published for '
            'this set and size; download it again, or pass --allow_unknown_checksum if you trust it'
        )


def _damage_explained(path: Path) -> contextlib.AbstractContextManager:
    names = ', '.join(f'{part}_images and {part}_labels' for part in PARTS)
    return explained(f'{path} is not a MedMNIST .npz file with {names}')
