"""A data set as the rest of the package sees it: images, labels and parts, as arrays."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.config import validate_data
from metriclt_jax.data import long_tail, preparation, records, splits
from metriclt_jax.data.cache import Cache, cache_path, open_cache
from metriclt_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Images, their labels, and which part each belongs to."""

    name: str  # as in the config
    class_names: tuple[str, ...]  # [C]
    images: Cache  # images.read(indices) gives uint8 [n, R, R, 3]
    labels: np.ndarray  # int32 [N]; -1 for images of classes left out, which are in no part
    aspects: np.ndarray  # float32 [N], width / height of the original image
    ids: np.ndarray  # str [N]
    groups: np.ndarray | None  # str [N], lesion or patient; None if the data set has none
    parts: Mapping[str, np.ndarray]  # ascending indices; 'validation' may be empty

    @property
    def train_counts(self) -> np.ndarray:
        """Training images of each class, int64 `[C]`."""
        return np.bincount(self.labels[self.parts['train']], minlength=len(self.class_names))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over pixels (their CRC-32), ids, labels and parts."""
        digest = hashlib.sha256(repr(self.class_names).encode())
        for array in (self.images.crc32, self.ids, self.labels, *self.parts.values()):
            digest.update(f'{array.shape} {array.dtype}'.encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_dataset(config: ConfigDict, part: str | None = None) -> Dataset:
    """Opens and divides the data set of a `data` config; digits_lt is prepared on first use.

    With `part`, only this part is needed, so the training part may lack classes; 'all' is a part
    with every image.
    """
    validate_data(config)
    if config.name == 'digits_lt':
        preparation.prepare(config.name, None, config.data_dir)
    source = records.open_records(config.name, config.data_dir)
    if not cache_path(config.name, config.resize, config.data_dir).exists():
        # Fields that do not fit the data are refused before gigabytes are decoded.
        columns = records.read_columns(source)
        names, labels, parts = divide(config, source.class_names, *columns, part)
        if part is None:
            configured_groups(config, np.bincount(labels[parts['train']], minlength=len(names)))
    cache = open_cache(source, config.resize, config.data_dir)
    columns = cache.labels, cache.group_ids, cache.parts
    class_names, labels, parts = divide(config, source.class_names, *columns, part)
    return Dataset(
        name=config.name,
        class_names=class_names,
        images=cache,
        labels=labels,
        aspects=cache.aspects,
        ids=cache.ids,
        groups=cache.group_ids if np.any(cache.group_ids != '') else None,
        parts=parts,
    )


def divide(
    config: ConfigDict,
    class_names: Sequence[str],
    labels: np.ndarray,
    group_ids: np.ndarray,
    official: np.ndarray,
    part: str | None = None,
) -> tuple[tuple[str, ...], np.ndarray, dict[str, np.ndarray]]:
    """Chooses classes, trims their sizes, splits the images and thins out the training part.

    Takes the names of all classes, and the label, group id and official part ('' if unknown) of
    each image `[N]`. Returns the names `[C]` of the chosen classes, the labels int32 `[N]` as
    positions in them (-1 for other classes), and the ascending indices of each part's images;
    `part` is as in `load_dataset`.
    """
    class_names, labels = _choose_classes(labels, class_names, config.classes)
    kept = np.flatnonzero(labels >= 0)
    if part == 'all':
        return class_names, labels, {'all': kept}
    if config.multiple_of > 1:
        counts = np.bincount(labels[kept], minlength=len(class_names))
        counts -= counts % config.multiple_of
        kept = kept[long_tail.subset(labels[kept], counts, config.split_seed)]

    parts = _split(config, class_names, labels[kept], group_ids[kept], official[kept], part)
    parts = {name: kept[indices] for name, indices in parts.items()}
    if part in ('validation', 'test'):
        return class_names, labels, {part: parts[part]}

    train = parts['train']
    available = np.bincount(labels[train], minlength=len(class_names))
    if not available.all():
        missing = ', '.join(class_names[label] for label in np.flatnonzero(available == 0))
        raise InputError(
            f'the train part of {config.name} has no image of {missing}; it needs at least one of '
            'each class (data.classes selects classes)'
        )
    if config.imbalance_ratio:
        order = long_tail.head_to_tail(config.long_tail_order, available, class_names)
        curve = config.imbalance_ratio, config.long_tail_max, config.long_tail_rounding
        counts = long_tail.long_tailed_counts(available, order, *curve)
        parts['train'] = train[long_tail.subset(labels[train], counts, config.split_seed)]
    return class_names, labels, parts


def _choose_classes(
    labels: np.ndarray, class_names: Sequence[str], chosen: Sequence[str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the chosen names (by default all) and the labels as positions in them."""
    chosen = tuple(chosen) or tuple(class_names)
    for name in chosen:
        if name not in class_names or chosen.count(name) > 1:
            raise InputError(
                f'data.classes has {name!r}, which is unknown or used twice; use some of '
                f'{", ".join(class_names)}, each once'
            )
    new = [chosen.index(name) if name in chosen else -1 for name in class_names]
    return chosen, np.array(new, np.int32)[labels]


def _split(
    config: ConfigDict,
    class_names: Sequence[str],
    labels: np.ndarray,
    group_ids: np.ndarray,
    official: np.ndarray,
    part: str | None,
) -> dict[str, np.ndarray]:
    # What a split needs, '' where the data set has none.
    needs = {'grouped': ('groups', group_ids), 'official': ('official parts', official)}
    available = [name for name, (_, values) in needs.items() if np.any(values != '')]
    if config.split in needs and config.split not in available:
        raise InputError(
            f'data.split is {config.split!r}, but {config.name} has no {needs[config.split][0]}; '
            f'use {" or ".join(["paper", *available])}'
        )
    if config.split == 'official':
        needed = splits.PARTS if part is None else (part,)
        names = {p: config[f'{p}_parts'] if p in needed else () for p in splits.PARTS}
        return splits.official(official, names)
    if config.split == 'grouped':
        return splits.grouped(labels, group_ids, config.fractions, config.split_seed, class_names)
    return splits.stratified(labels, config.fractions, config.split_seed, class_names)
