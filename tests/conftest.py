"""Set-up shared by all tests: eight CPU devices on any machine, before JAX starts."""

import os

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)


@pytest.fixture(scope='module', autouse=True)
def forget_compiled_programs():
    """Frees the programs of a test file: thousands of them exhaust a process' memory maps."""
    yield
    import jax

    jax.clear_caches()
