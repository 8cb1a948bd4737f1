"""All figures; each function writes a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.markers import CARETLEFT, CARETRIGHT
from matplotlib.ticker import MaxNLocator

from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json
from metriclt_jax.reports import drawing
from metriclt_jax.reports.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from metriclt_jax.reports.runs import read_epochs, read_features
from metriclt_jax.reports.statistics import Calibration

Run = Sequence[Mapping[str, Any]]  # the lines of its metrics.jsonl
Curves = Mapping[str, tuple[str, str, str]]  # label, color and style by column of `_values`

RECALLS = {
    'validation.mcr_all': ('all classes', BLACK, '-'),
    'validation.mcr_major': ('major classes', BLUE, '--'),
    'validation.mcr_medium': ('medium classes', GREEN, '-.'),
    'validation.mcr_minor': ('minor classes', RED, ':'),
}
LOSSES = {
    'sum': ('sum of both', BLACK, '-'),
    'train.classification': ('classification loss', SKY, '--'),
    'weighted': ('coefficient × metric loss', PINK, ':'),
}
# The panels of a single run.
_ASPECTS = {
    'training loss': LOSSES,
    'metric loss, before its coefficient': {'train.metric': ('metric loss', PINK, ':')},
    'validation MCR, per cent': RECALLS | {'train.accuracy': ('training accuracy', GREY, '--')},
    'learning rate': {'learning_rate': ('learning rate', BLACK, '-')},
}
_PER_CENT = [*RECALLS, 'train.accuracy']
_COLUMNS = ['train.loss', 'train.classification', 'train.metric', 'learning_rate', *_PER_CENT]


def draw_run(workdir: Path) -> None:
    """Draws the figures of a finished run that its folder `figures` does not have yet.

    These are `training_curves.png`, `confusion_matrices.png` and, if the run kept features,
    `features.png`. Raises `InputError` if the run is not finished.
    """
    if not (workdir / 'results.json').exists():
        raise InputError(f'{workdir} has no results.json: wait until its run has finished')
    results = read_json(workdir / 'results.json')
    names, folder = results['class_names'], workdir / 'figures'
    folder.mkdir(exist_ok=True)
    if not (path := folder / 'training_curves.png').exists():
        panels = {title: ([read_epochs(workdir)[0]], kinds) for title, kinds in _ASPECTS.items()}
        panels = {title: panel for title, panel in panels.items() if not _values(*panel).empty}
        curves(panels, '', path, columns=2)
    if not (path := folder / 'confusion_matrices.png').exists():
        order = np.argsort(-np.asarray(results['train_counts']), kind='stable')
        matrices = {}
        for stage in results['stages']:
            title, matrix = f'{stage["name"]}: no trained classifier', np.diag(0 * order)
            if test := stage['last']['test']:
                title = f'{stage["name"]}, test part: MCR {100 * test["mcr_all"]:.2f} %'
                matrix = np.array(test['confusion'])
            matrices[title] = matrix[np.ix_(order, order)]
        confusion_matrices(matrices, [names[c] for c in order], path, counted=True)
    outputs = workdir / 'predictions.npz'
    if outputs.exists() and not (path := folder / 'features.png').exists():
        with np.load(outputs, allow_pickle=False) as arrays:
            labels = arrays['labels']
        features = read_features(workdir, len(labels))
        if features is not None:
            title = f't-SNE of the features of {len(labels)} test images'
            feature_maps({title: (features, labels)}, names, path, max_points=2000)


def curves(
    panels: Mapping[str, tuple[Sequence[Run], Curves]], ylabel: str, path: Path, **layout: Any
) -> Path | None:
    """Draws values over the epochs; a vertical line separates the stages.

    A curve is the mean over the runs of its panel, its band their range. Returns the path of the
    PNG, or None if there is nothing to draw; `layout` is that of `drawing.new_panels`.
    """
    tables = [_values(*panel) for panel in panels.values()]
    if all(table.empty for table in tables):
        return None
    figure, grid = drawing.new_panels(panels, ('epoch', ylabel), 2.5, sharex=True, **layout)
    for axes, table, (_, kinds) in zip(grid, tables, panels.values(), strict=True):
        if table.empty:
            axes.text(0.5, 0.5, 'no curve was kept', transform=axes.transAxes, ha='center')
        for number, (_, stage) in enumerate(table.groupby('stage', sort=False)):
            stage = stage.droplevel('stage')
            if number:
                axes.axvline(stage.index.min() - 0.5, color=GREY, linewidth=1)
            for column in stage:
                label, color, style = kinds[column]
                over = stage[column].dropna().groupby('epoch').agg(['min', 'mean', 'max'])
                band = {'color': color, 'alpha': 0.2, 'lw': 0}
                axes.fill_between(over.index, over['min'], over['max'], **band)
                marker = 'o' if len(over) == 1 else None  # a point makes no line
                axes.plot(over['mean'], style, color=color, lw=1.8, marker=marker, label=label)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    if ylabel:  # the panels show the same
        drawing.legend_above(figure, drawing.legend_handles(grid))
    else:
        for axes in grid:
            handles = drawing.legend_handles([axes])
            axes.legend(handles.values(), handles, fontsize='small')
    drawing.save(figure, path)
    return path


def _values(runs: Sequence[Run], kinds: Curves) -> pd.DataFrame:
    """The values to draw: rows by stage and epoch from the first stage on, a column if any."""
    table = pd.json_normalize([line for lines in runs for line in lines])
    table = table.reindex(columns=['stage', 'epoch', *_COLUMNS])
    table[_COLUMNS] = table[_COLUMNS].astype(float)
    table[_PER_CENT] *= 100
    loss, classification = table['train.loss'], table['train.classification']
    both = classification.notna() & table['train.metric'].notna()
    table['sum'] = loss.where(both)  # otherwise it would hide the curve of its only loss
    table['weighted'] = (loss - classification.fillna(0)).where(table['train.metric'].notna())
    lengths = table.groupby('stage', sort=False).epoch.max()
    table['epoch'] += table.stage.map(lengths.cumsum() - lengths)
    return table.set_index(['stage', 'epoch'])[list(kinds)].dropna(axis=1, how='all')


def confusion_matrices(
    confusions: Mapping[str, np.ndarray], names: Sequence[str], path: Path, *, counted: bool = False
) -> None:
    """Draws counts `[C, C]` by true and predicted class in per cent; `counted` adds the counts."""
    names, count = drawing.readable(names), len(names)
    few = count <= 12  # numbers in more cells could not be read
    named = few or (counted and count <= 30)
    side = (0.6 if counted else 0.36) * np.clip(count, 8, 12)
    rank = '' if named else ', by rank in training'
    labels = f'predicted class{rank}', f'true class{rank}'
    shared = {'columns': 3, 'sharex': True, 'sharey': True}
    figure, panels = drawing.new_panels(confusions, labels, side, side, **shared)
    for axes, counts in zip(panels, confusions.values(), strict=True):
        per_cent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(per_cent, cmap='Blues', vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(per_cent):
            if few and value:
                text = f'{value:.0f}' if value >= 0.5 else '<1'
                text += f'\n({counts[row, column]:.0f})' if counted else ''
                color = 'white' if value > 60 else 'black'
                axes.text(column, row, text, ha='center', va='center', size='small', color=color)
        if named:
            axes.set_xticks(range(count), names, rotation=90, size='small')
            axes.set_yticks(range(count), names, size='small')
    figure.colorbar(image, ax=panels, aspect=30, label='per cent of the true class')
    drawing.save(figure, path)


def reliability_diagrams(calibrations: Mapping[str, Calibration], path: Path) -> None:
    """Draws the calibration error, and accuracy and share of the predictions by confidence."""
    labels = 'confidence', 'accuracy, share'
    figure, panels = drawing.new_panels(calibrations, labels, 2.9, sharex=True, sharey=True)
    for axes, bins in zip(panels, calibrations.values(), strict=True):
        width = 1 / len(bins.counts)
        middles = (np.arange(len(bins.counts)) + 0.5) * width
        axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, label='perfect calibration')
        style = {'color': SKY, 'edgecolor': 'white', 'linewidth': 0.6}
        axes.bar(middles, np.nan_to_num(bins.accuracy), width, label='accuracy in the bin', **style)
        style = {'color': RED, 'linestyle': '--', 'marker': '.', 'linewidth': 1.2}
        shares = bins.counts / bins.counts.sum()
        axes.plot(middles, shares, label='share of the predictions', **style)
        text = axes.text(0.04, 0.95, f'ECE {100 * bins.error:.1f} %', va='top')
        text.set_bbox({'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.85, 'pad': 2})
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    drawing.legend_above(figure, drawing.legend_handles(panels))
    drawing.save(figure, path)


def feature_maps(
    features: Mapping[str, tuple], class_names: Sequence[str], path: Path, max_points: int = 1000
) -> None:
    """Draws features `[N, D]` with labels `[N]` in two dimensions by t-SNE.

    Of more than `max_points` images, the most frequent classes are thinned out.
    """
    names, count = drawing.readable(class_names), len(class_names)
    few = count <= len(drawing.LOOKS)  # each class has its own color and marker
    side, scale = (6.6, 1.0) if len(features) == 1 else (3.0, 0.5)
    figure, panels = drawing.new_panels(features, ('', ''), side, side)
    for axes, (values, labels) in zip(panels, features.values(), strict=True):
        totals = np.bincount(labels, minlength=count)
        kept = drawing.thin_out(labels, max_points)
        points, labels = drawing.tsne(values[kept]), labels[kept]
        head_to_tail = [c for c in np.argsort(-totals, kind='stable') if totals[c]]
        for rank, c in enumerate(head_to_tail):
            rarity = rank / max(len(head_to_tail) - 1, 1)
            color, marker = drawing.LOOKS[c] if few else (colormaps['viridis'](rarity), 'o')
            # The rarest, drawn last, are not hidden.
            style = {'s': scale * (14 + 36 * rarity**2), 'linewidth': scale * (0.3 + 0.4 * rarity)}
            style |= {'color': color, 'marker': marker, 'edgecolor': 'white'}
            axes.scatter(*points[labels == c].T, label=f'{names[c]} ({totals[c]})', **style)
        axes.set(xticks=[], yticks=[])  # only distances mean something
    if few:
        handles = {points.get_label(): points for points in panels[0].collections}
        for handle in drawing.legend_above(figure, handles, 'class (images)').legend_handles:
            handle.set_sizes([50])
    else:
        ranks = ScalarMappable(Normalize(0, len(head_to_tail) - 1), 'viridis')
        figure.colorbar(ranks, ax=panels, label='class, from the most frequent to the rarest')
    drawing.save(figure, path)


def sensitivity(studies: Mapping[str, tuple], path: Path) -> None:
    """Draws figure 2 of the paper: mean class recall by the coefficient of each metric loss.

    A study has `mean` and `deviation` on the test part and the mean on the `validation` part by
    coefficient, the default one and the stable range.
    """
    labels = 'coefficient of the metric loss', 'MCR, per cent'
    figure, panels = drawing.new_panels(studies, labels, 3.0, 4.0, columns=3, sharey=True)
    for axes, (recalls, default, stable) in zip(panels, studies.values(), strict=True):
        if stable:
            axes.axvspan(*stable, color=GREY, alpha=0.2, lw=0, label='stable in the paper')
        deviations = recalls.deviation.fillna(0)
        if recalls.validation.notna().any():
            style = {'color': GREY, 'marker': 's', 'linestyle': '--', 'label': 'validation'}
            axes.plot(recalls.validation, **style)
        style = {'color': GREEN, 'marker': 'o', 'label': 'test, mean and deviation over runs'}
        axes.errorbar(recalls.index, recalls['mean'], deviations, capsize=3, **style)
        if default in recalls.index:
            style = {'color': RED, 'marker': '^', 'markersize': 11, 'linestyle': 'none'}
            axes.plot(default, recalls['mean'][default], label='default', zorder=3, **style)
        # Logarithmic from the smallest coefficient but 0, which has its place, too.
        axes.set_xscale('symlog', linthresh=min(recalls.index[recalls.index > 0], default=1.0))
        axes.xaxis.set_major_formatter('{x:g}')
        axes.grid(alpha=0.3)
    drawing.legend_above(figure, drawing.legend_handles(panels))
    drawing.save(figure, path)


def differences(lines: pd.DataFrame, title: str, path: Path) -> None:
    """Draws the differences of `tidy.differences` in points with their intervals.

    The axis holds the intervals over images; arrows mark the ends of those over trainings, which
    are often too wide to see anything else beside them.
    """
    figure, (axes,) = drawing.new_panels([''], (title, ''), 0.4 + 0.42 * len(lines), 6.9)
    lines = lines.reset_index(drop=True)
    images, trainings = ('low', 'high'), ('trainings_low', 'trainings_high')
    scale = images if lines.low.notna().any() else trainings
    ends = lines[['difference', *scale]]
    left, right = min(0.0, ends.min(axis=None)), max(0.0, ends.max(axis=None))
    margin = 0.08 * (right - left) or 1.0
    left, right = left - margin, right + margin
    for over, label, color, shift in (
        (images, 'test images (bootstrap)', BLUE, -0.13),
        (trainings, 'trainings (Student)', ORANGE, 0.13),
    ):
        known = lines[lines[over[0]].notna()]
        if known.empty:
            continue
        low, high, places = known[over[0]], known[over[1]], known.index + shift
        errors = known.difference - low, high - known.difference
        style = {'color': color, 'linestyle': 'none'}
        label = f'95 % interval over {label}'
        axes.errorbar(known.difference, places, xerr=errors, capsize=3, label=label, **style)
        for cut, end, arrow in ((low < left, left, CARETLEFT), (high > right, right, CARETRIGHT)):
            axes.plot(0 * places[cut] + end, places[cut], marker=arrow, clip_on=False, **style)
    style = {'color': BLACK, 'marker': 'o', 'markersize': 4, 'linestyle': 'none'}
    axes.plot(lines.difference, lines.index, label='difference', zorder=3, **style)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_yticks(range(len(lines)), list(lines['first']))
    axes.set(xlim=(left, right), ylim=(len(lines) - 0.5, -0.5))
    axes.grid(axis='x', alpha=0.3)
    drawing.legend_above(figure, drawing.legend_handles([axes]))
    drawing.save(figure, path)
