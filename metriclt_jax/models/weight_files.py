"""Files of weights: arrays by name, out of `.safetensors` and `.pth`. No code in a file is run."""

import hashlib
import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from metriclt_jax.errors import InputError

_SAFETENSORS_DTYPES = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': jnp.bfloat16,
    'I64': np.int64,
}


class WeightFile(NamedTuple):
    """What a file held: its arrays (or torch's tensors) by name, and the SHA-256 of its bytes."""

    arrays: Mapping[str, Any]
    sha256: str


def read(path: str | os.PathLike, sha256: str = '') -> WeightFile:
    """Reads a `.safetensors` or `.pth` file; the latter needs torch.

    Args:
        path: the file.
        sha256: how the SHA-256 of the file must begin.

    Raises:
        InputError: there is no such file, it is damaged or of another kind, or torch is missing.
    """
    path = Path(path).expanduser()
    check_suffix(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'weights {path} cannot be read: {error.strerror}') from None
    if not data:
        raise InputError(f'weights {path} are an empty file')
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(sha256):
        raise InputError(
            f'weights {path} have SHA-256 {found[: len(sha256)]}... instead of {sha256}...: the '
            'file is damaged, or has the name of another one; get it again'
        )
    return WeightFile(READERS[path.suffix](data, path), found)


def check_suffix(path: Path) -> None:
    """Raises InputError where files with the suffix of `path` cannot be read here."""
    if path.suffix not in READERS:
        raise InputError(
            f'weights {path} have the suffix {path.suffix!r}; allowed: {", ".join(READERS)}'
        )
    if path.suffix == '.pth':
        _torch(path)


def _torch(path: Path) -> Any:
    try:
        import torch
    except ImportError:
        raise InputError(
            f"reading {path.name} needs torch; install it (pip install 'metriclt-jax[torch]') or, "
            'where torch is, turn the file into .safetensors'
        ) from None
    return torch


def _read_safetensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    import safetensors

    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f'weights {path} are no intact safetensors file: {error}') from None
    arrays = {}
    for key, tensor in tensors:
        # The reader for NumPy knows no bfloat16.
        if tensor['dtype'] not in _SAFETENSORS_DTYPES:
            allowed = ', '.join(_SAFETENSORS_DTYPES)
            raise InputError(f'{key} of {path} is {tensor["dtype"]}; allowed: {allowed}')
        flat = np.frombuffer(tensor['data'], _SAFETENSORS_DTYPES[tensor['dtype']])
        arrays[key] = flat.reshape(tensor['shape'])
    return arrays


def _read_pth(data: bytes, path: Path) -> Mapping[str, Any]:
    torch = _torch(path)
    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # torch does not look at its checksums
            damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception:  # whatever an unpickler can stumble over
        raise InputError(
            f'weights {path} cannot be read: the file is damaged, or holds Python objects beside '
            'tensors, which are not loaded because they could run code'
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(
            f'weights {path} are a {type(content).__name__}; allowed: a mapping of tensors by name'
        )
    return content


READERS = {'.safetensors': _read_safetensors, '.pth': _read_pth}
