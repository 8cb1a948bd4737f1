"""Any 2-D set of the MedMNIST family with one label per image, with all its images.

    python scripts/prepare_data.py --dataset=dermamnist --source=DIR
    python scripts/train.py --config=configs/medmnist.py:ce_sc_crw --workdir=runs/dermamnist \
        --config.model.pretrained=RESNET50

For another set, use `--config=configs/medmnist.py:ce_sc_crw,set=bloodmnist` (or tissuemnist,
organamnist, organcmnist, organsmnist, octmnist, retinamnist, pneumoniamnist, breastmnist). The last
four have fewer than six classes, so their MCR major and minor are one class each.

The splits are the published ones, the recipe is that of the paper's PathMNIST-LT: ResNet50 from
ImageNet weights, 224 px, 100 + 10 epochs. Not measured here yet. `scale=cpu` is a small variant
from scratch, at 28 px.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import DEFAULTS, data_config
from metriclt_jax.errors import InputError


def cpu(config) -> None:
    """The usual small variant, at the native size of the images."""
    cpu_scale(config)
    config.data.resize = 32
    config.augment.crop = 28
    config.model.options.stem = 'small'


def get_config(argument: str | None = None):
    """The config of METHOD[,set=NAME][,scale=NAME]."""
    words = (argument or '').split(',')
    chosen = [word for word in words if word.startswith('set=')]
    sets = [f'set={name}' for name in DEFAULTS if name.endswith('mnist')]
    if len(chosen) > 1 or not set(chosen) <= set(sets):
        raise InputError(f'config argument {argument!r} must have one of {", ".join(sets)}')
    argument = ','.join(word for word in words if word not in chosen)

    config = paper_config()
    config.data = data_config(chosen[0].removeprefix('set=') if chosen else 'dermamnist')
    config.stage1.batch_size = 64
    config.stage2.batch_size = 64
    return apply_argument(config, argument, scales={'cpu': cpu})
