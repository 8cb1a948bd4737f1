"""digits_lt: the handwritten digits of the UCI repository, which come with scikit-learn."""

from metriclt_jax.data.sources.common import Example, Source, from_examples, to_png

CLASS_NAMES = tuple('0123456789')


def read_source(source: str | None = None) -> Source:
    """Returns the 1,797 digits, 8 x 8 and 0 to 255, as PNG images; `source` is ignored."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype('uint8')
    examples = (
        Example(f'digit_{index:04d}', int(label), '', to_png(image))
        for index, (image, label) in enumerate(zip(pixels, digits.target, strict=True))
    )
    return from_examples(CLASS_NAMES, examples)
