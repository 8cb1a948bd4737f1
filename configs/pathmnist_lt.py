"""PathMNIST-LT (MedMNIST): colon tissue of 9 classes, thinned out to 9366 to 94 for training.

    python scripts/prepare_data.py --dataset=pathmnist_lt --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/pathmnist_lt.py:ce_sc_crw --workdir=runs/pathmnist_lt \
        --config.model.pretrained=RESNET50

The default is the paper's recipe (ImageNet's ResNet50, 28 px enlarged to 224 px, 100 + 10 epochs);
the paper reports 87.45 % of mean class recall for `ce_sc_crw` and 83.77 % for `ce_crw`. Not
measured here yet, at no scale. Decoded to 300 px, the images take 27 GiB of disk. `scale=cpu` is a
small variant from scratch, at 28 px.

Another order of the classes from head to tail: `--config.data.long_tail_order=index`.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu(config) -> None:
    """As for the other data sets, at the size that the images have."""
    cpu_scale(config)
    config.data.resize = 32
    config.augment.crop = 28
    config.model.options.stem = 'small'


def get_config(argument: str | None = None):
    """The config for METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('pathmnist_lt')
    config.stage1.batch_size = 64
    config.stage2.batch_size = 64
    return apply_argument(config, argument, scales={'cpu': cpu})
