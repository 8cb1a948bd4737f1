"""Dogs-LT (Stanford Dogs): 120 breeds, cut to a long tail of 100 to 10 training images.

    python scripts/prepare_data.py --dataset=dogs_lt --source=DIR
    python scripts/train.py --config=configs/dogs_lt.py:ce_sc_crw --workdir=runs/dogs_lt

The default is the paper's recipe: ResNet50 from scratch, 224 px, 200 + 10 epochs, learning rate
0.05. Not measured here yet; the paper reports a mean class recall of 34.49 % for `ce_sc_crw` and
29.04 % for `ce_crw`. `scale=cpu` is a small variant for a laptop.

The test split is the official one; no images are left for validation.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu(config) -> None:
    """The usual small variant, with more epochs because an epoch is short."""
    cpu_scale(config)
    config.stage1.epochs = 40


def get_config(argument: str | None = None):
    """The config of METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('dogs_lt')
    config.stage1.epochs = 200
    config.stage1.learning_rate = 0.05
    return apply_argument(config, argument, scales={'cpu': cpu})
