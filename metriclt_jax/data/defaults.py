"""How each data set is divided by default, as data.

The facts of the paper (section 3.1, table 1); where it is silent, the choices that
docs/fidelity.md lists. The files in `configs/` start from here.
"""

from typing import Any

from ml_collections import ConfigDict

from metriclt_jax.config import data_fields

DEFAULTS: dict[str, dict[str, Any]] = {
    'digits_lt': {'fractions': (0.6, 0.1, 0.3), 'imbalance_ratio': 20.0},
    # The official validation and test images, where the source has them, are not divided.
    'skin7': {'minor': 2, 'divided_parts': ('train',)},
    # The nine of ChestX-ray14's 14 findings whose single-finding images, cut to a multiple of five,
    # give table 1.
    'xray9': {
        'classes': (
            'Atelectasis', 'Effusion', 'Nodule', 'Pneumothorax', 'Mass', 'Cardiomegaly',
            'Emphysema', 'Edema', 'Hernia',
        ),
        'multiple_of': 5,
    },
    'pathmnist_lt': {
        'split': 'official',
        'imbalance_ratio': 100.0, 'long_tail_max': 'first',
        'long_tail_order': 'ADI,BACK,DEB,TUM,MUC,NORM,STR,MUS,LYM',
    },
    # The large official part is the one to train on.
    'flower_lt': {
        'split': 'official', 'train_parts': ('test',), 'validation_parts': (),
        'test_parts': ('train', 'validation'),
        'imbalance_ratio': 10.0, 'long_tail_max': 'first', 'long_tail_order': 'size',
        'groups': 'thirds',
    },
    'dogs_lt': {
        'split': 'official', 'validation_parts': (),
        'imbalance_ratio': 10.0, 'long_tail_max': 'first', 'long_tail_rounding': 'down',
        'groups': 'thirds',
    },
    # Works for any number of classes, and for parts and groups or none.
    'folder': {'split': 'auto', 'major': 1, 'minor': 1},
    # The rest of the MedMNIST family, as published.
    'dermamnist': {'split': 'official'},
    'bloodmnist': {'split': 'official'},
    'tissuemnist': {'split': 'official'},
    'organamnist': {'split': 'official'},
    'organcmnist': {'split': 'official'},
    'organsmnist': {'split': 'official'},
    'octmnist': {'split': 'official', 'major': 1, 'minor': 1},
    'retinamnist': {'split': 'official', 'major': 1, 'minor': 1},
    'pneumoniamnist': {'split': 'official', 'major': 1, 'minor': 1},
    'breastmnist': {'split': 'official', 'major': 1, 'minor': 1},
}  # fmt: skip


def data_config(dataset: str) -> ConfigDict:
    """Returns the `data` part of the config of a data set, a key of DEFAULTS."""
    config = data_fields()
    config.name = dataset
    config.update(DEFAULTS[dataset])
    return config
