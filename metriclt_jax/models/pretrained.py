"""Weights from elsewhere: torchvision's files, and the Orbax checkpoints that are made of them.

The modules of the models are named as torchvision's, so one mechanical rule ports them all. A file
must have exactly the arrays of the model, in their shapes; `state_dicts` finds them in checkpoints.
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
from metriclt_jax.models import state_dicts, weight_files
from metriclt_jax.models.classifier import create_model, initialize

Source = str | os.PathLike | Mapping[str, Any]  # of weights, see `load`


class Torchvision(NamedTuple):
    """How torchvision has a model."""

    backbone: str  # what the names of its arrays begin with
    head: str  # its classifier
    file: str  # ends with the beginning of its SHA-256
    first: str = 'conv1.weight'  # its first array, by which it is found in a checkpoint


TORCHVISION = {
    'resnet18': Torchvision('', 'fc', 'resnet18-f37072fd.pth'),
    'resnet50': Torchvision('', 'fc', 'resnet50-0676ba61.pth'),
    'densenet121': Torchvision(
        'features.', 'classifier', 'densenet121-a639ec97.pth', 'features.conv0.weight'
    ),
    'mobilenet_v2': Torchvision(
        'features.', 'classifier.1', 'mobilenet_v2-b0353104.pth', 'features.0.0.weight'
    ),
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
# Our axes in the order of torchvision's, by their number: a kernel [kh, kw, cin, cout] is there
# [cout, cin, kh, kw], that of a linear layer [inputs, outputs] is [outputs, inputs].
_AXES = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}


class Pretrained(NamedTuple):
    """Variables, with the name and the SHA-256 of the file that they came from."""

    variables: dict[str, Any]
    file: str
    sha256: str


def load_torchvision(
    source: Source, name: str, num_classes: int | None = None, **keywords: Any
) -> dict[str, Any]:
    """The variables that `load` returns for the same arguments."""
    return load(source, name, num_classes, **keywords).variables


def load(
    source: Source,
    name: str,
    num_classes: int | None = None,
    *,
    head: str = 'auto',
    key: jax.Array | None = None,
    options: Mapping[str, Any] | None = None,
) -> Pretrained:
    """The variables of `create_model(name, num_classes)` with torchvision's weights.

    Args:
        source: a `.safetensors` or `.npz` file, one of torch (`.pth`, `.pt`, `.bin`, `.ckpt`,
            `.pth.tar`; needs torch), a directory written by `save`, or arrays or tensors by
            torchvision's names. They may be an entry of a checkpoint, such as `state_dict`, and
            share a prefix, such as `module.`. `num_batches_tracked` is ignored.
        name: of the model, as `options` are those of its backbone for `create_model`.
        num_classes: the source's if None.
        head: 'keep' takes the source's classifier; 'fresh' draws one from `key`, whatever the
            source has; 'auto' keeps it if `num_classes` is None.

    Returns:
        Variables `{'params': {'backbone', 'head'}, 'batch_stats': {'backbone'}}` as float32 NumPy
        arrays, and the file that they came from. `InputError` is raised unless the source has
        exactly the model's arrays, with finite values.
    """
    if name not in TORCHVISION:
        raise InputError(f'unknown model {name!r}; use one of {", ".join(TORCHVISION)}')
    if head not in ('auto', 'keep', 'fresh'):
        raise InputError(f'head must be auto, keep or fresh, got {head!r}')
    keep = head == 'keep' or (head == 'auto' and num_classes is None)
    if not keep and key is None:
        raise InputError("a fresh head needs a JAX random key; pass key, or head='keep'")
    if isinstance(source, Mapping):
        arrays, file, sha256, source = source, '', '', 'the given mapping'
    else:
        arrays, file, sha256 = _read(Path(source).expanduser(), name)
    arrays = _current_names(state_dicts.find(arrays, TORCHVISION[name].first, source))
    head_weight = f'{TORCHVISION[name].head}.weight'
    if num_classes is None:
        shape = np.shape(arrays.get(head_weight, 0))
        if not keep and len(shape) != 2:
            raise InputError(f'{source} has no {head_weight} to tell num_classes; pass num_classes')
        num_classes = shape[0] if len(shape) == 2 else 1000  # its fault is listed below
    if not keep:
        replaced = TORCHVISION[name].head.split('.')[0] + '.'
        arrays = {key: array for key, array in arrays.items() if not key.startswith(replaced)}

    # All but a fresh head is replaced below; that it is drawn costs less than a second.
    seed = 0 if key is None else int(jax.random.bits(key))
    variables = flatten_dict(initialize(create_model(name, num_classes, **options or {}), seed))
    taken = {_their_name(path, name): path for path in variables if keep or path[1] != 'head'}
    expected = {
        their: variables[path].transpose(_AXES[variables[path].ndim]).shape
        for their, path in taken.items()
    }
    shapes = {their: np.shape(array) for their, array in arrays.items()}
    _require_same(shapes, expected, source, name)
    for their, path in taken.items():
        array = _float32(arrays[their], f'{their} of {source}')
        variables[path] = np.ascontiguousarray(array.transpose(np.argsort(_AXES[array.ndim])))
        if path[-1] == 'var' and array.min() < 0:
            raise InputError(f'{their} of {source} has variances below 0')
    return Pretrained(unflatten_dict(variables), file, sha256)


def save(directory: str | os.PathLike, name: str, pretrained: Pretrained) -> None:
    """Writes, in one step, a new directory with an Orbax checkpoint and what it came from."""
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
        raise InputError(f'{directory} exists and holds no weights that import_weights.py wrote')
    record = read_json(path)
    fields = ('model', 'file', 'sha256', 'checkpoint_sha256')
    if not isinstance(record, dict) or not all(field in record for field in fields):
        raise InputError(f'{path} was not written by import_weights.py')
    return record


def to_torchvision(variables: Mapping[str, Any], name: str) -> dict[str, np.ndarray]:
    """The arrays of a model's variables, in torchvision's names and layout."""
    return {
        _their_name(path, name): np.asarray(leaf).transpose(_AXES[np.ndim(leaf)])
        for path, leaf in flatten_dict(variables).items()
    }


def _read(path: Path, name: str) -> tuple[Mapping[str, Any], str, str]:
    """Arrays by torchvision's names, and the name and the SHA-256 of the file with them."""
    if not path.exists():
        raise InputError(f'weights {path} do not exist; use a file or what import_weights.py wrote')
    if not path.is_dir():
        official = path.name in {theirs.file for theirs in TORCHVISION.values()}
        arrays, sha256 = weight_files.read(path, path.stem.split('-')[-1] if official else '')
        return arrays, path.name, sha256

    import orbax.checkpoint as ocp

    record = read_record(path)
    if record['model'] != name:
        raise InputError(f'{path} holds weights of {record["model"]}, not of {name}')
    # Orbax notices only some damage, and leaves tasks behind when it fails.
    if _tree_sha256(path / CHECKPOINT) != record['checkpoint_sha256']:
        raise InputError(f'weights {path} are damaged; delete them and import them again')
    with ocp.StandardCheckpointer() as checkpointer:
        variables = checkpointer.restore((path / CHECKPOINT).absolute())
    return to_torchvision(variables, name), record['file'], record['sha256']


