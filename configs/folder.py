"""Your own images: one folder per class, or a CSV of paths and labels.

    python scripts/prepare_data.py --dataset=folder --name=mine --source=DIR [--labels=FILE.csv]
    python scripts/train.py --config=configs/folder.py:ce_sc_crw --workdir=runs/mine \
        --config.model.pretrained=RESNET50

If you chose another name than `mine`, train with `--config.data.name=NAME`.

What to expect depends on the images: compare `ce_sc_crw` with `ce_crw`. The default is the paper's
recipe (ResNet50 from ImageNet weights, 224 px, 100 + 10 epochs). `scale=cpu` is a small variant
from scratch for a laptop.

Images are divided by what is known of them (`data.split=auto`): by a CSV's column `split`, if any.
Otherwise at random, 75 % for training, 5 % for validation, 20 % for the test, with all images of a
`group` (patient) in one part; without groups image by image, as in the paper. Training says which.

MCR major and minor are the recall of the most and the least frequent class. With more classes, set
`--config.data.major` and `--config.data.minor`, or `--config.data.groups=thirds`.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def get_config(argument: str | None = None):
    """The config of METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('folder')
    config.data.name = 'mine'
    return apply_argument(config, argument, scales={'cpu': cpu_scale})
