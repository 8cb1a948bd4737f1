"""Weights from elsewhere: torchvision's files, and the Orbax checkpoints that are made of them.

The modules of the models are named as torchvision's, so one mechanical rule ports them all. A
kernel `[kh, kw, cin, cout]` is its weight `[cout, cin, kh, kw]`, that of a linear layer
`[inputs, outputs]` its weight `[outputs, inputs]`; scale, bias, mean and var of a BatchNorm are its
weight, bias, running_mean and running_var. A file must have exactly the arrays of the model, in
their shapes.
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json
from metriclt_jax.models import weight_files
from metriclt_jax.models.classifier import create_model, initialize


class Torchvision(NamedTuple):
    """How torchvision has a model: what its names begin with, its classifier, its file."""

    backbone: str
    head: str
    file: str


# The name of a file ends with the beginning of its SHA-256.
TORCHVISION = {
    'resnet18': Torchvision('', 'fc', 'resnet18-f37072fd.pth'),
    'resnet50': Torchvision('', 'fc', 'resnet50-0676ba61.pth'),
    'densenet121': Torchvision('features.', 'classifier', 'densenet121-a639ec97.pth'),
    'mobilenet_v2': Torchvision('features.', 'classifier.1', 'mobilenet_v2-b0353104.pth'),
}
RECORD = 'weights.json'  # beside the Orbax checkpoint: the model, and the file that it came from
CHECKPOINT = 'orbax'

_LEAVES = {
    'kernel': 'weight',
    'scale': 'weight',
    'bias': 'bias',
    'mean': 'running_mean',
    'var': 'running_var',
}
# Which axes of torchvision's array are those of ours, by the number of them; and the inverse.
_OURS = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}
_THEIRS = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


class Pretrained(NamedTuple):
    """Variables, with the name and the SHA-256 of the file of torchvision that they came from."""

    variables: dict[str, Any]
    file: str
    sha256: str


def load_torchvision(
    source: str | os.PathLike | Mapping[str, Any],
    name: str,
    num_classes: int | None = None,
    *,
    head: str = 'auto',
    key: jax.Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The variables of `create_model(name, num_classes)` with torchvision's weights.

    Args:
        source: a `.pth` (needs torch) or `.safetensors` file, a directory written by `save`, or
            arrays or tensors by torchvision's names. `num_batches_tracked` is ignored.
        name: of the model.
        num_classes: the source's if None.
        head: 'keep' takes the source's classifier; 'fresh' draws one, whatever the source has;
            'auto' keeps it if `num_classes` is None.
        key: random key from which a fresh head is drawn.
        options: of the backbone, as `create_model` takes them.

    Returns:
        `{'params': {'backbone', 'head'}, 'batch_stats': {'backbone'}}`, float32 NumPy arrays.

    Raises:
        InputError: the source cannot be read, does not have exactly the model's arrays, or has
            values that are not finite; or an argument is not allowed.
    """
    if not isinstance(source, Mapping):
        loaded = load(source, name, num_classes, head=head, key=key, options=options)
        return loaded.variables
    label = 'the given mapping'
    return _port(source, label, name, num_classes, head=head, key=key, options=options)


def load(
    path: str | os.PathLike, name: str, num_classes: int | None = None, **keywords: Any
) -> Pretrained:
    """What `load_torchvision` gives with the same arguments, and the file that it came from."""
    path = Path(path).expanduser()
    if not path.exists():
        raise InputError(
            f'weights {path} do not exist; use a .pth or .safetensors file, or a folder that '
            'import_weights.py wrote'
        )
    if path.is_dir():
        arrays, file, sha256 = _read_directory(path, name)
    else:
        file = path.name
        official = file in {theirs.file for theirs in TORCHVISION.values()}
        arrays, sha256 = weight_files.read(path, path.stem.split('-')[-1] if official else '')
    return Pretrained(_port(arrays, str(path), name, num_classes, **keywords), file, sha256)


def save(directory: str | os.PathLike, name: str, pretrained: Pretrained) -> None:
    """Writes a directory that appears in one step: an Orbax checkpoint, and what it came from.

    Raises InputError if `directory` holds something already or cannot be written.
    """
    import orbax.checkpoint as ocp

    directory = Path(directory).expanduser().absolute()
    record = {'model': name, 'file': pretrained.file, 'sha256': pretrained.sha256}
    partial = directory.with_name(f'.{directory.name}.{os.getpid()}')
    try:
        partial.mkdir(parents=True)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(partial / CHECKPOINT, pretrained.variables)
        record['checkpoint_sha256'] = _tree_sha256(partial / CHECKPOINT)
        (partial / RECORD).write_text(json.dumps(record, indent=1) + '\n')
        partial.rename(directory)  # raises if something is there, unless it is an empty directory
    except (OSError, ValueError) as error:  # Orbax reports a full disk as a ValueError
        raise InputError(f'{directory} cannot be written: {error}') from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_record(directory: Path) -> dict[str, str]:
    """`model`, `file`, `sha256` and `checkpoint_sha256` of a directory that `save` wrote."""
    path = directory / RECORD
    if not path.is_file():
        raise InputError(
            f'{directory} exists and does not hold weights that import_weights.py wrote'
        )
    record = read_json(path)
    fields = {'model', 'file', 'sha256', 'checkpoint_sha256'}
    if not isinstance(record, dict) or not fields <= set(record):
        raise InputError(f'{path} was not written by import_weights.py')
    return record


