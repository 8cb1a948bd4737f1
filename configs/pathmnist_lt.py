"""PathMNIST-LT (MedMNIST): colon tissue, 9 classes, cut to a long tail of 9366 to 94 images.

    python scripts/prepare_data.py --dataset=pathmnist_lt --source=DIR
    python scripts/train.py --config=configs/pathmnist_lt.py:ce_sc_crw --workdir=runs/pathmnist_lt \
        --config.model.pretrained=RESNET50

The default is the paper's recipe: ResNet50 from ImageNet weights, 28 px enlarged to 224 px,
100 + 10 epochs. Not measured here yet; the paper reports a mean class recall of 87.45 % for
`ce_sc_crw` and 83.77 % for `ce_crw`. Decoded to 300 px, the images take 27 GiB of disk. `scale=cpu`
is a small variant from scratch, at 28 px.

For another order of the classes from head to tail, use `--config.data.long_tail_order=index`.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def cpu(config) -> None:
    """The usual small variant, at the native size of the images."""
    cpu_scale(config)
    config.data.resize = 32
    config.augment.crop = 28
    config.model.options.stem = 'small'


def get_config(argument: str | None = None):
    """The config of METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('pathmnist_lt')
    config.stage1.batch_size = 64
    config.stage2.batch_size = 64
    return apply_argument(config, argument, scales={'cpu': cpu})
