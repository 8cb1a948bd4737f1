"""Flower-LT (Oxford Flowers): 102 classes, a long-tailed subset of the large official split.

    python scripts/prepare_data.py --dataset=flower_lt --source=DIR
    python scripts/train.py --config=configs/flower_lt.py:ce_sc_crw --workdir=runs/flower_lt

The default is the paper's recipe: ResNet50 from scratch, 224 px, 200 + 10 epochs, learning rate
0.01. Not measured here yet; the paper reports a mean class recall of 90.99 % for `ce_sc_crw` and
89.60 % for `ce_crw`. `scale=cpu` is a small variant for a laptop.

Training images come from the official split `test`, the large one, and test images from `train` and
`validation` (20 per class); none are left for validation. The classes have too few images for a
full curve of ratio 10, so rare classes keep all they have.
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
    config.data = data_config('flower_lt')
    config.stage1.epochs = 200
    config.stage1.learning_rate = 0.01
    return apply_argument(config, argument, scales={'cpu': cpu})
