"""uint8 batches in, float batches out: on the device, pure in a key."""

from metriclt_jax.augment.geometry import AugmentConfig, augment, center
from metriclt_jax.augment.mixing import MIXINGS, Mixing

__all__ = ['MIXINGS', 'AugmentConfig', 'Mixing', 'augment', 'center']
