"""A trained classifier, from the work directory of a finished run."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from metriclt_jax.augment.geometry import AugmentConfig, center
from metriclt_jax.devices import AXIS, place, split
from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json
from metriclt_jax.methods import METHODS
from metriclt_jax.models import initialize
from metriclt_jax.training.checkpoints import StageCheckpoints
from metriclt_jax.training.stages import make_models, make_stages
from metriclt_jax.training.state import create_state
from metriclt_jax.training.workdir import read_config

K = TypeVar('K')


@dataclass(frozen=True)
class TrainedClassifier:
    """A model with its parameters and the geometry that its images go through.

    Attributes:
        class_names: names in the order of the probabilities.
        devices: those that share a batch; `variables` are on all of them.
        batch_size: images in a batch, over all devices.
    """

    model: nn.Module
    variables: Any
    augment: AugmentConfig
    class_names: tuple[str, ...]
    devices: tuple[jax.Device, ...]
    batch_size: int = 64

    def __post_init__(self):
        if self.batch_size < 1:
            raise InputError(f'batch_size is {self.batch_size}; allowed: 1 or more')

    def predict(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Class probabilities `[N, C]` float32.

        Args:
            images: uint8 `[N, H, W, 3]`, or a sequence of images of any sizes, each a uint8 array
                `[H, W, 3]`, a Pillow image or a path.
        """
        return self._outputs(images)[0]

    def features(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Features `[N, D]` float32 of the backbone; `images` as in `predict`."""
        return self._outputs(images)[1]

    def predict_stream(
        self, images: Iterable[tuple[K, Any]]
    ) -> Iterator[tuple[tuple[K, ...], np.ndarray]]:
        """Class probabilities of any number of images, of which few are in memory at a time.

        A batch is computed while the images of the next are taken from `images`.

        Args:
            images: pairs of a key (such as a name) and an image, which is as in `predict`.

        Yields:
            For each batch, in order, the keys of its n images and their probabilities `[n, C]`.
        """
        # Whole batches only: others compile to programs that round in other ways.
        devices = len(self.devices)
        size = -(-self.batch_size // devices) * devices
        for keys, (probabilities, _) in self._batches(images, size):
            yield keys, probabilities

    def fingerprint(self) -> str:
        """SHA-256 of all that decides over the probabilities: model, geometry, parameters."""
        digest = hashlib.sha256(repr((self.model, self.augment, self.class_names)).encode())
        for path, leaf in jax.tree_util.tree_leaves_with_path(self.variables):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.asarray(leaf).tobytes())
        return digest.hexdigest()

    def _outputs(self, images):
        is_sequence = hasattr(images, '__len__') and not isinstance(images, str)
        if not is_sequence or getattr(images, 'ndim', 4) == 3:
            raise InputError('one image was given; put it into a list: predict([image])')
        if not len(images):
            raise InputError('images is empty; allowed: one image or more')
        results = [outputs for _, outputs in self._batches(enumerate(images))]
        return tuple(np.concatenate(output) for output in zip(*results, strict=True))

    def _batches(self, images, size=0):
        step = _make_step(self.model, self.augment, self.devices)
        images = iter(images)
        under_way = None
        while some := list(itertools.islice(images, self.batch_size)):
            keys, chosen = zip(*some, strict=True)
            pixels = np.stack([_storage_image(image, self.augment.resize) for image in chosen])
            # A short last batch is filled up, so that one compiled function serves all.
            size = size or -(-len(keys) // len(self.devices)) * len(self.devices)
            filled = np.concatenate([pixels, np.repeat(pixels[:1], size - len(keys), axis=0)])
            divided = filled.reshape(len(self.devices), -1, *pixels.shape[1:])
            outputs = step(self.variables, jax.device_put(divided, split(self.devices)))
            if under_way is not None:
                yield _fetch(*under_way)
            under_way = keys, outputs
        if under_way is not None:
            yield _fetch(*under_way)


def load(
    workdir: str | Path,
    *,
    stage: str | None = None,
    checkpoint: str = 'last',
    devices: Sequence[jax.Device] | None = None,
) -> TrainedClassifier:
    """The classifier that a finished run in `workdir` ended with.

    Args:
        workdir: of a run whose method is known; a file that adds a method must be imported before.
        stage: 'stage1' or 'stage2'; the last one if None.
        checkpoint: 'last', or 'best' for the state that was best on the validation part.
        devices: those that share a batch; the first one of this process if None.

    Raises:
        InputError: `workdir` is no work directory, its run is not finished or its method unknown;
            or there is no such stage or state, or it has no trained classifier.
    """
    workdir = Path(workdir).expanduser()
    config, results = finished_run(workdir)
    class_names = tuple(results['class_names'])
    stages = make_stages(config)
    by_name = {one.name: one for one in stages}
    name = stage or stages[-1].name
    if name not in by_name:
        raise InputError(f'stage is {name}; allowed in {workdir}: {", ".join(by_name)}')
    chosen = by_name[name]
    if not chosen.trains_classifier:
        raise InputError(f'{name} of method {config.method} in {workdir} trains no classifier')
    model = make_models(config, stages, len(class_names))[name]
    like = create_state(chosen, initialize(model, 0), jax.random.key(0), 1, len(class_names))
    devices = tuple(devices or jax.local_devices()[:1])
    state = _restore(workdir / 'checkpoints' / name, checkpoint, place(like, devices))
    return TrainedClassifier(model, state.variables, chosen.augment, class_names, devices)


def finished_run(workdir: Path) -> tuple[ConfigDict, dict[str, Any]]:
    """Config and results of a finished run.

    Raises:
        InputError: `workdir` is no work directory, its run is not finished, or its method is of a
            file that was not imported.
    """
    config = read_config(workdir)
    if config.method not in METHODS:
        raise InputError(
            f'method {config.method} of {workdir} is no row of the package; import the file that '
            'adds it, which metriclt-evaluate and metriclt-predict do with --config=FILE'
        )
    if not (workdir / 'results.json').is_file():
        raise InputError(f'{workdir} has no results.json: its run is not finished; run it again')
    return config, read_json(workdir / 'results.json')


def read_image(path: str | os.PathLike, side: int) -> np.ndarray:
    """The image of a file as it is stored for training, uint8 `[side, side, 3]`.

    Raises:
        InputError: the message begins with 'image PATH cannot be'.
    """
    from metriclt_jax.data.decoding import decode

    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f'image {path} cannot be read: {error.strerror or error}') from None
    return decode(content, side, str(path))[0]


def _restore(directory, checkpoint, like):
    if not directory.exists():
        raise InputError(f'{directory} is missing: its run has no parameters to load')
    checkpoints = StageCheckpoints(directory)
    try:
        if checkpoint == 'last':
            return checkpoints.restore_latest_state(like)
        if checkpoint != 'best':
            raise InputError(f'checkpoint is {checkpoint}; allowed: last, best')
        if checkpoints.best_step() is None:
            raise InputError(f'{directory} has no best state: it was never validated')
        return checkpoints.restore_best_state(like)
    finally:
        checkpoints.close()


@cache
def _make_step(model, geometry, devices):

    def step(variables, images):
        outputs = model.apply(variables, center(images, geometry), train=False)
        return jax.nn.softmax(outputs.logits), outputs.features

    return jax.pmap(step, axis_name=AXIS, in_axes=(None, 0), devices=devices)


def _fetch(keys, outputs):
    """Waits for a batch; its outputs without the devices' axis and the filling."""
    arrays = [np.asarray(output) for output in outputs]
    return keys, tuple(array.reshape(-1, array.shape[-1])[: len(keys)] for array in arrays)


def _storage_image(image: Any, side: int) -> np.ndarray:
    from PIL import Image

    from metriclt_jax.data.decoding import to_storage

    if isinstance(image, str | os.PathLike):
        return read_image(image, side)
    if not isinstance(image, Image.Image):
        array = np.asarray(image)
        if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
            raise InputError(
                f'an image has dtype {array.dtype} and shape {array.shape}; allowed: uint8 '
                '[H, W, 3]'
            )
        if array.shape == (side, side, 3):
            return array
        image = Image.fromarray(array)
    try:
        return to_storage(image, side)
    except (InputError, OSError) as error:
        raise InputError(f'an image cannot be used: {error}') from None
