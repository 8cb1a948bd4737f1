"""Two-stage training: `train` runs figure 1 of the paper from a config to `results.json`."""

from metriclt_jax.training.train import train

__all__ = ['train']
