"""`export.py --workdir=DIR --output=FILE [--format=stablehlo]`: a trained model for elsewhere.

stablehlo is the program from uint8 images to probabilities, which JAX alone can run on CPU, GPU and
TPU; torchvision is a .safetensors file with the parameters by torchvision's names.
"""

from absl import flags

from metriclt_jax.cli import main as cli

_WORKDIR = flags.DEFINE_string('workdir', None, 'work directory of a finished run')
_OUTPUT = flags.DEFINE_string('output', None, 'file to write')
_FORMAT = flags.DEFINE_enum('format', 'stablehlo', ['stablehlo', 'torchvision'], 'what to write')
_STAGE = flags.DEFINE_enum('stage', None, ['stage1', 'stage2'], 'stage; the last one by default')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'step of the stage')
_CONFIG = flags.DEFINE_string('config', None, 'config file of the training, if it adds the method')
flags.mark_flags_as_required(['workdir', 'output'])


@cli.command
def main() -> None:
    """Writes what the flags say."""
    from metriclt_jax import exporting
    from metriclt_jax.files import write_atomically
    from metriclt_jax.inference import finished_run, load
    from metriclt_jax.paths import to_path

    cli.run_config_file(_CONFIG.value)
    output = cli.file_to_write(_OUTPUT)
    config, _ = finished_run(to_path(_WORKDIR.value))
    classifier = load(_WORKDIR.value, stage=_STAGE.value, checkpoint=_CHECKPOINT.value)
    if _FORMAT.value == 'stablehlo':
        content = exporting.to_stablehlo(classifier)
    else:
        content = exporting.to_safetensors(classifier, config.model.name)
    write_atomically(output, content)
    side, names = classifier.augment.resize, ', '.join(classifier.class_names)
    print(f'{output}: {len(content) / 2**20:.1f} MiB; images of {side} x {side}; classes {names}')
