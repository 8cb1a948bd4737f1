"""Any 2-D set of the MedMNIST family with one label an image, with all its images.

    python scripts/prepare_data.py --dataset=dermamnist --source=DIR --data_dir=~/metriclt_data
    python scripts/train.py --config=configs/medmnist.py:ce_sc_crw --workdir=runs/dermamnist \
        --config.model.pretrained=RESNET50

Another set: `--config.data.name=bloodmnist` (or tissuemnist, organamnist, organcmnist,
organsmnist), and with `--config.data.major=1 --config.data.minor=1` also octmnist, retinamnist,
pneumoniamnist and breastmnist, which have fewer than six classes.

The parts are the published ones and the recipe is that of the paper's PathMNIST-LT (ImageNet's
ResNet50, 224 px, 100 + 10 epochs). Not measured here yet, at no scale. `scale=cpu` is a small
variant from scratch, at 28 px.
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
    config.data = data_config('dermamnist')
    config.stage1.batch_size = 64
    config.stage2.batch_size = 64
    return apply_argument(config, argument, scales={'cpu': cpu})
