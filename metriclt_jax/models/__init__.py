"""Flax (linen) models: images in, features and logits out."""

from metriclt_jax.models.classifier import Classifier, Outputs, create_model, initialize

__all__ = ['Classifier', 'Outputs', 'create_model', 'initialize']
