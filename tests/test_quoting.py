"""Names in flags are taken as they are written."""

import pytest
from ml_collections import ConfigDict

from metriclt_jax import grids
from metriclt_jax.config import data_fields, validate_data
from metriclt_jax.errors import InputError
from metriclt_jax.quoting import quote_names

WRITTEN = {
    '7,8': ('7', '8'),
    '7': ('7',),
    '007,8': ('007', '8'),
    '1.0,1e5,0x1F': ('1.0', '1e5', '0x1F'),
    'None,True': ('None', 'True'),
    'naevus,': ('naevus',),
    'basal cell carcinoma, naevus': ('basal cell carcinoma', 'naevus'),
    "'7','8'": ('7', '8'),
    '("7", "8")': ('7', '8'),
    '(7, 8)': ('7', '8'),
    '[7,]': ('7',),
    "'warts, moles',7": ('warts, moles', '7'),
    "it's,odd": ("it's", 'odd'),
    "('it\\'s',)": ("it's",),
    '(a),(b)': ('(a)', '(b)'),
    'größe,漢': ('größe', '漢'),
    '()': (),
    '': (),
}


@pytest.mark.parametrize('text', WRITTEN)
def test_every_way_to_write_names(text):
    (argument,) = quote_names([f'--config.data.classes={text}'])
    config = ConfigDict({'data': data_fields()})
    grids._override(config, argument.removeprefix('--config.'))
    assert config.data.classes == WRITTEN[text]
    grids._override(config, f'data.test_parts={text}')
    assert config.data.test_parts == WRITTEN[text]


def test_a_repeated_flag_adds_names_and_other_flags_stay():
    given = ['train.py', '--config.data.classes=a', '--config.seed=7', '--config.data.classes=7']
    assert quote_names(given) == ['train.py', given[2], "--config.data.classes=('a', '7')"]
    others = ['--config.model.options.stage_sizes=(1,1)', '--config.data.name=7', '--classes=7,8']
    assert quote_names(others) == others


def test_numbers_in_a_config_file_are_refused():
    data = data_fields()
    data.classes = (7, 8)
    with pytest.raises(InputError, match=r'data.classes is \(7, 8\).* in quotes'):
        validate_data(data)