def to_torchvision(variables: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """The arrays of a model's variables, in torchvision's names and layout."""
    return {
        _their_name(path, name): np.asarray(leaf).transpose(_THEIRS[np.ndim(leaf)])
        for path, leaf in flatten_dict(variables).items()
    }


def _read_directory(directory: Path, name: str) -> tuple[dict[str, np.ndarray], str, str]:
    import orbax.checkpoint as ocp

    record = read_record(directory)
    if record['model'] != name:
        raise InputError(f'{directory} holds weights of {record["model"]}, not of {name}')
    # Orbax notices only some damage, and leaves tasks behind when it fails.
    if _tree_sha256(directory / CHECKPOINT) != record['checkpoint_sha256']:
        raise InputError(f'weights {directory} are damaged; delete them and import them again')
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore((directory / CHECKPOINT).absolute())
    return to_torchvision(variables, name), record['file'], record['sha256']


def _tree_sha256(directory: Path) -> str:
    """A SHA-256 of the names and contents of all files below `directory`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob('*') if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f'{path.relative_to(directory).as_posix()} {content}\n'.encode())
    return digest.hexdigest()


def _port(
    arrays: Mapping[str, Any],
    label: str,
    name: str,
    num_classes: int | None,
    *,
    head: str = 'auto',
    key: jax.Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """See `load_torchvision`; `label` is what messages call the arrays."""
    if name not in TORCHVISION:
        raise InputError(f'unknown model {name!r}; use one of {", ".join(TORCHVISION)}')
    if head not in ('auto', 'keep', 'fresh'):
        raise InputError(f'head must be auto, keep or fresh, got {head!r}')
    keep = head == 'keep' or (head == 'auto' and num_classes is None)
    if not keep and key is None:
        raise InputError("a fresh head needs a JAX random key; pass key, or head='keep'")
    arrays = _current_names(arrays)
    head_weight = f'{TORCHVISION[name].head}.weight'
    if num_classes is None:
        shape = np.shape(arrays.get(head_weight, 0))
        if not keep and len(shape) != 2:
            raise InputError(f'{label} has no {head_weight} to tell num_classes; pass num_classes')
        num_classes = shape[0] if len(shape) == 2 else 1000  # its fault is listed below

    # All but a fresh head is replaced below; that it is drawn costs less than a second.
    seed = 0 if key is None else int(jax.random.bits(key))
    variables = flatten_dict(initialize(create_model(name, num_classes, **options or {}), seed))
    taken = {_their_name(path, name): path for path in variables if keep or path[1] != 'head'}
    if not keep:
        for parameter in (head_weight, f'{TORCHVISION[name].head}.bias'):
            arrays.pop(parameter, None)
    expected = {
        their: tuple(np.array(variables[path].shape)[list(_THEIRS[variables[path].ndim])].tolist())
        for their, path in taken.items()
    }
    _require_same({their: np.shape(array) for their, array in arrays.items()}, expected, label)
    for their, path in taken.items():
        array = _float32(arrays[their], f'{their} of {label}')
        variables[path] = np.ascontiguousarray(array.transpose(_OURS[array.ndim]))
        if path[-1] == 'var' and array.min() < 0:
            raise InputError(f'{their} of {label} has variances below 0')
    return unflatten_dict(variables)


def _current_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by the names that torchvision gives them today, without batch counters."""
    renamed = {}
    for name, array in arrays.items():
        name = str(name)
        # Old files have `denselayer1.norm.1.weight`.
        today = re.sub(r'(\.denselayer\d+\.(?:norm|conv))\.([12])\.', r'\1\2.', name)
        if not name.endswith('.num_batches_tracked'):
            renamed[name if today in arrays else today] = array
    return renamed


def _their_name(path: tuple[str, ...], name: str) -> str:
    _, top, *modules, leaf = path
    theirs = TORCHVISION[name]
    module = theirs.head if top == 'head' else theirs.backbone + '.'.join(modules)
    return f'{module}.{_LEAVES[leaf]}'


def _require_same(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], label: str
) -> None:
    """Raises one InputError that lists what is missing, unexpected and mis-shaped."""
    faults = {
        'missing': sorted(set(expected) - set(found)),
        'unexpected': sorted(set(found) - set(expected)),
        'mis-shaped': [
            f'{key} {found[key]} instead of {shape}'
            for key, shape in sorted(expected.items())
            if found.get(key, shape) != shape
        ],
    }
    texts = [
        f'{len(items)} {what} ({", ".join(items[:3])}{", ..." if len(items) > 3 else ""})'
        for what, items in faults.items()
        if items
    ]
    if texts:
        raise InputError(f'{label} does not fit the model: {", ".join(texts)}')


def _float32(array: Any, label: str) -> np.ndarray:
    try:
        if hasattr(array, 'detach'):  # torch's; NumPy has no bfloat16
            array = array.detach().cpu()
            array = array.float() if array.is_floating_point() else array
        array = np.asarray(array)
    except (NotImplementedError, RuntimeError, TypeError, ValueError):
        raise InputError(f'{label} is sparse or quantised; use dense tensors') from None
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise InputError(f'{label} is {array.dtype}; it must be floating-point')
    with np.errstate(over='ignore'):  # of float64; checked next
        array = array.astype(np.float32)
    if not np.isfinite(array).all():
        raise InputError(f'{label} has values that are not finite in float32')
    return array
