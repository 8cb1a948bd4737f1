"""X-ray9 (NIH ChestX-ray14): single-finding images, 9 classes, 3158 to 83 training images.

    python scripts/prepare_data.py --dataset=xray9 --source=DIR
    python scripts/train.py --config=configs/xray9.py:ce_sc_crw --workdir=runs/xray9 \
        --config.model.pretrained=RESNET50

The default is the paper's recipe: ResNet50 from ImageNet weights, 224 px, 100 + 10 epochs. Not
measured here yet; the paper reports a mean class recall of 52.77 % for `ce_sc_crw` and 51.81 % for
`ce_crw`. Decoded to 300 px, the images take about 8 GiB of disk. `scale=cpu` is a small variant
from scratch for a laptop.

The published split is by image, and most patients have several: `--config.data.split=grouped` keeps
each patient in one split and is the one to trust.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def get_config(argument: str | None = None):
    """The config of METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('xray9')
    config.stage1.batch_size = 64
    config.stage2.batch_size = 64
    return apply_argument(config, argument, scales={'cpu': cpu_scale})
