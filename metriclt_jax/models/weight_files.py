"""Files of weights: arrays by name, of safetensors, NumPy and torch. No code in a file is run."""

import argparse
import hashlib
import io
import pathlib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metriclt_jax.errors import InputError

# The package's own reader for NumPy lacks bfloat16.
_DTYPES = {'F64': 'f8', 'F32': 'f4', 'F16': 'f2', 'BF16': jnp.bfloat16, 'I64': 'i8'}
# What downloads are that went wrong, by their first bytes.
_NO_WEIGHTS = {
    b'version https://git-lfs': 'a pointer of Git LFS; fetch the file itself with "git lfs pull"',
    b'<': 'a web page; download the file itself',
}


def read(path: Path, sha256: str = '') -> tuple[Mapping[str, Any], str]:
    """The arrays (or torch's tensors) of a file by name, and the SHA-256 of its bytes.

    Files of torch may hold other things beside and around them, as checkpoints do. Raises
    `InputError` if the file cannot be read or its SHA-256 does not begin with `sha256`.
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
    for start, what in _NO_WEIGHTS.items():
        if data.startswith(start):
            raise InputError(f'weights {path} are {what}')
    return READERS[path.suffix.lower()](data, path), found


def check_suffix(path: Path) -> None:
    """Raises InputError if files with the suffix of `path` cannot be read here."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise InputError(f'weights {path} must end in {", ".join(READERS)}')
    if reader is _read_torch:
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


def _read_npz(data: bytes, path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return dict(file)
    except Exception:  # of zipfile, zlib and NumPy
        raise InputError(
            f'weights {path} cannot be read: the file is damaged, or holds Python objects'
        ) from None


def _read_torch(data: bytes, path: Path) -> Mapping[str, Any]:
    import torch

    try:
        if zipfile.is_zipfile(io.BytesIO(data)):  # torch does not look at its checksums
            archive = zipfile.ZipFile(io.BytesIO(data))
            if any(name.endswith('/constants.pkl') for name in archive.namelist()):
                raise InputError(
                    f'weights {path} are a TorchScript program; save its weights alone: '
                    "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pth')"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise zipfile.BadZipFile(damaged)
        with torch.serialization.safe_globals(_harmless()):
            content = torch.load(io.BytesIO(data), map_location='cpu', weights_only=True)
    except InputError:
        raise
    except Exception:  # whatever an unpickler can stumble over
        raise InputError(
            f'weights {path} cannot be read: the file is damaged, or holds Python objects other '
            'than tensors, which are not loaded because they could run code; save the tensors '
            "alone: torch.save(model.state_dict(), 'weights.pth')"
        ) from None
    if not isinstance(content, Mapping):
        raise InputError(f'weights {path} must be a mapping of tensors by name')
    return content


def _harmless() -> list[Any]:
    """What training scripts keep beside the weights: arguments, paths and numbers; no code."""
    numbers = [type(np.dtype(kind)) for kind in ('f2', 'f4', 'f8', 'i4', 'i8', '?')]
    scalar = np.float64(0).__reduce__()[0]
    # NumPy 1 called its module `core`.
    return [
        argparse.Namespace,
        *(pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePosixPath),
        *(np.dtype, *numbers, scalar, (scalar, 'numpy.core.multiarray.scalar')),
    ]


READERS = {
    '.safetensors': _read_safetensors,
    '.npz': _read_npz,
    **dict.fromkeys(('.pth', '.pt', '.bin', '.ckpt', '.tar'), _read_torch),  # .pth.tar
}