def _tree_sha256(directory: Path) -> str:
    """A SHA-256 of the names and contents of all files below `directory`."""
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob('*') if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f'{path.relative_to(directory).as_posix()} {content}\n'.encode())
    return digest.hexdigest()


def _current_names(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The arrays by the names that torchvision gives them today, without batch counters."""
    renamed = {}
    for name, array in arrays.items():
        # Old files have `denselayer1.norm.1.weight`.
        today = re.sub(r'(\.denselayer\d+\.(?:norm|conv))\.([12])\.', r'\1\2.', str(name))
        if not today.endswith('.num_batches_tracked'):
            renamed[str(name) if today in arrays else today] = array
    return renamed


def _their_name(path: tuple[str, ...], name: str) -> str:
    _, top, *modules, leaf = path
    theirs = TORCHVISION[name]
    module = theirs.head if top == 'head' else theirs.backbone + '.'.join(modules)
    return f'{module}.{_LEAVES[leaf]}'


def _require_same(found: dict, expected: dict, label: Any, name: str) -> None:
    """Raises one InputError that lists the names that are missing, unexpected or mis-shaped."""
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
        like = state_dicts.architecture(found)
        hint = f'; these look like weights of {like}' if like not in (None, name) else ''
        raise InputError(f'{label} does not fit the model {name}: {", ".join(texts)}{hint}')


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
