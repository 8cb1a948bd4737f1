"""pathmnist_lt and its sisters: the 2-D sets of the MedMNIST family that have one label an image.

Reads an official file (https://zenodo.org/records/10519652), such as pathmnist.npz (28 x 28 pixels)
or pathmnist_64.npz, pathmnist_128.npz, pathmnist_224.npz. The images are taken out of it one after
another, as the largest files hold more than the memory of most machines.
"""

import contextlib
import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from metriclt_jax.data.builders.source import Source
from metriclt_jax.data.decoding import in_order
from metriclt_jax.data.records import Example
from metriclt_jax.errors import InputError
from metriclt_jax.progress import track

PARTS = {'test': 'test', 'train': 'train', 'val': 'validation'}
"""From the names in the files, in the order of the image ids."""

SIZES = (28, 64, 128, 224)

_PNG_BYTES = 128  # more than the pixels, at most

_ORGANS = (
    'bladder', 'femur-left', 'femur-right', 'heart', 'kidney-left', 'kidney-right', 'liver',
    'lung-left', 'lung-right', 'pancreas', 'spleen',
)  # fmt: skip


class Published(NamedTuple):
    """What the package medmnist 3.0.2 says of a set."""

    class_names: tuple[str, ...]
    md5: tuple[str, str, str, str]
    """Of the files of SIZES."""


SETS = {
    'pathmnist': Published(
        ('ADI', 'BACK', 'DEB', 'LYM', 'MUC', 'MUS', 'NORM', 'STR', 'TUM'),
        (
            'a8b06965200029087d5bd730944a56c1', '55aa9c1e0525abe5a6b9d8343a507616',
            'ac42d08fb904d92c244187169d1fd1d9', '2c51a510bcdc9cf8ddb2af93af1eadec',
        ),
    ),
    'dermamnist': Published(
        (
            'actinic keratoses and intraepithelial carcinoma', 'basal cell carcinoma',
            'benign keratosis-like lesions', 'dermatofibroma', 'melanoma', 'melanocytic nevi',
            'vascular lesions',
        ),
        (
            '0744692d530f8e62ec473284d019b0c7', 'b70a2f5635c6199aeaa28c31d7202e1f',
            '2defd784463fa5243564e855ed717de1', '8974907d8e169bef5f5b96bc506ae45d',
        ),
    ),
    'octmnist': Published(
        ('choroidal neovascularization', 'diabetic macular edema', 'drusen', 'normal'),
        (
            'c68d92d5b585d8d81f7112f81e2d0842', 'e229e9440236b774d9f0dfef9d07bdaf',
            '0a97e76651ace45c5d943ee3f65b63ae', 'abc493b6d529d5de7569faaef2773ba3',
        ),
    ),
    'pneumoniamnist': Published(
        ('normal', 'pneumonia'),
        (
            '28209eda62fecd6e6a2d98b1501bb15f', '8f4eceb4ccffa70c672198ea285246c6',
            '05b46931834c231683c68f40c47b2971', 'd6a3c71de1b945ea11211b03746c1fe1',
        ),
    ),
    'retinamnist': Published(
        ('0', '1', '2', '3', '4'),
        (
            'bd4c0672f1bba3e3a89f0e4e876791e4', 'afda852cc34dcda56f86ad2b2457dbcc',
            'e48e916a24454daf90583d4e6efb1a18', 'eae7e3b6f3fcbda4ae613ebdcbe35348',
        ),
    ),
    'breastmnist': Published(
        ('malignant', 'normal, benign'),
        (
            '750601b1f35ba3300ea97c75c52ff8f6', '742edef2a1fd1524b2efff4bd7ba9364',
            '363e4b3f8d712e9b5de15470a2aaadf1', 'b56378a6eefa9fed602bb16d192d4c8b',
        ),
    ),
    'bloodmnist': Published(
        (
            'basophil', 'eosinophil', 'erythroblast',
            'immature granulocytes(myelocytes, metamyelocytes and promyelocytes)',
            'lymphocyte', 'monocyte', 'neutrophil', 'platelet',
        ),
        (
            '7053d0359d879ad8a5505303e11de1dc', '2b94928a2ae4916078ca51e05b6b800b',
            'adace1e0ed228fccda1f39692059dd4c', 'b718ff6835fcbdb22ba9eacccd7b2601',
        ),
    ),
    'tissuemnist': Published(
        (
            'Collecting Duct, Connecting Tubule', 'Distal Convoluted Tubule',
            'Glomerular endothelial cells', 'Interstitial endothelial cells', 'Leukocytes',
            'Podocytes', 'Proximal Tubule Segments', 'Thick Ascending Limb',
        ),
        (
            'ebe78ee8b05294063de985d821c1c34b', '123ece2eba09d0aa5d698fda57103344',
            '61b955355d7425a89687b06cca3ce0c2', 'b077128c4a949f0a4eb01517f9037b9c',
        ),
    ),
    'organamnist': Published(
        _ORGANS,
        (
            '68e3f8846a6bd62f0c9bf841c0d9eacc', '2dcccc29b88e6da5a01161ef20cda288',
            'eeae80d0a227a8d099027e1b3cfd3b60', '50747347e05c87dd3aaf92c49f9f3170',
        ),
    ),
    'organcmnist': Published(
        _ORGANS,
        (
            'b9ceb9546e10131b32923c5bbeaea2b1', '3ce34a8724ea6f548e6db4744d03b6a9',
            '773c1f009daa3fe5d9a2a201b2a7ed94', '050f5e875dc056f6768abf94ec9995d1',
        ),
    ),
    'organsmnist': Published(
        _ORGANS,
        (
            '9ab87b696fb54e2a387ebe992d6ed5f1', '53a6d115339d874c25e309a994ff46d3',
            'ded0c5fa01a95dc4978b956f613e9b8e', 'b354719e553fbbb2513d5533f52a4cb1',
        ),
    ),
}  # fmt: skip
"""Class names are those of the package, but for pathmnist's, which are the source's short names."""


