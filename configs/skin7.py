"""Skin7 (ISIC 2018 task 3, HAM10000): 10,015 dermoscopic images, 7 classes.

    python scripts/prepare_data.py --dataset=skin7 --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/skin7.py:ce_sc_crw --workdir=runs/skin7

The default is the paper's recipe (ResNet50, 224 px, 100 + 10 epochs). `scale=cpu` is a small
variant for a laptop: expect 60.3 % of mean class recall for `ce_tp_crw` and 56.6 % for `ce_crw`
(seed 0, six minutes a run on two cores of an AMD EPYC, 2026-11-23; see docs/skin7_cpu.md).
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu_mobilenet_v2(config) -> None:
    """MobileNetV2 at 64 px for ten epochs: ten minutes on two CPU cores.

    Meant for fine-tuning: give ImageNet weights with `--config.model.pretrained=FILE`.
    """
    config.data.resize = 72
    config.augment.crop = 64
    config.model.name = 'mobilenet_v2'
    config.stage1.epochs = 10
    config.stage1.warmup_epochs = 1
    config.stage1.learning_rate = 0.01
    config.stage2.epochs = 4


def get_config(argument: str | None = None):
    """The config for METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('skin7')
    scales = {'cpu': cpu_scale, 'cpu_mobilenet_v2': cpu_mobilenet_v2}
    return apply_argument(config, argument, scales)
