"""Data sets for the tests of the data package."""

import pytest

from metriclt_jax.config import data_fields


def data_config(data_dir, **fields):
    """The `data` part of a config, with the paper's split."""
    config = data_fields()
    config.update({'name': 'digits_lt', 'data_dir': str(data_dir), 'resize': 8} | fields)
    return config.lock()


@pytest.fixture(name='data_config')
def data_config_fixture():
    return data_config


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory):
    """A data folder with digits_lt prepared."""
    from metriclt_jax.data import prepare

    folder = tmp_path_factory.mktemp('digits')
    prepare('digits_lt', None, str(folder))
    return folder