def read_source(name: str, source: str | None, allow_unknown_checksum: bool = False) -> Source:
    """Returns every image of an official file, with its official part.

    Args:
        name: of the set, a key of SETS.
        source: the file, or the folder that holds it under its official name.
        allow_unknown_checksum: take a file with another checksum than the published one.

    Raises:
        InputError: no such file, a wrong checksum, or a content that is not as expected.
    """
    path = _file(name, source)
    class_names, md5 = SETS[name]
    with _damage_explained(path), zipfile.ZipFile(path) as archive:
        shapes = {part: _shape(archive, part, path) for part in PARTS}
        labels = {part: _labels(archive, part, path) for part in PARTS}
    for part, shape in shapes.items():
        if len(labels[part]) != shape[0] or shape[1:] != shapes['train'][1:]:
            raise InputError(
                f'{path} has {part}_images of the shape {shape} and {len(labels[part])} '
                f'{part}_labels; allowed: one label an image, and train_images of the same size'
            )
        outside = set(labels[part].tolist()) - set(range(len(class_names)))
        if outside:
            raise InputError(
                f'{path} has the label {min(outside)} in {part}_labels; allowed: 0 to '
                f'{len(class_names) - 1}'
            )
    if not allow_unknown_checksum:
        _check_md5(path, shapes['train'][1], dict(zip(SIZES, md5, strict=True)))
    return Source(
        class_names=class_names,
        examples=_examples(path, labels),
        count=sum(shape[0] for shape in shapes.values()),
        num_bytes=sum(math.prod(shape) + _PNG_BYTES * shape[0] for shape in shapes.values()),
        files=(),
    )


