"""All figures but the training curves; each function writes a PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.markers import CARETLEFT, CARETRIGHT

from metriclt_jax.errors import InputError
from metriclt_jax.files import read_json
from metriclt_jax.reports import drawing
from metriclt_jax.reports.curves import run_curves
from metriclt_jax.reports.drawing import BLACK, BLUE, GREEN, GREY, ORANGE, RED, SKY
from metriclt_jax.reports.runs import read_epochs
from metriclt_jax.reports.statistics import Calibration


def draw_run(workdir: Path) -> None:
    """Draws the figures of a finished run that its folder `figures` does not have yet.

    `training_curves.png` is made of `metrics.jsonl`, `confusion_matrices.png` of `results.json` and
    `features.png` of the features in `predictions.npz`; a figure without its file is left out.
    Raises `InputError` if the run is not finished.
    """
    if not (workdir / 'results.json').exists():
        raise InputError(f'{workdir} has no results.json: wait until its run has finished')
    results = read_json(workdir / 'results.json')
    names, counts = results['class_names'], np.asarray(results['train_counts'])
    folder = workdir / 'figures'
    folder.mkdir(exist_ok=True)
    path = folder / 'training_curves.png'
    if not path.exists():
        run_curves(read_epochs(workdir)[0], path)
    path = folder / 'confusion_matrices.png'
    if not path.exists():
        order = np.argsort(-counts, kind='stable')
        matrices = {}
        for stage in results['stages']:
            title, matrix = f'{stage["name"]}: no trained classifier', np.diag(0 * counts)
            if test := stage['last']['test']:
                title = f'{stage["name"]}, test part: MCR {100 * test["mcr_all"]:.2f} %'
                matrix = np.array(test['confusion'])
            matrices[title] = matrix[np.ix_(order, order)]
        confusion_matrices(matrices, [names[c] for c in order], path, counted=True)
    path = folder / 'features.png'
    if (workdir / 'predictions.npz').exists() and not path.exists():
        with np.load(workdir / 'predictions.npz', allow_pickle=False) as arrays:
            if 'features' in arrays:
                values = arrays['features'].astype(np.float32), arrays['labels']
                title = f't-SNE of the features of {len(values[1])} test images'
                feature_maps({title: values}, names, path, max_points=2000, seed=results['seed'])


def confusion_matrices(
    confusions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    path: Path,
    *,
    counted: bool = False,
) -> None:
    """Draws counts `[C, C]` as matrices whose rows are true classes and sum to 100 per cent.

    Classes stay in their order. If `counted`, cells show the counts, too.
    """
    count = len(class_names)
    few = count <= 12  # numbers in more cells could not be read
    named = few or (counted and count <= 30)
    side = (0.6 if counted else 0.36) * np.clip(count, 8, 12)
    rank = '' if named else ', by rank in training'
    labels = f'predicted class{rank}', f'true class{rank}'
    shared = {'sharex': True, 'sharey': True}
    figure, panels = drawing.new_panels(confusions, labels, side, side, columns=3, **shared)
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
            axes.set_xticks(range(count), class_names, rotation=90, size='small')
            axes.set_yticks(range(count), class_names, size='small')
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
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    path: Path,
    *,
    max_points: int = 1000,
    seed: int = 0,
) -> None:
    """Draws features `[N, D]` with labels `[N]` in two dimensions by t-SNE.

    Of more than `max_points` images, the most frequent classes are thinned out.
    """
    count = len(class_names)
    few = count <= len(drawing.LOOKS)  # each class has its own color and marker
    side, scale = (6.6, 1.0) if len(features) == 1 else (3.0, 0.5)
    figure, panels = drawing.new_panels(features, ('', ''), side, side)
    for axes, (values, labels) in zip(panels, features.values(), strict=True):
        totals = np.bincount(labels, minlength=count)
        kept = drawing.thin_out(labels, max_points, seed)
        points, labels = drawing.tsne(values[kept], seed), labels[kept]
        head_to_tail = [c for c in np.argsort(-totals, kind='stable') if totals[c]]
        for rank, c in enumerate(head_to_tail):
            rarity = rank / max(len(head_to_tail) - 1, 1)
            color, marker = drawing.LOOKS[c] if few else (colormaps['viridis'](rarity), 'o')
            axes.scatter(
                *points[labels == c].T,
                s=scale * (14 + 36 * rarity**2),  # the rarest, drawn last, are not hidden
                color=color,
                marker=marker,
                edgecolor='white',
                linewidth=scale * (0.3 + 0.4 * rarity),
                label=f'{class_names[c]} ({totals[c]})',
            )
        axes.set(xticks=[], yticks=[])  # only distances mean something
    if few:
        handles = {points.get_label(): points for points in panels[0].collections}
        legend = drawing.legend_above(figure, handles, 'class (images)')
        for handle in legend.legend_handles:
            handle.set_sizes([50])
    else:
        ranks = ScalarMappable(Normalize(0, len(head_to_tail) - 1), 'viridis')
        figure.colorbar(ranks, ax=panels, label='class, from the most frequent to the rarest')
    drawing.save(figure, path)


class Study(NamedTuple):
    """Mean class recall by the coefficient of a metric loss."""

    recalls: pd.DataFrame  # `mean` and `deviation` in per cent, by ascending coefficient
    default: float | None  # the coefficient that the paper uses
    stable: tuple[float, float] | None  # where the paper finds the result stable, if it says so


def sensitivity(studies: Mapping[str, Study], path: Path) -> None:
    """Draws figure 2 of the paper: mean class recall by the coefficient of each metric loss."""
    labels = 'coefficient of the metric loss', 'test MCR, per cent'
    figure, panels = drawing.new_panels(studies, labels, 3.0, 4.0, columns=3, sharey=True)
    for axes, (recalls, default, stable) in zip(panels, studies.values(), strict=True):
        if stable:
            axes.axvspan(*stable, color=GREY, alpha=0.2, lw=0, label='stable in the paper')
        style = {'color': GREEN, 'marker': 'o', 'label': 'mean and deviation over runs'}
        deviations = recalls.deviation.fillna(0)
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
    """Draws differences to a reference in points, with their intervals over seeds and images.

    Student's intervals of two or three seeds are too wide to see anything else beside them: the
    axis holds the differences and the intervals over images, and arrows mark cut ends.
    `lines` are of `tidy.differences`; `title` says what is subtracted from what.
    """
    figure, (axes,) = drawing.new_panels([''], (title, ''), 0.4 + 0.42 * len(lines), 6.9)
    lines = lines.reset_index(drop=True)
    scale = 'images' if lines.images_low.notna().any() else 'seeds'
    ends = lines[['difference', f'{scale}_low', f'{scale}_high']]
    left, right = min(0.0, ends.min(axis=None)), max(0.0, ends.max(axis=None))
    margin = 0.08 * (right - left) or 1.0
    left, right = left - margin, right + margin
    for over, label, color, shift in (
        ('images', 'test images (bootstrap)', BLUE, -0.13),
        ('seeds', 'seeds (Student)', ORANGE, 0.13),
    ):
        known = lines[lines[f'{over}_low'].notna()]
        if known.empty:
            continue
        low, high, places = known[f'{over}_low'], known[f'{over}_high'], known.index + shift
        errors = known.difference - low, high - known.difference
        style = {'color': color, 'linestyle': 'none'}
        label = f'95 % interval over {label}'
        axes.errorbar(known.difference, places, xerr=errors, capsize=3, label=label, **style)
        for cut, end, arrow in ((low < left, left, CARETLEFT), (high > right, right, CARETRIGHT)):
            axes.plot(0 * places[cut] + end, places[cut], marker=arrow, clip_on=False, **style)
    style = {'color': BLACK, 'marker': 'o', 'markersize': 4, 'linestyle': 'none'}
    axes.plot(lines.difference, lines.index, label='difference', zorder=3, **style)
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(lines)), list(lines['first']))
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(axis='x', alpha=0.3)
    drawing.legend_above(figure, drawing.legend_handles([axes]))
    drawing.save(figure, path)
