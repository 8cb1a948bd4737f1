"""Metric learning embedded in two-stage training for long-tailed image classification.

The pure losses are in `metriclt_jax.losses`, the models in `metriclt_jax.models`; `load` opens the
work directory of a finished run.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metriclt_jax.inference import TrainedClassifier, load

__all__ = ['TrainedClassifier', 'load']


def __getattr__(name: str):
    # Inference brings Orbax and the data code; who only wants a loss does not wait for them.
    if name == '__version__':
        from importlib import metadata

        return metadata.version('metriclt-jax')
    if name in ('TrainedClassifier', 'load'):
        from metriclt_jax import inference

        return getattr(inference, name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
