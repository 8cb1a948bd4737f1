"""What a run needs before it trains: checked config, devices, data, model, stages."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from ml_collections import ConfigDict
from rich.console import Console

from metriclt_jax import hosts
from metriclt_jax.class_groups import configured_groups
from metriclt_jax.config import validate
from metriclt_jax.data import Dataset, load_dataset
from metriclt_jax.data.pipeline import steps_per_epoch
from metriclt_jax.devices import choose_devices, place
from metriclt_jax.errors import InputError
from metriclt_jax.models import Classifier, initialize
from metriclt_jax.models.pretrained import Pretrained, load
from metriclt_jax.models.resnet import split_branches
from metriclt_jax.training.checkpoints import StageCheckpoints
from metriclt_jax.training.stages import Stage, make_models, make_stages
from metriclt_jax.training.state import TrainState, create_state


@dataclass(frozen=True)
class Run:
    """What all stages of a run share."""

    config: ConfigDict
    workdir: Path
    devices: tuple[jax.Device, ...]
    stages: tuple[Stage, ...]
    dataset: Dataset
    groups: dict[str, list[int]]
    models: dict[str, Classifier]  # by the name of the stage; they differ in the head at most
    console: Console

    def checkpoints(self, stage: Stage) -> StageCheckpoints:
        """The checkpoints of a stage."""
        return StageCheckpoints(self.workdir / 'checkpoints' / stage.name)

    def latest_step(self, stage: Stage) -> int | None:
        """The step that the stage goes on from; None where it has not been saved."""
        directory = self.workdir / 'checkpoints' / stage.name
        if not hosts.of_first(directory.exists):
            return None
        checkpoints = self.checkpoints(stage)
        step = checkpoints.latest_step()
        checkpoints.close()
        return step

    def steps_per_epoch(self, stage: Stage) -> int:
        """Updates in an epoch; the last incomplete batch is dropped."""
        return steps_per_epoch(self.dataset, stage.batch_size)

    def seed(self, stage: Stage) -> int:
        """The stage's own seed: its fresh parameters, order of images and augmentation."""
        name = [ord(letter) for letter in stage.name]
        return int(np.random.SeedSequence([self.config.seed, *name]).generate_state(1)[0])

    def initial_state(self, stage: Stage, previous: Any = None) -> TrainState:
        """The state at step 0 of a stage.

        `previous` are the variables that the stage before left, or for the first those of
        `load_pretrained`; if None, all parameters are random.
        """
        seed = self.seed(stage)
        variables = initialize(self.models[stage.name], seed)
        if previous is not None:
            fresh = variables['params']
            params = {**fresh, **previous['params']}
            if stage.fresh_head:
                params['head'] = fresh['head']
            variables = {**previous, 'params': params}
        state = create_state(
            stage,
            variables,
            jax.random.key(seed),
            self.steps_per_epoch(stage),
            len(self.dataset.class_names),
        )
        return place(state, self.devices)


def make_run(config: ConfigDict, workdir: Path, console: Console) -> Run:
    """Checks the config, reads the data's index and makes the model; compiles and writes nothing.

    (A data set that is not in its cache yet is decoded into it.)
    """
    devices = choose_devices(config.num_devices)
    validate(config)
    stages = make_stages(config)
    make_models(config, stages, num_classes=2)  # what it refuses, it refuses before decoding
    dataset = load_dataset(config.data)
    if not len(dataset.parts['test']):
        _refuse_no_test_part(config.data)
    for part in ('validation', 'test'):
        _require_every_class(dataset, part)
    groups = configured_groups(config.data, dataset.train_counts)
    models = make_models(config, stages, len(dataset.class_names))
    return Run(config, workdir, devices, stages, dataset, groups, models, console)


def load_pretrained(this: Run) -> Pretrained | None:
    """What `config.model.pretrained` names, as variables of the run's model; None if it is empty.

    The backbone, parameters and statistics, is the file's; all else is random. Compiles and writes
    nothing.

    Raises:
        InputError: the weights cannot be read or do not fit the model.
    """
    config = this.config.model
    if not config.pretrained:
        return None
    options = {name: value for name, value in config.options.items() if value is not None}
    seed = this.seed(this.stages[0])
    try:
        loaded = load(
            config.pretrained,
            config.name,
            len(this.dataset.class_names),
            key=jax.random.key(seed),
            options=options,
        )
    except InputError as error:
        raise InputError(f'config field model.pretrained: {error}') from None
    variables = initialize(this.models[this.stages[0].name], seed)
    backbone = loaded.variables['params']['backbone']
    statistics = loaded.variables['batch_stats']['backbone']
    branches = this.stages[0].branches
    if branches > 1:
        backbone = split_branches(backbone, branches)
        statistics = split_branches(statistics, branches)
    variables['params']['backbone'] = backbone
    variables['batch_stats'] = {'backbone': statistics}
    return loaded._replace(variables=variables)


def check_batches(this: Run) -> None:
    """Checks that the devices divide each stage's batch and that the data fill one."""
    for stage in this.stages:
        if stage.batch_size % len(this.devices):
            raise InputError(
                f'config field {stage.name}.batch_size is {stage.batch_size}, which the '
                f'{len(this.devices)} devices do not divide; allowed: a multiple of '
                f'{len(this.devices)} (or set num_devices)'
            )
        this.steps_per_epoch(stage)  # raises if there is not even one


def _refuse_no_test_part(data: ConfigDict) -> NoReturn:
    if data.split == 'official':
        raise InputError(
            f'config field data.test_parts is {tuple(data.test_parts)}, where {data.name} has no '
            'image of the classes that are kept; allowed: parts with an image of each'
        )
    raise InputError(
        f'config field data.fractions is {tuple(data.fractions)}, which leaves no test part; '
        'allowed: a third number above 0'
    )


def _require_every_class(dataset: Dataset, part: str) -> None:
    labels = dataset.labels[dataset.parts[part]]
    counts = np.bincount(labels, minlength=len(dataset.class_names))
    if len(labels) and not counts.all():
        missing = [dataset.class_names[c] for c in np.flatnonzero(counts == 0)]
        raise InputError(
            f'the {part} part of {dataset.name} has no image of {", ".join(missing)}, so there is '
            'no mean class recall; allowed: at least one image of each class, or no such part'
        )
