"""A trained classifier, from the work directory of a finished run."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from metriclt_jax.augment.geometry import AugmentConfig, center
from metriclt_jax.data.decoding import decode, to_storage
from metriclt_jax.devices import AXIS, split
from metriclt_jax.errors import InputError, explained
from metriclt_jax.files import read_json
from metriclt_jax.methods import METHODS
from metriclt_jax.paths import reached, to_path
from metriclt_jax.training.checkpoints import restore_variables
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.workdir import read_config


@dataclass(frozen=True)
class TrainedClassifier:
    """A model with its parameters and preprocessing.

    `class_names` are in the order of the probabilities. Every one of the `devices` holds the
    variables; together they compute a batch of `batch_size` images.
    """

    model: nn.Module
    variables: Any
    augment: AugmentConfig
    class_names: tuple[str, ...]
    devices: tuple[jax.Device, ...]
    batch_size: int = 64

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f'batch_size is {self.batch_size}; it must be 1 or more')

    def predict(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Class probabilities `[N, C]` float32.

        `images` are uint8 `[N, H, W, 3]`, or a sequence of images of any sizes, each a uint8 array
        `[H, W, 3]`, a Pillow image or a path.
        """
        return self._outputs(images, 0)

    def features(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Features `[N, D]` float32 of the backbone; `images` as in `predict`."""
        return self._outputs(images, 1)

    def predict_stream(
        self, images: Iterable[tuple[Any, Any]]
    ) -> Iterator[tuple[tuple[Any, ...], np.ndarray]]:
        """Class probabilities of any number of images, few of which are in memory at a time.

        Takes pairs of a key (such as a name) and an image as in `predict`. Yields for each batch,
        in order, the keys of its n images and their probabilities `[n, C]`.
        """
        # A short batch is filled up: a program for another size would round differently.
        for keys, (probabilities, _) in self._batches(images, self.batch_size):
            yield keys, probabilities

    def fingerprint(self) -> str:
        """SHA-256 of all that determines the probabilities: model, preprocessing, parameters."""
        digest = hashlib.sha256(repr((self.model, self.augment, self.class_names)).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _outputs(self, images, index):
        is_sequence = hasattr(images, '__len__') and not isinstance(images, str)
        if not is_sequence or getattr(images, 'ndim', 4) in (2, 3):
            raise InputError('predict takes a list of images; for one image use predict([image])')
        if not len(images):
            raise InputError('images is empty; predict needs at least one image')
        batches = self._batches(enumerate(images), min(self.batch_size, len(images)))
        return np.concatenate([outputs[index] for _, outputs in batches])

    def _batches(self, images, size):
        """Keys and outputs; a batch is computed while the images of the next one are taken."""
        step = _make_step(self.model, self.augment, self.devices)
        size += -size % len(self.devices)  # each device gets equally many
        images = iter(images)
        in_flight = None
        while some := list(itertools.islice(images, self.batch_size)):
            keys, chosen = zip(*some, strict=True)
            pixels = np.stack([_to_storage(image, self.augment.resize) for image in chosen])
            filled = np.concatenate([pixels, np.repeat(pixels[:1], size - len(keys), axis=0)])
            divided = filled.reshape(len(self.devices), -1, *pixels.shape[1:])
            outputs = step(self.variables, jax.device_put(divided, split(self.devices)))
            if in_flight is not None:
                yield _fetch(*in_flight)
            in_flight = keys, outputs
        if in_flight is not None:
            yield _fetch(*in_flight)


def load(
    workdir: str | Path,
    *,
    stage: str | None = None,
    checkpoint: str = 'last',
    devices: Sequence[jax.Device] | None = None,
) -> TrainedClassifier:
    """Loads the classifier of a finished run.

    Args:
        workdir: the run's work directory, which may be gs://BUCKET/FOLDER. If a config file adds
            its method, import that file first.
        stage: 'stage1' or 'stage2'; None takes the last one.
        checkpoint: 'last', or 'best' for the step that validated best.
        devices: those that share a batch; None takes the first one of this process.
    """
    workdir = to_path(workdir)
    config, results = finished_run(workdir)
    class_names = tuple(results['class_names'])
    stages = {stage.name: stage for stage in make_stages(config)}
    name = stage or list(stages)[-1]
    if name not in stages:
        raise InputError(f'stage is {name!r}; {workdir} has {", ".join(stages)}')
    if not stages[name].trains_classifier:
        raise InputError(f'{name} of method {config.method} in {workdir} trains no classifier')
    model = make_models(config, tuple(stages.values()), len(class_names))[name]
    devices = tuple(devices or jax.local_devices()[:1])
    variables = restore_variables(workdir / 'checkpoints' / name, checkpoint, devices)
    return TrainedClassifier(model, variables, stages[name].augment, class_names, devices)


def finished_run(workdir: Path) -> tuple[ConfigDict, dict[str, Any]]:
    """Config and results of a run; raises `InputError` unless it is finished and can be loaded."""
    config = read_config(workdir)
    if config.method not in METHODS:
        raise InputError(
            f'method {config.method} of {workdir} is not part of the package; import the file that '
            'adds it (metriclt-evaluate and metriclt-predict: --config=FILE)'
        )
    with reached(workdir):
        if not (workdir / 'results.json').is_file():
            raise InputError(f'{workdir} has no results.json; run its train command to the end')
    return config, read_json(workdir / 'results.json')


def read_image(path: str | os.PathLike, side: int) -> np.ndarray:
    """The image of a file as it is stored for training, uint8 `[side, side, 3]`."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'image {path} cannot be read: {error.strerror or error}') from None
    return decode(content, side, str(path))[0]


@cache
def _make_step(model, augment, devices):

    def step(variables, images):
        outputs = model.apply(variables, center(images, augment), train=False)
        return jax.nn.softmax(outputs.logits), outputs.features

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def _fetch(keys, outputs):
    """Waits for a batch and drops the devices' axis and the filling."""
    return keys, [np.concatenate(np.asarray(output))[: len(keys)] for output in outputs]


def _to_storage(image: Any, side: int) -> np.ndarray:
    if isinstance(image, str | os.PathLike):
        return read_image(image, side)
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        _require_pixels(array)
        if array.shape == (side, side, 3):
            return array
        image = Image.fromarray(array)
    with explained('an image cannot be used'):
        return to_storage(image, side)


def _require_pixels(array: np.ndarray) -> None:
    """Raises `InputError` with what to do unless an array is uint8 `[H, W, 3]`."""
    if array.dtype == np.uint8 and array.ndim == 3 and array.shape[-1] == 3 and array.size:
        return
    if not array.size:
        advice = 'it must have at least one pixel'
    elif array.dtype != np.uint8:
        advice = (
            'convert it to uint8 of 0 to 255, as in (255 * image).round().astype(np.uint8) for '
            'values of 0 to 1'
        )
    elif array.ndim == 2 or array.shape[2:] == (1,):
        advice = 'repeat its gray: np.dstack([image] * 3)'
    elif array.ndim == 3 and array.shape[-1] == 4:
        advice = 'drop its fourth channel: image[..., :3]'
    elif array.ndim == 3 and array.shape[0] == 3:
        advice = 'put its channels last: image.transpose(1, 2, 0)'
    else:
        advice = 'it must be [H, W, 3]'
    raise InputError(
        f'an image has dtype {array.dtype} and shape {array.shape}, not uint8 [H, W, 3]; {advice}'
    )
