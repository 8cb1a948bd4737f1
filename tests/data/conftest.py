"""Data sets for the tests of the data package."""

import pytest
from ml_collections import ConfigDict


def data_config(data_dir, **fields):
    """The `data` part of a config, with the paper's split."""
    defaults = {
        'name': 'digits_lt',
        'data_dir': str(data_dir),
        'split': 'paper',
        'fractions': (0.75, 0.05, 0.2),
        'split_seed': 0,
        'imbalance_ratio': 0.0,
        'major': 3,
        'minor': 3,
        'resize': 8,
    }
    return ConfigDict(defaults | fields).lock()


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
