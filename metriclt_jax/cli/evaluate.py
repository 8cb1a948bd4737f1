"""`evaluate.py --workdir=DIR [--part=PART] [--dataset=NAME [--split=SPLIT]]`: metrics of a run.

On any part of the run's own data set, or on another prepared data set with the same classes.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from metriclt_jax.cli import hosts as hosts_flags
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError

if TYPE_CHECKING:
    from metriclt_jax.data import Dataset

_WORKDIR = flags.DEFINE_string('workdir', None, 'work directory of a finished run')
_PART = flags.DEFINE_enum(
    'part',
    None,
    ['train', 'validation', 'test', 'all'],
    'what to evaluate on; test if not given, and all images of another data set',
)
_DATASET = flags.DEFINE_string(
    'dataset', None, "another prepared data set with the same classes; the run's own if not given"
)
_SPLIT = flags.DEFINE_string(
    'split', None, 'how --dataset is divided: paper, grouped or official; its default if not given'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'prepared data; as in training if not given')
_STAGE = flags.DEFINE_string('stage', None, 'stage1 or stage2; the last stage if not given')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'last or best state')
_OUTPUT = flags.DEFINE_string('output', None, 'also write the metrics to this JSON file')
_PREDICTIONS = flags.DEFINE_string(
    'predictions', None, 'also write ids, labels, probabilities and features to this .npz file'
)
_CONFIG = flags.DEFINE_string(
    'config', None, 'config file of the training, needed if the method was added in it'
)
flags.mark_flag_as_required('workdir')
flags.adopt_module_key_flags(hosts_flags)


def evaluate() -> None:
    """Evaluates a state that a run left, on what the flags say; prints the metrics."""
    hosts_flags.connect()
    from metriclt_jax import hosts
    from metriclt_jax.devices import choose_devices
    from metriclt_jax.files import write_atomically
    from metriclt_jax.inference import finished_run, load
    from metriclt_jax.reports.terminal import summary_table
    from metriclt_jax.training.results import evaluate_part, predictions
    from metriclt_jax.training.setup import Run
    from metriclt_jax.training.stages import make_stages

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    cli.run_config_file(_CONFIG.value)
    workdir = Path(_WORKDIR.value).expanduser()
    output = _file_to_write('output', _OUTPUT.value)
    arrays = _file_to_write('predictions', _PREDICTIONS.value)
    config, results = hosts.together(lambda: finished_run(workdir))
    stages = make_stages(config)
    name = _STAGE.value or stages[-1].name
    devices = choose_devices()
    classifier = load(workdir, stage=name, checkpoint=_CHECKPOINT.value, devices=devices)
    other = _DATASET.value not in (None, config.data.name)
    part = _PART.value or ('all' if other else 'test')
    if _SPLIT.value and (not other or part == 'all'):
        raise InputError(
            f'--split is {_SPLIT.value}; allowed: with --dataset=NAME of another data set and a '
            "--part of it, for the run's own data set is divided as in training"
        )
    dataset = hosts.together(lambda: _load(config.data, part, results['class_names'], workdir))
    this = Run(
        config=config,
        workdir=workdir,
        devices=devices,
        stages=stages,
        dataset=dataset,
        groups=results['groups'],
        models={name: classifier.model},
        console=hosts.console(),
    )
    if part == 'all' and not other:
        this.console.print('part all includes the images that the run was trained on')
    (stage,) = (stage for stage in stages if stage.name == name)
    with hosts_flags.leaving():
        result = evaluate_part(this, stage, classifier.variables, part, features=arrays is not None)
    if result is None:
        raise InputError(f'{dataset.name} has no {part} part to evaluate')

    def write() -> None:
        if output:
            write_atomically(output, json.dumps(result.summary, indent=1) + '\n')
        if arrays:
            write_atomically(arrays, predictions(this, part, result.evaluation))

    hosts.on_first(write)
    title = f'{dataset.name} {part}, {name} {_CHECKPOINT.value}'
    this.console.print(summary_table(result.summary, dataset.class_names, this.groups, title))


def _load(own: ConfigDict, part: str, class_names: Sequence[str], workdir: Path) -> 'Dataset':
    """The data set that the flags name, with the run's classes."""
    from metriclt_jax.data import load_dataset
    from metriclt_jax.data.defaults import DEFAULTS, data_config
    from metriclt_jax.files import read_json

    name = _DATASET.value or own.name
    default = data_config(name if name in DEFAULTS else 'folder')
    data = ConfigDict(own if name == own.name else default).unlock()
    data.name, data.resize = name, own.resize
    data.data_dir = _DATA_DIR.value or own.data_dir
    data.split = _SPLIT.value or data.split
    if part == 'all':  # divided such that every image is in one part
        data.split, data.fractions = 'paper', (1.0, 0.0, 0.0)
        data.multiple_of, data.imbalance_ratio = 1, 0.0
    dataset = load_dataset(data)
    known = workdir / 'data.json'  # which runs of earlier versions do not have
    own_parts = name == own.name and part != 'all' and known.exists()
    if own_parts and read_json(known)['sha256'] != dataset.fingerprint:
        raise InputError(
            f'the images or parts of {name} in {data.data_dir} are not those that the run in '
            f'{workdir} was trained with, so its {part} part may hold training images; use the '
            'data that it was trained with, or --part=all'
        )
    if part == 'all':
        dataset = dataclasses.replace(dataset, parts={'all': dataset.parts['train']})
    return with_classes(dataset, class_names)


def with_classes(dataset: 'Dataset', class_names: Sequence[str]) -> 'Dataset':
    """The data set with its classes in the order of `class_names`.

    Raises:
        InputError: its classes are others.
    """
    more = [name for name in dataset.class_names if name not in class_names]
    fewer = [name for name in class_names if name not in dataset.class_names]
    if more or fewer:
        differences = [
            f'only {where} has {", ".join(names)}'
            for where, names in ((dataset.name, more), ('the run', fewer))
            if names
        ]
        raise InputError(
            f'data set {dataset.name} has other classes than the run ({"; ".join(differences)}); '
            'allowed: the same names, in any order'
        )
    new = np.array([*map(list(class_names).index, dataset.class_names), -1], np.int32)
    return dataclasses.replace(
        dataset,
        class_names=tuple(class_names),
        labels=new[dataset.labels],  # -1 stays -1
    )


def _file_to_write(flag: str, value: str | None) -> Path | None:
    path = value and Path(value).expanduser()
    if path and (path.is_dir() or not path.parent.is_dir()):
        raise InputError(f'--{flag} is {value}; allowed: a file in a folder that exists')
    return path


def main() -> None:
    """Entry point."""
    cli.run(evaluate)


if __name__ == '__main__':
    main()
