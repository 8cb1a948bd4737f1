"""A data set at a glance: its row of the paper's table 1 with all classes, and a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from ml_collections import ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from metriclt_jax.class_groups import configured_groups
from metriclt_jax.config import validate_data
from metriclt_jax.data import leaks, records
from metriclt_jax.data.dataset import describe_division, divide
from metriclt_jax.data.decoding import decode
from metriclt_jax.data.sampling import generator
from metriclt_jax.data.splits import PARTS
from metriclt_jax.progress import say
from metriclt_jax.reports import drawing
from metriclt_jax.reports.terminal import new_table

_PART_COLORS = {'train': drawing.SKY, 'validation': drawing.ORANGE, 'test': drawing.GREY}
_GROUP_COLORS = {'major': drawing.BLUE, 'medium': drawing.GREEN, 'minor': drawing.RED}
_FEW = 12  # classes that have room for large samples

Counts = Mapping[str, np.ndarray]  # images of each class `[C]`, by part
Groups = Mapping[str, Sequence[int]]  # class indices


def describe(
    config: ConfigDict, console: Console, path: Path, columns: records.Columns | None = None
) -> None:
    """Prints table 1 of a prepared data set and draws its picture; decodes only the samples.

    `config` is that of `data.load_dataset`, `columns` what `records.read_columns` gives.
    """
    source = records.open_records(config.name, config.data_dir)
    columns = columns or records.read_columns(source)
    groups_and_parts = columns.group_ids, columns.parts
    class_names, labels, parts = divide(
        config, source.class_names, columns.labels, *groups_and_parts
    )
    counts = {part: np.bincount(labels[parts[part]], minlength=len(class_names)) for part in PARTS}
    groups = configured_groups(config, counts['train'])
    console.print(table(config.name, class_names, counts, groups))
    say(describe_division(config, labels, *groups_and_parts, parts), console)
    if config.split not in ('auto', 'official') and np.any(columns.parts != ''):
        say('The source comes with its own parts; use them with data.split=official.', console)
    found = leaks.find_leaks(labels, columns.group_ids, columns.contents, parts)
    for remark in leaks.describe(found, columns.ids, labels, class_names):
        say(remark, console)
    samples = []
    for label in range(len(class_names)):
        members = parts['train'][labels[parts['train']] == label]
        chosen = generator('samples', 0, label).permutation(members)
        examples = source.read(chosen[: 7 if len(class_names) <= _FEW else 5])
        samples.append([decode(e.image, 128, e.image_id)[0] for e in examples])
    drawing.save(picture(config.name, class_names, counts, groups, samples), path)


def folds_table(config: ConfigDict) -> Table:
    """The images of each class and the groups that each fold of a cross-validation tests."""
    validate_data(config)
    source = records.open_records(config.name, config.data_dir)
    columns = records.read_columns(source)
    folds = []
    for fold in range(config.folds):
        config.fold = fold
        names, labels, parts = divide(config, source.class_names, *columns[:3])
        folds.append(parts['test'])
    counts = np.array([np.bincount(labels[test], minlength=len(names)) for test in folds])
    result = new_table(f'{config.name}: {config.folds} folds (data.split={config.split})')
    result.add_column('class')
    for number in range(config.folds):
        result.add_column(f'fold {number}', justify='right', no_wrap=True)
    result.add_column('all', justify='right', no_wrap=True)
    for label in np.argsort(-counts.sum(axis=0), kind='stable'):
        numbers = [*counts[:, label], counts[:, label].sum()]
        result.add_row(Text(names[label]), *map(str, numbers))
    result.add_row('images', *map(str, [*counts.sum(axis=1), counts.sum()]))
    if np.any(columns.group_ids != ''):
        groups = [
            len(set(columns.group_ids[test]) - {''}) for test in (*folds, np.concatenate(folds))
        ]
        result.add_row('groups', *map(str, groups))
    return result


def table(name: str, class_names: Sequence[str], counts: Counts, groups: Groups) -> Table:
    """The images of each class and part from head to tail; N min, N max and ratio as in table 1."""
    title = f'{name}: {_statistics(counts["train"])}'
    result = new_table(title, min_width=len(title), show_footer=True)
    result.add_column('class', f'all {len(class_names)}')
    for part, images in counts.items():
        result.add_column(part, str(images.sum()), justify='right', no_wrap=True)
    result.add_column('group', no_wrap=True)
    for label in np.argsort(-counts['train'], kind='stable'):
        numbers = [str(images[label]) for images in counts.values()]
        result.add_row(Text(class_names[label]), *numbers, _group(label, groups))
    return result


def picture(
    name: str, class_names: Sequence[str], counts: Counts, groups: Groups, samples: Sequence
) -> Figure:
    """Draws from head to tail how many images each class has, beside its `samples` `[S, S, 3]`."""
    order = np.argsort(-counts['train'], kind='stable')
    names = drawing.readable(class_names)
    columns = math.ceil(len(order) / 40)
    rows = math.ceil(len(order) / columns)
    few = len(order) <= _FEW
    most, side = max(map(len, samples)), 0.9 if few else 0.45  # of a sample, in inches
    widths = [2.6, side * most]  # of bars and samples
    names_width = 0.3 + max(map(len, names)) * (0.09 if few else 0.07)
    figure = drawing.new_figure(columns * (names_width + sum(widths)) + 0.2, rows * side + 1.7)
    grid = figure.subplots(1, 2 * columns, width_ratios=columns * widths)
    for column, (bars, sheet) in enumerate(zip(grid[::2], grid[1::2], strict=True)):
        here = order[column * rows : (column + 1) * rows]
        _draw_bars(bars, here, counts)
        bars.set_ylim(rows - 0.5, -0.5)
        bars.set_yticks(range(len(here)), [names[c] for c in here], size=11 if few else 8)
        for row, (label, tick) in enumerate(zip(here, bars.get_yticklabels(), strict=True)):
            tick.set_color(_GROUP_COLORS.get(_group(label, groups), 'black'))
            for place, image in enumerate(samples[label]):
                sheet.imshow(image, extent=(place + 0.02, place + 0.98, row + 0.48, row - 0.48))
        sheet.set(xlim=(0, most), ylim=(rows - 0.5, -0.5), aspect='auto')
        sheet.set_axis_off()
    sizes = {part: images.sum() for part, images in counts.items() if images.any()}
    handles = {f'{p} ({size} images)': Patch(color=_PART_COLORS[p]) for p, size in sizes.items()}
    handles |= {f'{group} classes': Patch(color=_GROUP_COLORS[group]) for group in groups}
    statistics = _statistics(counts['train'])
    drawing.legend_above(figure, handles, f'{name}: {len(order)} classes, {statistics}')
    return figure


def _draw_bars(axes: Axes, labels: np.ndarray, counts: Counts) -> None:
    """Horizontal bars for some classes, with their numbers, on the scale of all classes."""
    drawn = {part: images for part, images in counts.items() if images.any()}
    everything = np.concatenate([*drawn.values()])
    largest, smallest = everything.max(), everything[everything > 0].min()
    height = 0.8 / len(drawn)
    for number, (part, images) in enumerate(drawn.items()):
        places = np.arange(len(labels)) + height * (number - (len(drawn) - 1) / 2)
        bars = axes.barh(places, images[labels], height, color=_PART_COLORS[part])
        axes.bar_label(bars, fmt='{:.0f}', padding=2, size='x-small')
    # A class with a single image in a small part makes no long tail.
    if counts['train'].max() >= 20 * counts['train'].min():
        axes.set_xscale('log')
        axes.xaxis.set_major_formatter('{x:g}')
        axes.xaxis.set_minor_formatter('')
        axes.set_xlim(smallest / 2, largest * 4)
    else:
        axes.set_xlim(0, largest * 1.2)
    axes.tick_params('x', labelsize=8)
    axes.tick_params('y', length=0)
    axes.set_xlabel(f'images, {axes.get_xscale()} scale', size=8)
    axes.spines[['top', 'right']].set_visible(False)


def _statistics(train_counts: np.ndarray) -> str:
    least, most = train_counts.min(), train_counts.max()
    return f'N min {least}, N max {most}, ratio {most / least:.2f} (training part)'


def _group(label: int, groups: Groups) -> str:
    return next((group for group, members in groups.items() if label in members), '')
