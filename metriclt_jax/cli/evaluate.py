"""`evaluate.py --workdir=DIR [--part=PART] [--dataset=NAME [--split=SPLIT]]`: metrics of a run.

On any part of the run's own data set, or on another prepared data set: on its images of the run's
classes, of which some may be missing.
"""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags
from ml_collections import ConfigDict

from metriclt_jax.cli import hosts as hosts_flags
from metriclt_jax.cli import main as cli
from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json, write_atomically
from metriclt_jax.paths import to_path
from metriclt_jax.progress import say

_WORKDIR = flags.DEFINE_string('workdir', None, 'work directory of a finished run')
_PART = flags.DEFINE_enum(
    'part', None, ['train', 'validation', 'test', 'all'], 'default: test; all of another data set'
)
_DATASET = flags.DEFINE_string('dataset', None, 'another prepared data set with classes of the run')
_SPLIT = flags.DEFINE_string(
    'split', None, 'how --dataset is divided: auto, paper, grouped or official (default: its own)'
)
_DATA_DIR = flags.DEFINE_string('data_dir', None, 'prepared data (default: as in training)')
_STAGE = flags.DEFINE_string('stage', None, 'stage1 or stage2 (default: the last stage)')
_CHECKPOINT = flags.DEFINE_enum('checkpoint', 'last', ['last', 'best'], 'which state of the stage')
_OUTPUT = flags.DEFINE_string('output', None, 'also write the metrics to this JSON file')
_PREDICTIONS = flags.DEFINE_string(
    'predictions', None, 'also write ids, labels, probabilities and features to this .npz file'
)
_CONFIG = flags.DEFINE_string('config', None, 'config file of the training, if it adds the method')
flags.mark_flag_as_required('workdir')
flags.adopt_module_key_flags(hosts_flags)


@cli.command
def main() -> None:
    """Evaluates a trained state on what the flags say and prints the metrics."""
    hosts_flags.connect()
    from metriclt_jax import hosts
    from metriclt_jax.devices import choose_devices
    from metriclt_jax.evaluation.evaluate import evaluate
    from metriclt_jax.inference import finished_run, load
    from metriclt_jax.reports.terminal import summary_table

    cli.keep_freed_memory()
    cli.keep_compiled_programs()
    cli.run_config_file(_CONFIG.value)
    workdir = to_path(_WORKDIR.value)
    with hosts.together():
        output, predictions = cli.file_to_write(_OUTPUT), cli.file_to_write(_PREDICTIONS)
        config, results = finished_run(workdir)
    stage = _STAGE.value or results['stages'][-1]['name']
    other = _DATASET.value not in (None, config.data.name)
    part = _PART.value or ('all' if other else 'test')
    if _SPLIT.value and (not other or part == 'all'):
        raise InputError(
            '--split applies only to another data set; pass --dataset=NAME and --part=PART (the '
            "run's own data keep the split of the training)"
        )
    devices = choose_devices()
    with hosts.together():
        classifier = load(workdir, stage=stage, checkpoint=_CHECKPOINT.value, devices=devices)
        dataset = _load(config.data, part, workdir)
        if not len(dataset.parts[part]):
            raise InputError(f'{dataset.name} has no {part} part to evaluate')
        dataset, left_out = with_classes(dataset, part, results['class_names'])
    console = hosts.console()
    if part == 'all' and not other:
        say('part all includes the images that the run was trained on', console)
    if left_out:
        what = ', '.join(f'{count} of {name}' for name, count in left_out.items())
        say(f'left out: images of classes that the run does not know ({what})', console)
    if other:
        say(_overlap(workdir, config.data, dataset, part), console)
    with hosts_flags.leaving():
        evaluation = evaluate(
            classifier.model,
            classifier.variables,
            classifier.augment,
            dataset,
            part,
            batch_size=config.evaluation.batch_size,
            devices=devices,
            features=hosts.any_of(predictions is not None),
        )
    summary = evaluation.summary(results['groups'], dataset.class_names)
    with hosts.together():
        if output and hosts.is_first():
            write_atomically(output, json.dumps(summary, indent=1) + '\n')
        if predictions and hosts.is_first():
            write_atomically(predictions, evaluation.to_npz())
    title = f'{dataset.name} {part}, {stage} {_CHECKPOINT.value}'
    console.print(summary_table(summary, dataset.class_names, results['groups'], title))


def _load(own: ConfigDict, part: str, workdir: Path) -> Any:
    """The data set that the flags name."""
    from metriclt_jax.data import load_dataset
    from metriclt_jax.data.defaults import DEFAULTS, data_config

    name = _DATASET.value or own.name
    default = data_config(name if name in DEFAULTS else 'folder')
    data = ConfigDict(own if name == own.name else default).unlock()
    data.name, data.resize = name, own.resize
    data.data_dir = _DATA_DIR.value or own.data_dir
    data.split = _SPLIT.value or data.split
    own_parts = name == own.name and part != 'all'
    dataset = load_dataset(data, None if own_parts else part)
    known = workdir / 'data.json'
    if own_parts and known.exists() and read_json(known)['sha256'] != dataset.fingerprint:
        raise InputError(
            f'the images or parts of {name} in {data.data_dir} changed since {workdir} was '
            f'trained, so the {part} part might contain training images; use the old, or --part=all'
        )
    return dataset


def _overlap(workdir: Path, own: ConfigDict, dataset: Any, part: str) -> str:
    """Says how many of the evaluated images the run was trained on, under whatever name."""
    from metriclt_jax.data import load_dataset
    from metriclt_jax.data.cache import cache_path
    from metriclt_jax.data.leaks import SEEN_IMAGES, seen_images

    if not (workdir / SEEN_IMAGES).exists():
        return (
            f'whether the training part had images of {dataset.name} is not known, as an older '
            f'version trained {workdir}'
        )
    seen, how = (workdir / SEEN_IMAGES).read_bytes(), 'checksums'
    counts = seen_images(seen, dataset.images, dataset.parts[part])
    if any(counts.values()) and cache_path(own.name, own.resize, own.data_dir).exists():
        with contextlib.suppress(InputError):  # as images that changed meanwhile may raise
            trained_on = load_dataset(own)
            if trained_on.fingerprint == read_json(workdir / 'data.json')['sha256']:
                counts = seen_images(seen, dataset.images, dataset.parts[part], trained_on.images)
                how = 'pixels'
    return (
        f'of the {len(dataset.parts[part])} images of {dataset.name}, the training part of the run '
        f'has {counts["train"]} and its validation part {counts["validation"]} (by their {how})'
    )


def with_classes(dataset: Any, part: str, class_names: Sequence[str]) -> tuple[Any, dict[str, int]]:
    """A part of the data set with the classes `class_names`, and what it loses of each other."""
    indices, names = dataset.parts[part], list(class_names)
    counts = np.bincount(dataset.labels[indices], minlength=len(dataset.class_names))
    counts = dict(zip(dataset.class_names, counts.tolist(), strict=True))
    left_out = {name: count for name, count in counts.items() if count and name not in names}
    if sum(left_out.values()) == len(indices):
        raise InputError(
            f'the {part} part of {dataset.name} has no image of a class that the run knows '
            f'({", ".join(names)}); its classes are {", ".join(left_out)}'
        )
    new = [names.index(name) if name in names else -1 for name in dataset.class_names]
    labels = np.array([*new, -1], np.int32)[dataset.labels]  # -1 stays -1
    parts = {part: indices[labels[indices] >= 0]}
    changed = {'class_names': tuple(names), 'labels': labels, 'parts': parts}
    return dataclasses.replace(dataset, **changed), left_out
