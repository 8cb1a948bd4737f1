"""Skin7 (ISIC 2018 task 3, HAM10000): 10,015 dermoscopic images, 7 classes.

    python scripts/prepare_data.py --dataset=skin7 --source=DIR
    python scripts/train.py --config=configs/skin7.py:ce_sc_crw --workdir=runs/skin7

The default is the paper's recipe: ResNet50, 224 px, 100 + 10 epochs. `scale=cpu` is a small variant
from scratch for a laptop: expect a mean class recall of about 60 % for `ce_tp_crw` and 56 % for
`ce_crw`, give or take a few points. `scale=cpu_mobilenet_v2` fine-tunes ImageNet weights: expect
about 57 to 61 % for `ce_crw` and 59 to 63 % for `ce_sc_crw`. Both take six to ten minutes on two
CPU cores (docs/skin7.md).

The published split is by image, and many lesions have several: `--config.data.split=grouped` keeps
each lesion in one split and is the one to trust.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu_mobilenet_v2(config) -> None:
    """MobileNetV2 at 64 px for ten epochs, from `--config.model.pretrained=FILE`."""
    config.data.resize = 72
    config.augment.crop = 64
    config.model.name = 'mobilenet_v2'
    config.stage1.epochs = 10
    config.stage1.warmup_epochs = 1
    config.stage1.learning_rate = 0.01
    config.stage2.epochs = 4
    config.stage2.learning_rate = 0.01  # at 0.1 four epochs end above the loss of a uniform guess


def get_config(argument: str | None = None):
    """The config of METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('skin7')
    scales = {'cpu': cpu_scale, 'cpu_mobilenet_v2': cpu_mobilenet_v2}
    return apply_argument(config, argument, scales)
