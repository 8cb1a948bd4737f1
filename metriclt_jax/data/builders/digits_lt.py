"""digits_lt: the handwritten digits of the UCI repository, which come with scikit-learn."""

import io

from metriclt_jax.data.builders.source import Source, from_examples
from metriclt_jax.data.records import Example

CLASS_NAMES = tuple('0123456789')


def read_source(source: str | None = None) -> Source:
    """Returns the 1,797 digits (8 x 8, grey, 0 to 16 stretched to 0 to 255) as PNG images.

    `source` is not used, as there are no files to read.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype('uint8')
    examples = []
    for index, (image, label) in enumerate(zip(pixels, digits.target, strict=True)):
        png = io.BytesIO()
        Image.fromarray(image).save(png, 'PNG')
        examples.append(Example(f'digit_{index:04d}', int(label), '', png.getvalue()))
    return from_examples(CLASS_NAMES, examples)
