"""uint8 batches in, float batches out: on the device, pure in a key."""

from metriclt_jax.augment.geometry import Geometry, augment, center

__all__ = ['Geometry', 'augment', 'center']
