"""What a run needs before it trains: checked config, devices, data, stages and models."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.config import validate
from metriclt_jax.data import Dataset, load_dataset
from metriclt_jax.data.pipeline import steps_per_epoch
from metriclt_jax.devices import choose_devices, place
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.evaluate import Evaluation, evaluate
from metriclt_jax.models import Classifier, initialize
from metriclt_jax.models.pretrained import Pretrained, load
from metriclt_jax.models.resnet import split_branches
from metriclt_jax.progress import say
from metriclt_jax.training.stages import Stage, make_models, make_stages
from metriclt_jax.training.state import TrainState, create_state


@dataclass(frozen=True)
class Run:
    """What the stages of a run share; `models` are by the stage's name and differ in the head."""

    config: ConfigDict
    workdir: Path
    devices: tuple[jax.Device, ...]
    stages: tuple[Stage, ...]
    dataset: Dataset
    class_groups: dict[str, list[int]]
    models: dict[str, Classifier]
    console: Console

    def checkpoints(self, stage: Stage) -> Path:
        """The directory of a stage's checkpoints."""
        return self.workdir / 'checkpoints' / stage.name

    def steps_per_epoch(self, stage: Stage) -> int:
        """Updates in an epoch; the last incomplete batch is dropped."""
        return steps_per_epoch(self.dataset, stage.batch_size)

    def seed(self, stage: Stage) -> int:
        """The stage's own seed, for fresh parameters, order of images and augmentation."""
        name = [ord(letter) for letter in stage.name]
        return int(np.random.SeedSequence([self.config.seed, *name]).generate_state(1)[0])

    def initial_state(self, stage: Stage, previous: Any = None) -> TrainState:
        """The state at step 0 of a stage.

        `previous` are the variables that the stage before left, for the first stage those of
        `load_pretrained`; what they lack is random.
        """
        seed = self.seed(stage)
        variables = initialize(self.models[stage.name], seed)
        if previous is not None:
            fresh = variables['params']
            params = {**fresh, **previous['params']}
            if stage.fresh_head:
                params['head'] = fresh['head']
            variables = {**previous, 'params': params}
        key, classes = jax.random.key(seed), len(self.dataset.class_names)
        state = create_state(stage, variables, key, self.steps_per_epoch(stage), classes)
        return place(state, self.devices)

    def evaluate(self, stage: Stage, variables: Any, part: str, **options: Any) -> Evaluation:
        """The outputs of the stage's model for a part of the data set."""
        return evaluate(
            self.models[stage.name],
            variables,
            stage.augment,
            self.dataset,
            part,
            batch_size=self.config.evaluation.batch_size,
            devices=self.devices,
            **options,
        )

    def can_evaluate(self, stage: Stage, part: str) -> bool:
        """Whether the stage trained a classifier and the part has images."""
        return stage.trains_classifier and len(self.dataset.parts[part]) > 0

    def summarize(self, evaluation: Evaluation) -> dict[str, Any]:
        """The metrics of an evaluation as `results.json` has them."""
        return evaluation.summary(self.class_groups, self.dataset.class_names)


def check(config: ConfigDict) -> tuple[tuple[jax.Device, ...], tuple[Stage, ...]]:
    """The devices and stages of a config, checked as far as possible without data."""
    validate(config)
    devices = choose_devices(config.num_devices)
    stages = make_stages(config)
    make_models(config, stages, num_classes=2)
    for stage in stages:
        if stage.batch_size % len(devices):
            raise InputError(
                f'config field {stage.name}.batch_size is {stage.batch_size}; it must be a '
                f'multiple of the {len(devices)} devices (or set num_devices)'
            )
        group, images = config.model.batch_norm_group, stage.batch_size // len(devices)
        if group and (stage.batch_size % group or max(group, images) % min(group, images)):
            raise InputError(
                f'config field model.batch_norm_group is {group}; for {stage.name} it must divide '
                f'the {images} images of a device, or be that times a divisor of {len(devices)}'
            )
    return devices, stages


def make_run(config: ConfigDict, workdir: Path, console: Console) -> Run:
    """Checks the config, opens the data set and makes the models; compiles nothing."""
    devices, stages = check(config)
    dataset = load_dataset(config.data)
    for remark in dataset.remarks:
        say(remark, console)
    _look_for_every_class(dataset, console)
    class_groups = configured_groups(config.data, dataset.train_counts)
    models = make_models(config, stages, len(dataset.class_names))
    images = len(dataset.parts['train'])
    for stage in stages:
        if stage.batch_size > images:
            raise InputError(
                f'config field {stage.name}.batch_size is {stage.batch_size}, but '
                f'{dataset.name} has {images} training images'
            )
    return Run(config, workdir, devices, stages, dataset, class_groups, models, console)


def load_pretrained(config: ConfigDict) -> Pretrained | None:
    """The backbone that `config.model.pretrained` names, as variables of stage 1; None without."""
    model, stage = config.model, make_stages(config)[0]
    if not model.pretrained:
        return None
    options = {name: value for name, value in model.options.items() if value is not None}
    try:  # the head, of two classes, is not used
        loaded = load(model.pretrained, model.name, 2, key=jax.random.key(0), options=options)
    except InputError as error:
        raise InputError(f'config field model.pretrained: {error}') from None
    backbone = {kind: loaded.variables[kind]['backbone'] for kind in ('params', 'batch_stats')}
    if stage.branches > 1:
        backbone = {kind: split_branches(tree, stage.branches) for kind, tree in backbone.items()}
    variables = {kind: {'backbone': tree} for kind, tree in backbone.items()}
    return loaded._replace(variables=variables)


def _look_for_every_class(dataset: Dataset, console: Console) -> None:
    """Says which classes cannot be evaluated; raises `InputError` without any test image."""
    name, parts = dataset.name, dataset.parts
    if not len(parts['test']):
        raise InputError(
            f'the test part of {name} is empty; change data.fractions or data.test_parts'
        )
    for part in ('validation', 'test'):
        present = set(dataset.labels[parts[part]])
        missing = [c for label, c in enumerate(dataset.class_names) if label not in present]
        if missing and present:
            what = f'the {part} part of {name} has no image of {", ".join(missing)}'
            say(f'{what}: its metrics are means over the other classes', console)
