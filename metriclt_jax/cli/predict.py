"""`predict.py --workdir=DIR --images=DIR --output=FILE.csv`: class probabilities of images."""

import dataclasses

from absl import flags

from metriclt_jax.cli import main as cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'work directory of a finished run')
_IMAGES = flags.DEFINE_string('images', None, 'folder of images, searched recursively')
_OUTPUT = flags.DEFINE_string('output', None, 'CSV file to write or to resume')
_SKIP_BAD_FILES = flags.DEFINE_bool('skip_bad_files', False, 'skip and list unreadable files')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', 64, 'images in a batch, over all devices')
_CONFIG = flags.DEFINE_string('config', None, 'config file of the training, if it adds the method')
flags.mark_flags_as_required(['workdir', 'images', 'output'])


@cli.command
def main() -> None:
    """Predicts what the flags say."""
    import jax
    from rich.console import Console

    from metriclt_jax.inference import load
    from metriclt_jax.paths import local_path
    from metriclt_jax.predictions import predict_folder

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    cli.run_config_file(_CONFIG.value)
    classifier = load(_WORKDIR.value, devices=jax.local_devices())
    predict_folder(
        dataclasses.replace(classifier, batch_size=_BATCH_SIZE.value),
        local_path(_IMAGES.value),
        local_path(_OUTPUT.value),
        Console(),
        skip_bad_files=_SKIP_BAD_FILES.value,
    )
