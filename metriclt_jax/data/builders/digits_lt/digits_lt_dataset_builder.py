"""TFDS builder of digits_lt: the handwritten digits that come with scikit-learn."""

import io

import tensorflow_datasets as tfds

from metriclt_jax.data import records

CLASS_NAMES = tuple('0123456789')


def check_source(source: str | None) -> None:
    """There is nothing to check: the images are part of scikit-learn, `source` is not used."""


def read_source(source: str | None = None) -> list[records.Example]:
    """Returns the 1,797 digits (8 x 8, grey, 0 to 16 stretched to 0 to 255) as PNG images."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype('uint8')
    examples = []
    for index, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, 'PNG')
        examples.append(records.Example(f'digit_{index:04d}', int(label), '', png.getvalue()))
    return examples


class Builder(tfds.core.GeneratorBasedBuilder):
    """Writes the records of digits_lt."""

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        return records.dataset_info(
            self,
            CLASS_NAMES,
            'Handwritten digits of the UCI repository, 8 x 8 pixels, as in scikit-learn.',
            'https://archive.ics.uci.edu/dataset/80',
        )

    def _split_generators(self, dl_manager):
        return {records.SPLIT: self._generate_examples()}

    def _generate_examples(self):
        yield from records.generate(self, read_source())
