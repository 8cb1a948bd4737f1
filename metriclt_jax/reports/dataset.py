"""A data set at a glance: its row of the paper's table 1 with all classes, and a picture."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.data import records
from metriclt_jax.data.dataset import divide
from metriclt_jax.data.decoding import decode
from metriclt_jax.data.sampling import generator
from metriclt_jax.data.splits import PARTS
from metriclt_jax.reports.drawing import BLUE, GREEN, GREY, ORANGE, RED, SKY, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PART_COLORS = {'train': SKY, 'validation': ORANGE, 'test': GREY}
_GROUP_COLORS = {'major': BLUE, 'medium': GREEN, 'minor': RED}
_FEW = 12  # classes that have room for large samples
_ROWS = 40  # more classes than these go into a further column
_LOG_FROM = 20  # ratio of the largest and the smallest class
_PIXELS = 128  # side of a sample


def describe(
    config: ConfigDict,
    console: Console,
    path: str | os.PathLike,
    columns: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None,
) -> None:
    """Prints table 1 of a prepared data set and draws its picture.

    Args:
        config: as for `data.load_dataset`; nothing is decoded but the samples.
        console: to print to.
        path: the PNG to write.
        columns: what `records.read_columns` gives, if the caller has it.

    Raises:
        InputError: the data set is not prepared, or cannot be divided in this way.
    """
    source = records.open_records(config.name, config.data_dir)
    labels, groups_of_images, official = columns or records.read_columns(source)
    class_names, labels, parts = divide(
        config, source.class_names, labels, groups_of_images, official
    )
    counts = {part: np.bincount(labels[parts[part]], minlength=len(class_names)) for part in PARTS}
    groups = configured_groups(config, counts['train'])
    console.print(table(config.name, class_names, counts, groups))
    for remark in _remarks(config.split, groups_of_images, official, parts):
        console.print(remark)
    samples = []
    for label in range(len(class_names)):
        members = parts['train'][labels[parts['train']] == label]
        chosen = generator('samples', 0, label).permutation(members)[: _samples(len(class_names))]
        examples = source.read(chosen)
        samples.append([decode(e.image, _PIXELS, e.image_id)[0] for e in examples])
    save(picture(config.name, class_names, counts, groups, samples), path)


def table(
    name: str,
    class_names: Sequence[str],
    counts: Mapping[str, np.ndarray],
    groups: Mapping[str, Sequence[int]],
) -> Table:
    """The images of each class and part, from head to tail; N min, N max and ratio as in table 1.

    Takes the images of each class `[C]` by part in `counts`, and class indices in `groups`.
    """
    title = f'{name}: {_statistics(counts["train"])} (training part)'
    result = Table(
        title=title,
        min_width=len(title),
        box=box.SIMPLE_HEAD,
        title_style='',
        title_justify='left',
        show_footer=True,
    )
    result.add_column('class', f'all {len(class_names)}')
    for part, images in counts.items():
        result.add_column(part, str(images.sum()), justify='right', no_wrap=True)
    result.add_column('group', no_wrap=True)
    group_of = {label: group for group, members in groups.items() for label in members}
    for label in _head_to_tail(counts['train']):
        result.add_row(
            escape(class_names[label]),
            *(str(images[label]) for images in counts.values()),
            group_of.get(label, ''),
        )
    return result


def picture(
    name: str,
    class_names: Sequence[str],
    counts: Mapping[str, np.ndarray],
    groups: Mapping[str, Sequence[int]],
    samples: Sequence[Sequence[np.ndarray]],
) -> 'Figure':
    """Draws how many images each class has, and beside it some of them, from head to tail.

    Args:
        name: of the data set.
        class_names: `[C]`.
        counts: images of each class, int `[C]`, by part.
        groups: class indices of each group.
        samples: some images of each class, uint8 `[S, S, 3]`.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    order = _head_to_tail(counts['train'])
    group_of = {label: group for group, members in groups.items() for label in members}
    names = {label: _shortened(class_names[label]) for label in order}
    columns = math.ceil(len(order) / _ROWS)
    rows = math.ceil(len(order) / columns)
    few = len(order) <= _FEW
    # All lengths are in inches.
    row = 0.9 if few else 0.45
    widths = {
        'names': 0.3 + max(map(len, names.values())) * (0.11 if few else 0.08),
        'bars': 2.6,
        'space': 0.15,
        'samples': row * _samples(len(order)),
    }
    top, bottom = 1.0, 0.45
    width = columns * sum(widths.values()) + widths['space']
    height = top + rows * row + bottom
    figure = Figure((width, height))

    for column in range(columns):
        here = order[column * rows : (column + 1) * rows]
        y = bottom + (rows - len(here)) * row
        x = column * sum(widths.values()) + widths['names']
        axes = figure.add_axes(
            [x / width, y / height, widths['bars'] / width, len(here) * row / height]
        )
        _draw_bars(axes, here, counts, size=8 if few else 6)
        axes.set_yticks(
            range(len(here)),
            [names[label] for label in here],
            size=11 if few else 8,
        )
        for label, tick in zip(here, axes.get_yticklabels(), strict=True):
            tick.set_color(_GROUP_COLORS.get(group_of.get(label), 'black'))
        x += widths['bars'] + widths['space']
        axes = figure.add_axes(
            [x / width, y / height, widths['samples'] / width, len(here) * row / height]
        )
        axes.imshow(_mosaic([samples[label] for label in here], _samples(len(order))))
        axes.set_axis_off()

    figure.text(
        widths['space'] / width,
        1 - 0.15 / height,
        f'{name}: {len(order)} classes, {_statistics(counts["train"])} (training part)',
        size=12,
        va='top',
    )
    of_parts = [
        Patch(color=_PART_COLORS[part], label=f'{part} ({images.sum()} images)')
        for part, images in counts.items()
        if images.sum()
    ]
    of_groups = [Patch(color=_GROUP_COLORS[group], label=f'{group} classes') for group in groups]
    for handles, drop in ((of_parts, 0.35), (of_groups, 0.6)):
        figure.legend(
            handles=handles,
            loc='upper left',
            bbox_to_anchor=(0, 1 - drop / height),
            ncols=3,
            fontsize=9,
            frameon=False,
        )
    return figure


