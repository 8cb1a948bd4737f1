"""Long-tailed handwritten digits: the built-in example, nothing to download.

    python scripts/train.py --config=configs/digits_lt.py:ce_sc_crw --workdir=runs/digits

Expect a mean class recall of about 86 to 90 % after stage 1 and 92 to 95 % after stage 2, depending
on the seed and the number of cores, in about a minute on two CPU cores (docs/digits.md).
"""

from metriclt_jax.config import apply_argument, paper_config
from metriclt_jax.data.defaults import data_config


def get_config(argument: str | None = None):
    """The config of METHOD."""
    config = paper_config()
    config.data = data_config('digits_lt')
    config.data.resize = 20
    config.augment.crop = 16
    config.augment.rotation = 15.0
    config.augment.flip = 0.0  # a mirrored digit is not a digit
    config.model.name = 'resnet18'
    config.model.options.stage_sizes = (1, 1, 1)
    config.model.options.width = 16
    config.model.options.stem = 'small'
    config.metric.supervised_contrastive.projection = (128, 128, 64)
    config.metric.balanced_contrastive.projection = (128, 128, 64)
    config.stage1.epochs = 40
    config.stage1.learning_rate = 0.05
    config.stage2.epochs = 10
    config.evaluation.every = 2
    config.checkpoint_every = 5
    return apply_argument(config, argument, scales={})
