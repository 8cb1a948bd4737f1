"""A data set as the rest of the package sees it: images, labels and parts, as arrays."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.config import validate_data
from metriclt_jax.data import leaks, long_tail, preparation, records, splits
from metriclt_jax.data.cache import Cache, cache_path, open_cache
from metriclt_jax.data.sources import OWN
from metriclt_jax.data.splits import Array, Names
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
    remarks: tuple[str, ...] = ()  # how it was divided, and what leaks from part to part

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
    with every image. Identical images with different labels raise `InputError`, but are only named
    in published data sets.
    """
    validate_data(config)
    if config.name == 'digits_lt' and not preparation.is_prepared(config.name, config.data_dir):
        preparation.prepare(config.name, None, config.data_dir)
    source = records.open_records(config.name, config.data_dir)
    if not cache_path(config.name, config.resize, config.data_dir).exists():
        # Fields that do not fit the data are refused before gigabytes are decoded.
        columns = records.read_columns(source)[:3]
        names, labels, parts = divide(config, source.class_names, *columns, part)
        if part is None:
            configured_groups(config, np.bincount(labels[parts['train']], minlength=len(names)))
    cache = open_cache(source, config.resize, config.data_dir)
    groups, official = cache.group_ids, cache.parts
    columns = cache.labels, groups, official
    class_names, labels, parts = divide(config, source.class_names, *columns, part)
    division = describe_division(config, labels, groups, official, parts)
    found = leaks.find_leaks(labels, groups, leaks.contents_of(cache), parts)
    if len(found.conflicts) and source.dataset == OWN:  # others are taken as published
        raise InputError(
            f'identical images of {config.name} have different labels ({len(found.conflicts)}); '
            'correct or remove them in the source and prepare it again: '
            f'{leaks.name_conflicts(found.conflicts, cache.ids, labels, class_names)}'
        )
    return Dataset(
        name=config.name,
        class_names=class_names,
        images=cache,
        labels=labels,
        aspects=cache.aspects,
        ids=cache.ids,
        groups=groups if np.any(groups != '') else None,
        parts=parts,
        remarks=(division, *leaks.describe(found, cache.ids, labels, class_names)),
    )


def describe_division(
    config: ConfigDict, labels: Array, group_ids: Array, official: Array, parts: Mapping[str, Array]
) -> str:
    """Says how many images `divide` put into each part, how and why."""
    sizes = ', '.join(f'{len(indices)} {part}' for part, indices in parts.items())
    split = _mode(config, labels, group_ids, official)
    how, found = {
        'official': ('by the parts of the source', 'names parts'),
        'grouped': ('at random, each group in one part', 'names groups but no parts to test on'),
        'paper': ('at random, image by image', 'names no groups and no parts to test on'),
    }[split]
    if config.folds:
        how = f'{how}; test part: fold {config.fold} of {config.folds}'
    why = f', as the source {found}' if config.split == 'auto' and not config.folds else ''
    return f'{config.name}: {sizes} images; divided {how} (data.split={config.split}{why})'


def divide(
    config: ConfigDict,
    class_names: Names,
    labels: Array,
    group_ids: Array,
    official: Array,
    part: str | None = None,
) -> tuple[tuple[str, ...], np.ndarray, dict[str, np.ndarray]]:
    """Chooses classes, trims their sizes, splits the images and thins out the training part.

    Takes the names of all classes, and the label, group id and official part ('' if unknown) of
    each image `[N]`. Returns the names `[C]` of the chosen classes, the labels int32 `[N]` as
    positions in them (-1 for other classes), and the ascending indices of each part's images;
    `part` is as in `load_dataset`.
    """
    class_names, labels = _choose_classes(labels, class_names, config.classes)
    split = _mode(config, labels, group_ids, official)
    chosen = labels >= 0
    if part == 'all':
        return class_names, labels, {'all': np.flatnonzero(chosen)}
    if split != 'official' and config.divided_parts and np.any(official != ''):
        names = list(config.divided_parts)
        splits.require_parts('data.divided_parts', names, official, names)
        chosen &= np.isin(official, names)
    kept = np.flatnonzero(chosen)
    if config.multiple_of > 1:
        counts = np.bincount(labels[kept], minlength=len(class_names))
        counts -= counts % config.multiple_of
        kept = kept[long_tail.subset(labels[kept], counts, config.split_seed)]

    columns = labels[kept], group_ids[kept], official[kept]
    parts = _split(split, config, class_names, columns, part)
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


def _mode(config: ConfigDict, labels, group_ids, official) -> str:
    """Returns how the images of the chosen classes are divided."""
    if config.split != 'auto':
        return config.split
    named = official[labels >= 0]
    return splits.choose(group_ids[labels >= 0], np.full_like(named, '') if config.folds else named)


def _choose_classes(labels, class_names, chosen) -> tuple[tuple[str, ...], np.ndarray]:
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
    split: str, config: ConfigDict, class_names: Sequence[str], columns: tuple, part: str | None
) -> dict[str, np.ndarray]:
    labels, group_ids, official = columns
    # What a split needs, '' where the data set has none.
    needs = {'grouped': ('groups', group_ids), 'official': ('official parts', official)}
    available = [name for name, (_, values) in needs.items() if np.any(values != '')]
    if split in needs and split not in available:
        raise InputError(
            f'data.split is {split!r}, but {config.name} has no {needs[split][0]}; use '
            f'{" or ".join(["paper", *available])}'
        )
    if config.folds:
        kept_together = group_ids if split == 'grouped' else None
        which = config.folds, config.fold, config.fractions, config.split_seed
        return splits.cross_validation(labels, kept_together, *which, class_names)
    if split == 'official':
        needed = (part,) if part else splits.PARTS
        names = {p: config[f'{p}_parts'] if p in needed else () for p in splits.PARTS}
        if names['validation'] == ('validation',) and 'validation' not in official:
            names['validation'] = ()  # the default; many data sets have none
        return splits.official(official, names)
    if split == 'grouped':
        return splits.grouped(labels, group_ids, config.fractions, config.split_seed, class_names)
    return splits.stratified(labels, config.fractions, config.split_seed, class_names)
