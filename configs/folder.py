"""Your own images: a folder with a folder for each class, or with a CSV of paths and labels.

    python scripts/prepare_data.py --dataset=folder --name=mine --source=DIR [--labels=FILE.csv]
    python scripts/train.py --config=configs/folder.py:ce_sc_crw --workdir=runs/mine \
        --config.model.pretrained=RESNET50

With another name than `mine`, train with `--config.data.name=NAME`.

The default is the paper's recipe (ImageNet's ResNet50, 224 px, 100 + 10 epochs) and its split: of
each class 75 % for training, 5 % for validation and 20 % for the test, by image. Where the CSV has
patients, `--config.data.split=grouped` keeps each in one part, and where it has parts of its own,
`--config.data.split=official` takes those (with `--config.data.validation_parts='()'` where none is
for validation). What to expect depends on the images: start with
`ce_crw` beside `ce_sc_crw`. `scale=cpu` is a small variant from scratch for a laptop.

MCR major and minor are the recall of the most and of the least frequent class: with more classes,
set `--config.data.major` and `--config.data.minor`, or `--config.data.groups=thirds`.
"""

from metriclt_jax.config import apply_argument, cpu_scale, paper_config
from metriclt_jax.data.defaults import data_config


def get_config(argument: str | None = None):
    """The config for METHOD[,scale=NAME]."""
    config = paper_config()
    config.data = data_config('folder')
    config.data.name = 'mine'
    return apply_argument(config, argument, scales={'cpu': cpu_scale})
