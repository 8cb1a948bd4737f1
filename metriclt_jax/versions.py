"""Versions of what a result depends on."""

import platform
from importlib import metadata

_PACKAGES = ('metriclt-jax', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'pillow')


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on."""
    found = {'python': platform.python_version()}
    return found | {name: metadata.version(name) for name in _PACKAGES}
