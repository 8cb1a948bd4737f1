"""Set-up shared by all tests: eight CPU devices and one cache of compiled programs."""

import os
import shutil
import tempfile

import pytest

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
# Workers and the commands that tests start compile each program once between them.
_CACHE = 'JAX_COMPILATION_CACHE_DIR'
if 'PYTEST_XDIST_WORKER' not in os.environ:
    os.environ[_CACHE] = tempfile.mkdtemp(prefix='metriclt_tests_')
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


def pytest_unconfigure():
    """Removes the cache when the last process is done with it."""
    if 'PYTEST_XDIST_WORKER' not in os.environ:
        shutil.rmtree(os.environ[_CACHE], ignore_errors=True)


@pytest.fixture(scope='module', autouse=True)
def forget_compiled_programs():
    """Frees the programs of a test file: thousands of them exhaust a process's memory maps."""
    yield
    import jax

    jax.clear_caches()
