"""`import_weights.py --model=NAME [--source=FILE] --output=DIR`: torchvision's weights to Orbax."""

import http.client
import tempfile
import urllib.request
from pathlib import Path

from absl import flags

from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

_URL = 'https://download.pytorch.org/models/'
_CHUNK = 2**20

_BACKBONES = ['resnet18', 'resnet50', 'densenet121', 'mobilenet_v2']
_MODEL = flags.DEFINE_enum('model', None, _BACKBONES, 'backbone')
_SOURCE = flags.DEFINE_string(
    'source', None, 'file of weights or a checkpoint; by default the official file is downloaded'
)
_OUTPUT = flags.DEFINE_string('output', None, 'directory to write, a new one')
flags.mark_flags_as_required(['model', 'output'])


@cli.command
def main() -> None:
    """Imports what the flags say, and prints how to use it."""
    from metriclt_jax.models import pretrained

    name, output = _MODEL.value, Path(_OUTPUT.value).expanduser()
    official, present = pretrained.TORCHVISION[name].file, None
    if output.is_file() or (output.is_dir() and any(output.iterdir())):
        present = pretrained.read_record(output)
    if _SOURCE.value is None and present is not None and present['file'] == official:
        print(f'{output} holds {name} from {official} already')
        return
    with tempfile.TemporaryDirectory() as folder:
        loaded = pretrained.load(_SOURCE.value or _download(official, Path(folder)), name)
    if present is None:
        pretrained.save(output, name, loaded)
        print(
            f'{output} holds {name} from {loaded.file} (SHA-256 {loaded.sha256[:8]}...); train '
            f'from it with --config.model.name={name} --config.model.pretrained={output}'
        )
    elif (present['model'], present['sha256']) == (name, loaded.sha256):
        print(f'{output} holds {name} from {loaded.file} already')
    else:
        raise InputError(
            f'--output {output} holds {present["model"]} from {present["file"]}; use another one'
        )


def _download(file: str, folder: Path) -> Path:
    """Fetches a file of torchvision into `folder`."""
    from metriclt_jax.models.weight_files import check_suffix
    from metriclt_jax.progress import track

    path, url = folder / file, _URL + file
    check_suffix(path)  # before a hundred megabytes come for nothing
    try:
        with urllib.request.urlopen(url, timeout=30) as response, path.open('wb') as out:
            size = int(response.headers.get('Content-Length', 0))
            chunks = iter(lambda: response.read(_CHUNK), b'')
            for chunk in track(chunks, f'downloading {file}', -(-size // _CHUNK)):
                out.write(chunk)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(
            f'{url} cannot be downloaded ({getattr(error, "reason", error)}); get it elsewhere and '
            'pass it as --source'
        ) from None
    return path