def _draw_bars(axes, labels: Sequence[int], counts: Mapping[str, np.ndarray], size: float) -> None:
    """Horizontal bars for some classes, with their numbers, on the scale of all classes."""
    drawn = {part: images for part, images in counts.items() if images.sum()}
    everything = np.concatenate([*drawn.values()])
    largest, smallest = everything.max(), everything[everything > 0].min()
    # A class with a single image in a small part makes no long tail.
    logarithmic = counts['train'].max() >= _LOG_FROM * counts['train'].min()
    height = 0.8 / len(drawn)
    for number, (part, images) in enumerate(drawn.items()):
        places = np.arange(len(labels)) + height * (number - (len(drawn) - 1) / 2)
        values = images[list(labels)]
        bars = axes.barh(places, values, height, color=_PART_COLORS[part])
        axes.bar_label(bars, [str(value) for value in values], padding=2, size=size)
    if logarithmic:
        axes.set_xscale('log')
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_formatter('')
        axes.set_xlim(smallest / 2, largest * (largest / smallest) ** 0.25)
    else:
        axes.set_xlim(0, largest * 1.2)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.tick_params('x', labelsize=8)
    axes.tick_params('y', length=0)
    axes.set_xlabel('images' + (', logarithmic' if logarithmic else ''), size=8, labelpad=1)
    for side in ('top', 'right'):
        axes.spines[side].set_visible(False)


def _mosaic(rows: Sequence[Sequence[np.ndarray]], columns: int, gap: int = 4) -> np.ndarray:
    """Puts samples `[S, S, 3]` into cells with a white gap; a short row ends in white cells."""
    side = len(rows[0][0]) + gap
    sheet = np.full((len(rows) * side, columns * side, 3), 255, np.uint8)
    for row, images in enumerate(rows):
        for column, image in enumerate(images[:columns]):
            y, x = row * side + gap // 2, column * side + gap // 2
            sheet[y : y + len(image), x : x + len(image)] = image
    return sheet


def _remarks(
    split: str, groups: np.ndarray, official: np.ndarray, parts: Mapping[str, np.ndarray]
) -> list[str]:
    """What speaks for another split than this one."""
    remarks = []
    train, test = (set(groups[parts[part]]) - {''} for part in ('train', 'test'))
    if train & test:
        remarks.append(
            f'{len(train & test)} groups (patients, lesions) have images both in the training and '
            'in the test part; with data.split=grouped none has.'
        )
    if split != 'official' and np.any(official != ''):
        remarks.append('The source has parts of its own; data.split=official takes them.')
    return remarks


def _statistics(train_counts: np.ndarray) -> str:
    least, most = train_counts.min(), train_counts.max()
    return f'N min {least}, N max {most}, ratio {most / least:.2f}'


def _head_to_tail(train_counts: np.ndarray) -> list[int]:
    return np.argsort(-train_counts, kind='stable').tolist()


def _samples(num_classes: int) -> int:
    """How many samples of each class are shown."""
    return 7 if num_classes <= _FEW else 5


def _shortened(name: str, length: int = 24) -> str:
    return name if len(name) <= length else f'{name[: length - 1]}…'
