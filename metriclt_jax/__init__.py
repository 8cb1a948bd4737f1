"""Metric learning embedded in two-stage training for long-tailed image classification."""