def _file(name: str, source: str | None) -> Path:
    names = [f'{name}.npz', *(f'{name}_{size}.npz' for size in SIZES[1:])]
    allowed = f'allowed: one of the files {", ".join(names)}, or a folder with one of them'
    if not source:
        raise InputError(f'{name} needs a source; {allowed}')
    path = Path(source).expanduser()
    if path.is_file():
        return path
    found = [path / name for name in names if (path / name).is_file()]
    if len(found) != 1:
        raise InputError(f'{path} has {len(found)} files of {name}; {allowed}')
    return found[0]


def _shape(archive: zipfile.ZipFile, part: str, path: Path) -> tuple[int, ...]:
    """Returns the shape of the images of a part, `[N, S, S]` (grey) or `[N, S, S, 3]`."""
    with _member(archive, f'{part}_images') as file:
        shape, fortran_order, dtype = _read_header(file)
    grey_or_rgb = len(shape) == 3 or (len(shape) == 4 and shape[3] == 3)
    if dtype != np.uint8 or fortran_order or not grey_or_rgb or shape[1] != shape[2]:
        raise InputError(
            f'{path} has {part}_images of the kind {dtype} {list(shape)}; allowed: uint8 [N, S, S] '
            'or [N, S, S, 3]'
        )
    return shape


def _labels(archive: zipfile.ZipFile, part: str, path: Path) -> np.ndarray:
    with _member(archive, f'{part}_labels') as file:
        labels = np.lib.format.read_array(file, allow_pickle=False)
    if labels.dtype.kind not in 'iu' or not labels.ndim or labels.shape[1:] not in ((), (1,)):
        raise InputError(
            f'{path} has {part}_labels of the kind {labels.dtype} {list(labels.shape)}; allowed: '
            'whole numbers [N, 1], as this is for sets with one label an image'
        )
    return labels.ravel()


def _examples(path: Path, labels: Mapping[str, np.ndarray]) -> Iterator[Example]:
    """Yields the images as PNG files, and holds few at a time."""
    with _damage_explained(path), zipfile.ZipFile(path) as archive, ThreadPoolExecutor() as pool:
        for part, part_name in PARTS.items():
            with _member(archive, f'{part}_images') as file:
                images = in_order(pool, _to_png, _pixels(file))
                for index, (label, image) in enumerate(zip(labels[part], images, strict=True)):
                    yield Example(f'{part}_{index:06d}', int(label), '', image, part_name)


def _pixels(file: IO[bytes]) -> Iterator[np.ndarray]:
    (count, *shape), _, _ = _read_header(file)
    for _ in range(count):
        yield np.frombuffer(file.read(math.prod(shape)), np.uint8).reshape(shape)


def _to_png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    png = io.BytesIO()
    Image.fromarray(pixels).save(png, 'PNG')
    return png.getvalue()


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(f'{name}.npy')


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Reads the header of an .npy file up to its first value."""
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    return readers[np.lib.format.read_magic(file)](file)


def _check_md5(path: Path, side: int, published: Mapping[int, str]) -> None:
    if side not in published:
        raise InputError(
            f'{path} is no official file: no checksum is published for {side} x {side} pixels; '
            'allowed: an official file, or --allow_unknown_checksum if you trust this one'
        )
    digest = hashlib.md5(usedforsecurity=False)
    size = path.stat().st_size
    with path.open('rb') as file:
        chunks = iter(lambda: file.read(2**24), b'')
        for chunk in track(chunks, f'Checking {path.name}', math.ceil(size / 2**24)):
            digest.update(chunk)
    if digest.hexdigest() != published[side]:
        raise InputError(
            f'{path} has the MD5 checksum {digest.hexdigest()}; allowed: {published[side]}, as '
            'published for this set and size, so download it again, or say '
            '--allow_unknown_checksum if you trust it'
        )


@contextlib.contextmanager
def _damage_explained(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except KeyError as error:
        raise InputError(
            f'{path} is not a file of the MedMNIST family: {error.args[0]}; it needs PART_images '
            f'and PART_labels for {", ".join(PARTS)}'
        ) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f'{path} cannot be read as an .npz file: {error}') from error
