"""Skin7 (ISIC 2018 task 3, HAM10000): 10,015 dermoscopic images, 7 classes.

    python scripts/prepare_data.py --dataset=skin7 --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/skin7.py:ce_sc_crw --workdir=runs/skin7

The default is the paper's recipe (ResNet50, 224 px, 100 + 10 epochs). `scale=cpu` is a small
variant for a laptop: expect 60.3 % of mean class recall for `ce_tp_crw` and 56.6 % for `ce_crw`
(seed 0, six minutes a run on two cores of an AMD EPYC, 2026-11-23; see docs/skin7_cpu.md).
"""

from metriclt_jax.config import apply_argument, paper_config


def cpu(config) -> None:
    """Half the width of ResNet18, 56 px, a few epochs from scratch: minutes on two CPU cores."""
    config.data.resize = 64
    config.augment.crop = 56
    config.model.name = 'resnet18'
    config.model.options.width = 32
    config.stage1.epochs = 12
    config.stage1.warmup_epochs = 1
    config.stage1.learning_rate = 0.05
    config.stage2.epochs = 5


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
    config.data.name = 'skin7'
    config.data.minor = 2
    scales = {'cpu': cpu, 'cpu_mobilenet_v2': cpu_mobilenet_v2}
    return apply_argument(config, argument, scales)
