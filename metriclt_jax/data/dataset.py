"""A data set as the rest of the package sees it: images, labels and the parts, as arrays."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from ml_collections import ConfigDict

from metriclt_jax.data import long_tail, records, splits
from metriclt_jax.data.cache import Images, open_cache
from metriclt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, what is known of each, and which part it belongs to.

    Attributes:
        name: as in the config.
        class_names: `[C]`.
        images: `images.read(indices)` gives uint8 `[n, R, R, 3]`.
        labels: int32 `[N]`.
        aspects: float32 `[N]`, width / height of the original image.
        ids: str `[N]`.
        groups: str `[N]`, images of one lesion or patient; None where the data set has no groups.
        parts: 'train', 'validation' (may be empty) and 'test', ascending int64 indices.
    """

    name: str
    class_names: tuple[str, ...]
    images: Images
    labels: np.ndarray
    aspects: np.ndarray
    ids: np.ndarray
    groups: np.ndarray | None
    parts: Mapping[str, np.ndarray]

    @property
    def train_counts(self) -> np.ndarray:
        """Training images of each class, int64 `[C]`."""
        return np.bincount(self.labels[self.parts['train']], minlength=len(self.class_names))


def load_dataset(config: ConfigDict) -> Dataset:
    """Opens a prepared data set and divides it; digits_lt is prepared where that is needed.

    Args:
        config: the fields `name`, `data_dir`, `split` ('paper' or 'grouped'), `fractions`,
            `split_seed`, `imbalance_ratio` (0 keeps all training images) and `resize` (R).

    Raises:
        InputError: a field that cannot be used, or a data set that is not prepared.
    """
    if config.split not in ('paper', 'grouped'):
        raise InputError(f'data.split is {config.split!r}; allowed: paper, grouped')
    if config.name == 'digits_lt':
        records.prepare(config.name, None, config.data_dir)
    source = records.open_records(config.name, config.data_dir)
    cache = open_cache(source, config.resize, config.data_dir)
    groups = cache.groups if np.any(cache.groups != '') else None
    if config.split == 'paper':
        parts = splits.stratified(
            cache.labels, config.fractions, config.split_seed, source.class_names
        )
    elif groups is None:
        raise InputError(f"data.split is 'grouped'; allowed: paper, as {config.name} has no groups")
    else:
        parts = splits.grouped(
            cache.labels, groups, config.fractions, config.split_seed, source.class_names
        )
    if config.imbalance_ratio:
        parts['train'] = _long_tailed(cache.labels, parts['train'], config)
    return Dataset(
        name=config.name,
        class_names=source.class_names,
        images=cache.images,
        labels=cache.labels,
        aspects=cache.aspects,
        ids=cache.ids,
        groups=groups,
        parts=parts,
    )


def _long_tailed(labels: np.ndarray, train: np.ndarray, config: ConfigDict) -> np.ndarray:
    """Thins the training part out; the curve starts at the smallest class, so that it is full."""
    available = np.bincount(labels[train])
    counts = long_tail.exponential_counts(
        int(available.min()), len(available), config.imbalance_ratio
    )
    if counts.min() < 1:
        raise InputError(
            f'data.imbalance_ratio is {config.imbalance_ratio}; allowed: at most {2 * counts[0]}, '
            f'as the largest class keeps {counts[0]} images and the smallest needs one'
        )
    return train[long_tail.subset(labels[train], counts, config.split_seed)]
