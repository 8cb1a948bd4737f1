"""Dogs-LT (Stanford Dogs): 120 breeds, thinned out to 100 to 10 images for training.

    python scripts/prepare_data.py --dataset=dogs_lt --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/dogs_lt.py:ce_sc_crw --workdir=runs/dogs_lt

The default is the paper's recipe (ResNet50 from scratch, 224 px, 200 + 10 epochs, learning rate
0.05); the paper reports 34.49 % of mean class recall for `ce_sc_crw` and 29.04 % for `ce_crw`. Not
measured here yet, at no scale. `scale=cpu` is a small variant for a laptop.

The official test part is the test part; no image is left to validate on.
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
    config.data = data_config('dogs_lt')
    config.stage1.epochs = 200
    config.stage1.learning_rate = 0.05
    return apply_argument(config, argument, scales={'cpu': cpu})
