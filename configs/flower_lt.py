"""Flower-LT (Oxford Flowers): 102 classes, a long-tailed subset of the large official part.

    python scripts/prepare_data.py --dataset=flower_lt --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/flower_lt.py:ce_sc_crw --workdir=runs/flower_lt

The default is the paper's recipe (ResNet50 from scratch, 224 px, 200 + 10 epochs, learning rate
0.01); the paper reports 90.99 % of mean class recall for `ce_sc_crw` and 89.60 % for `ce_crw`. Not
measured here yet, at no scale. `scale=cpu` is a small variant for a laptop.

Training images come from the official part `test`, which is the large one, test images from
`train` and `validation` (20 a class); no image is left to validate on. The classes have too few
images for the whole curve of ratio 10, so that a rare class keeps what it has.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu(config) -> None:
    """As for the other data sets, longer, since an epoch is short."""
    cpu_scale(config)
    config.stage1.epochs = 40


def get_config(argument: str | None = None):
    """The config for METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('flower_lt')
    config.stage1.epochs = 200
    config.stage1.learning_rate = 0.01
    return apply_argument(config, argument, scales={'cpu': cpu})
