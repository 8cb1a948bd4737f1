"""A trained classifier as a file that runs without this package."""

import json

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from metriclt_jax.augment.geometry import center
from metriclt_jax.errors import InputError
from metriclt_jax.inference import TrainedClassifier
from metriclt_jax.models.pretrained import to_torchvision

PLATFORMS = ('cpu', 'cuda', 'tpu')


def to_stablehlo(classifier: TrainedClassifier) -> bytes:
    """The program from images to probabilities for `PLATFORMS`, with its parameters inside.

    `jax.export.deserialize(content).call(images)` takes uint8 `[B, R, R, 3]` for any B, where R is
    `data.resize` of the training, and returns float32 `[B, C]`; it needs JAX and flatbuffers.
    """
    variables = jax.device_get(classifier.variables)

    @jax.jit
    def predict(images):
        inputs = center(images, classifier.augment)
        return jax.nn.softmax(classifier.model.apply(variables, inputs, train=False).logits)

    side = classifier.augment.resize
    (batch,) = jax.export.symbolic_shape('B')
    images = jax.ShapeDtypeStruct((batch, side, side, 3), jnp.uint8)
    return bytes(jax.export.export(predict, platforms=PLATFORMS)(images).serialize())


def to_safetensors(classifier: TrainedClassifier, model: str) -> bytes:
    """The parameters of a backbone and its head by torchvision's names, for `load_state_dict`.

    `model` is their name, as in `create_model`. The metadata hold the names of the classes and the
    preprocessing. Raises `InputError` for a head that torchvision's network does not have.
    """
    from safetensors.numpy import save

    if classifier.model.head != 'linear':
        raise InputError(
            f'the head is {classifier.model.head}, which torchvision does not have; export the '
            'program (--format=stablehlo), or a run whose second stage trains a linear head'
        )
    variables = jax.device_get(classifier.variables)
    for tree in variables.values():
        tree.pop('projection', None)
    arrays = to_torchvision(variables, model)
    seen = classifier.augment
    steps = {'resize': 2 * [seen.resize], 'center_crop': seen.crop}
    steps |= {'mean': seen.mean, 'std': seen.std}
    names = list(classifier.class_names)
    about = {'model': model, 'class_names': names, 'preprocessing': steps}
    metadata = {name: json.dumps(value) for name, value in about.items()}
    return save({key: np.ascontiguousarray(array) for key, array in arrays.items()}, metadata)
