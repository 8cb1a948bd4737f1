"""A trained classifier, from the work directory of a finished run."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from metriclt_jax.augment.geometry import Geometry, center
from metriclt_jax.devices import place
from metriclt_jax.errors import InputError
from metriclt_jax.models import initialize
from metriclt_jax.training.checkpoints import StageCheckpoints
from metriclt_jax.training.stages import make_geometry, make_models, make_stages
from metriclt_jax.training.state import create_state
from metriclt_jax.training.workdir import read_config


@dataclass(frozen=True)
class TrainedClassifier:
    """A model with its parameters and the geometry that its images go through.

    Attributes:
        class_names: names in the order of the probabilities.
    """

    model: nn.Module
    variables: Any
    geometry: Geometry
    class_names: tuple[str, ...]
    batch_size: int = 64

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

    def _outputs(self, images):
        is_sequence = hasattr(images, '__len__') and not isinstance(images, str)
        if not is_sequence or getattr(images, 'ndim', 4) == 3:
            raise InputError('one image was given; put it into a list: predict([image])')
        if not len(images):
            raise InputError('images is empty; allowed: one image or more')
        results = []
        for start in range(0, len(images), self.batch_size):
            some = images[start : start + self.batch_size]
            chunk = np.stack([_storage_image(image, self.geometry.resize) for image in some])
            # A short last batch is filled up, so that one compiled function serves all.
            fill = min(self.batch_size, len(images)) - len(chunk)
            padded = np.concatenate([chunk, np.repeat(chunk[:1], fill, axis=0)])
            outputs = _forward(self.model, self.geometry, self.variables, padded)
            results.append([np.asarray(output)[: len(chunk)] for output in outputs])
        return tuple(np.concatenate(output) for output in zip(*results, strict=True))


def load(workdir: str | Path) -> TrainedClassifier:
    """The classifier that a finished run in `workdir` ended with.

    Raises:
        InputError: `workdir` is no work directory, or its run is not finished.
    """
    workdir = Path(workdir).expanduser()
    config = read_config(workdir)
    results_path = workdir / 'results.json'
    if not results_path.is_file():
        raise InputError(f'{workdir} has no results.json: its run is not finished; run it again')
    results = json.loads(results_path.read_text())
    class_names = tuple(results['class_names'])
    stages = make_stages(config)
    if not stages[-1].trains_classifier:
        raise InputError(f'method {config.method} in {workdir} trains no classifier')
    stage = stages[-1]
    model = make_models(config, stages, len(class_names))[stage.name]
    like = create_state(stage, initialize(model, 0), jax.random.key(0), 1, len(class_names))
    directory = workdir / 'checkpoints' / stage.name
    if not directory.exists():
        raise InputError(f'{directory} is missing: {workdir} has no parameters to load')
    checkpoints = StageCheckpoints(directory)
    state = checkpoints.restore_latest_state(place(like, jax.local_devices()[:1]))
    checkpoints.close()
    return TrainedClassifier(model, state.variables, make_geometry(config), class_names)


@partial(jax.jit, static_argnums=(0, 1))
def _forward(model, geometry, variables, images):
    outputs = model.apply(variables, center(images, geometry), train=False)
    return jax.nn.softmax(outputs.logits), outputs.features


def _storage_image(image: Any, side: int) -> np.ndarray:
    from PIL import Image

    from metriclt_jax.data.decoding import to_storage

    if isinstance(image, str | Path):
        try:
            with Image.open(image) as opened:
                return to_storage(opened, side)
        except (OSError, ValueError, SyntaxError) as error:
            raise InputError(f'image {image} cannot be read: {error}') from None
    if isinstance(image, Image.Image):
        return to_storage(image, side)
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[-1] != 3:
        raise InputError(
            f'an image has dtype {array.dtype} and shape {array.shape}; allowed: uint8 [H, W, 3]'
        )
    return to_storage(Image.fromarray(array), side)
