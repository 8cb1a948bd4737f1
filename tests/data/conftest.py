"""Data sets for the tests of the data package."""

import pytest

from metriclt_jax.config import data_fields
from metriclt_jax.data import prepare
from metriclt_jax.errors import InputError


@pytest.fixture(scope='session')
def data_config():
    """Returns the `data` part of a config, with the paper's split."""

    def make(data_dir, **fields):
        config = data_fields()
        config.update({'name': 'digits_lt', 'data_dir': str(data_dir), 'resize': 8} | fields)
        return config.lock()

    return make


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
    """A data folder with digits_lt prepared."""
    folder = tmp_path_factory.mktemp('digits')
    prepare('digits_lt', None, str(folder))
    return folder


@pytest.fixture
def assert_refused(tmp_path):
    """Asserts that a source is refused in one sentence, before records are written."""

    def check(dataset, source, match, name='', **options):
        with pytest.raises(InputError, match=match) as raised:
            prepare(dataset, str(source), str(tmp_path / 'data'), name, **options)
        assert '\n' not in str(raised.value)
        assert not list((tmp_path / 'data').glob('*/*/*'))

    return check
