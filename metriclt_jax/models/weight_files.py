"""Files of weights: arrays by name, out of `.safetensors` and `.pth`. No code in a file is run."""

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metriclt_jax.errors import InputError

# The package's own reader for NumPy lacks bfloat16.
_DTYPES = {
    'F64': np.float64,
    'F32': np.float32,
    'F16': np.float16,
    'BF16': jnp.bfloat16,
    'I64': np.int64,
}


def read(path: Path, sha256: str = '') -> tuple[Mapping[str, Any], str]:
    """The arrays (or torch's tensors) of a file by name, and the SHA-256 of its bytes.

    Raises InputError if the file cannot be read or its SHA-256 does not begin with `sha256`.
    """
    check_suffix(path)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f'weights {path} cannot be read: {error.strerror}') from None
    found = hashlib.sha256(data).hexdigest()
    if not found.startswith(sha256):
        raise InputError(
            f'weights {path} are damaged or another file (SHA-256 {found[: len(sha256)]}... '
            f'instead of {sha256}...); get them again'
        )
    return READERS[path.suffix](data, path), found


def check_suffix(path: Path) -> None:
    """Raises InputError if files with the suffix of `path` cannot be read here."""
    if path.suffix not in READERS:
        raise InputError(f'weights {path} must end in {" or ".join(READERS)}')
    if path.suffix == '.pth':
        try:
            import torch  # noqa: F401 (slow, and optional)
        except ImportError:
            raise InputError(
                f"reading {path.name} needs torch; install it (pip install 'metriclt-jax[torch]') "
                'or convert the file to .safetensors elsewhere'
            ) from None


def _read_safetensors(data: bytes, path: Path) -> dict[str, np.ndarray]:
    import safetensors

    arrays = {}
    try:
        tensors = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise InputError(f'weights {path} are not an intact safetensors file: {error}') from None
    for key, tensor in tensors:
        if tensor['dtype'] not in _DTYPES:
            raise InputError(f'{key} of {path} is {tensor["dtype"]}; it must be floating-point')
        array = np.frombuffer(tensor['data'], _DTYPES[tensor['dtype']])
        arrays[key] = array.reshape(tensor['shape'])
    return arrays


def _read_pth(data: bytes, path: Path) -> Mapping[str, Any]:
    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # torch does not look at its checksums
            damaged = zipfile.ZipFile(io.BytesIO(data)).testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except Exception:  # whatever an unpickler can stumble over
        raise InputError(
            f'weights {path} cannot be read: the file is damaged, or holds Python objects other '
            'than tensors, which are not loaded because they could run code'
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f'weights {path} must be a mapping of tensors by name')
    return content


READERS = {'.safetensors': _read_safetensors, '.pth': _read_pth}
