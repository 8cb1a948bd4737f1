"""The figures but training curves: panels with the same axes, one for each method or stage.

Every function takes plain values by the title of the panel, in the order to draw, and writes a
PNG. Color-blind people can tell the colors apart.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from metriclt_jax.errors import InputError
from metriclt_jax.reports import drawing
from metriclt_jax.reports.curves import run_curves
from metriclt_jax.reports.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    MEDIUM,
    ORANGE,
    RED,
    SKY,
    SMALL,
)
from metriclt_jax.reports.runs import read_epochs
from metriclt_jax.reports.statistics import Calibration


def draw_run(workdir: Path) -> None:
    """Draws the figures of a finished run that its folder `figures` does not have yet.

    `training_curves.png` is made of `metrics.jsonl`, `confusion_matrices.png` of `results.json` and
    `features.png` of the features in `predictions.npz`; a figure without its file is left out.

    Raises:
        InputError: the run is not finished.
    """
    if not (workdir / 'results.json').exists():
        raise InputError(f'{workdir} has no results.json: wait until its run has finished')
    results = json.loads((workdir / 'results.json').read_text(encoding='utf-8'))
    folder = workdir / 'figures'
    folder.mkdir(exist_ok=True)
    path = folder / 'training_curves.png'
    lines, _ = read_epochs(workdir)
    if lines and not path.exists():
        run_curves(lines, path)
    path = folder / 'confusion_matrices.png'
    if not path.exists():
        _draw_stages(results, path)
    path = folder / 'features.png'
    if (workdir / 'predictions.npz').exists() and not path.exists():
        with np.load(workdir / 'predictions.npz', allow_pickle=False) as arrays:
            if 'features' in arrays:
                values = arrays['features'].astype(np.float32), arrays['labels']
                title = f't-SNE of the features of {len(values[1])} test images'
                names, seed = results['class_names'], results['seed']
                feature_maps({title: values}, names, path, max_points=2000, seed=seed)


def _draw_stages(results: Mapping[str, Any], path: Path) -> None:
    order = np.argsort(-np.asarray(results['train_counts']), kind='stable')
    matrices = {}
    for stage in results['stages']:
        test = stage['last']['test']
        if test is None:
            matrices[f'{stage["name"]}: no trained classifier'] = np.zeros((len(order),) * 2)
        else:
            title = f'{stage["name"]}, test part: MCR {100 * test["mcr_all"]:.2f} %'
            matrices[title] = np.array(test['confusion'])[np.ix_(order, order)]
    names = [results['class_names'][c] for c in order]
    confusion_matrices(matrices, names, path, counted=True)


def confusion_matrices(
    confusions: Mapping[str, np.ndarray],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    counted: bool = False,
) -> None:
    """Draws confusion matrices; rows are true classes and sum to 100 per cent.

    Args:
        confusions: counts `[C, C]` by title, classes in the order to draw.
        class_names: names `[C]`, in the same order.
        path: the PNG to write.
        counted: whether cells have counts, too.
    """
    count = len(class_names)
    few = count <= 12  # numbers in more cells could not be read
    named = few or (counted and count <= 30)
    height = max(2.8, (0.6 if counted else 0.36) * count) if few else 7 if counted else 3.2
    figure, panels = drawing.new_panels(
        list(confusions),
        height,
        height + 0.1,
        columns=4 if count <= 9 else 3,
        sharex=True,
        sharey=True,
    )
    for axes, counts in zip(panels, confusions.values(), strict=True):
        per_cent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(per_cent, cmap='Blues', vmin=0, vmax=100)
        for (row, column), value in np.ndenumerate(per_cent if few else np.empty((0, 0))):
            if value:
                text = f'{value:.0f}' if value >= 0.5 else '<1'
                text += f'\n({counts[row, column]:.0f})' if counted else ''
                color = 'white' if value > 60 else 'black'
                axes.text(column, row, text, ha='center', va='center', size=SMALL - 1, color=color)
        if named:
            axes.set_xticks(range(count), class_names, rotation=90, size=SMALL)
            axes.set_yticks(range(count), class_names, size=SMALL)
    rank = '' if named else ', by rank in training'
    drawing.outer_labels(panels, f'predicted class{rank}', f'true class{rank}')
    shrink = min(1.0, 2.6 / figure.get_figheight() + 0.2)
    colorbar = figure.colorbar(image, ax=panels, shrink=shrink)
    colorbar.set_label('per cent of the true class', size=MEDIUM)
    drawing.save(figure, path)


def reliability_diagrams(calibrations: Mapping[str, Calibration], path: str | os.PathLike) -> None:
    """Draws accuracy over confidence, with the share of the predictions in each bin.

    Bars below the diagonal are overconfident. The number is the calibration error.
    """
    figure, panels = drawing.new_panels(list(calibrations), 2.9, sharex=True, sharey=True)
    for axes, bins in zip(panels, calibrations.values(), strict=True):
        width = 1 / len(bins.counts)
        middles = (np.arange(len(bins.counts)) + 0.5) * width
        axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, label='perfect calibration')
        accuracy = np.nan_to_num(bins.accuracy)
        style = {'color': SKY, 'edgecolor': 'white', 'linewidth': 0.6}
        axes.bar(middles, accuracy, width, label='accuracy in the bin', **style)
        shares = bins.counts / bins.counts.sum()
        label = 'share of the predictions'
        axes.plot(middles, shares, color=RED, ls='--', marker='.', linewidth=1.2, label=label)
        axes.text(
            0.04,
            0.95,
            f'ECE {100 * bins.error:.1f} %',
            transform=axes.transAxes,
            va='top',
            size=MEDIUM,
            bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.85, 'pad': 2},
        )
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    drawing.outer_labels(panels, 'confidence', 'accuracy, share')
    drawing.legend_above(figure, panels)
    drawing.save(figure, path)


def feature_maps(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    max_points: int = 1000,
    seed: int = 0,
) -> None:
    """Draws features in two dimensions by t-SNE, a map for each panel.

    Args:
        features: features `[N, D]` and labels `[N]` of the test images.
        class_names: names `[C]`.
        path: the PNG to write.
        max_points: of more images, the most frequent classes are thinned out.
        seed: of the choice of the images and of t-SNE.
    """
    side, scale = (6.6, 1.0) if len(features) == 1 else (3.0, 0.5)
    figure, panels = drawing.new_panels(list(features), side, side)
    for axes, (values, labels) in zip(panels, features.values(), strict=True):
        totals = np.bincount(labels, minlength=len(class_names))
        kept = drawing.thin_out(labels, max_points, seed)
        points = drawing.tsne(values[kept], seed)
        drawing.scatter_classes(axes, points, labels[kept], totals, class_names, scale)
    drawing.class_legend(figure, panels[0], totals)
    drawing.save(figure, path)


class Study(NamedTuple):
    """Mean class recall by the coefficient of a metric loss.

    Attributes:
        recalls: `mean` and `deviation` over runs in per cent, by coefficient in ascending order.
        default: the coefficient that the paper uses.
        stable: the range in which the paper finds the result stable; None where it says nothing.
    """

    recalls: pd.DataFrame
    default: float | None
    stable: tuple[float, float] | None


def sensitivity(studies: Mapping[str, Study], path: str | os.PathLike) -> None:
    """Draws figure 2 of the paper: mean class recall by the coefficient of each metric loss."""
    figure, panels = drawing.new_panels(list(studies), 3.0, 4.0, columns=3, sharey=True)
    for axes, (recalls, default, stable) in zip(panels, studies.values(), strict=True):
        coefficients = recalls.index.to_numpy()
        if stable:
            axes.axvspan(*stable, color=GREY, alpha=0.2, lw=0, label='stable in the paper')
        axes.errorbar(
            coefficients,
            recalls['mean'],
            recalls.deviation.fillna(0),
            color=GREEN,
            marker='o',
            capsize=3,
            label='mean and deviation over runs',
        )
        if default in recalls.index:
            style = {'color': RED, 'marker': '^', 'markersize': 11, 'linestyle': 'none'}
            mean = recalls['mean'][default]
            axes.plot(default, mean, **style, zorder=3, label='default')
        if 0 in coefficients:
            axes.set_xscale('symlog', linthresh=min(coefficients[coefficients > 0], default=1.0))
        else:
            axes.set_xscale('log')
        axes.xaxis.set_major_formatter('{x:g}')
        axes.grid(alpha=0.3)
        axes.tick_params(labelleft=True)
    drawing.outer_labels(panels, 'coefficient of the metric loss', 'test MCR, per cent')
    drawing.legend_above(figure, panels)
    drawing.save(figure, path)


def differences(lines: pd.DataFrame, title: str, path: str | os.PathLike) -> None:
    """Draws differences to a reference in points, with their intervals over seeds and images.

    With two or three seeds Student's intervals are so wide that nothing else could be seen beside
    them: the axis holds the differences and the intervals over images, and an arrow marks the
    end of an interval that lies outside.

    Args:
        lines: of `tidy.differences`, a row each.
        title: what is subtracted from what.
        path: the PNG to write.
    """
    from matplotlib.markers import CARETLEFT, CARETRIGHT

    figure = drawing.new_figure(8.5, 1.6 + 0.42 * len(lines))
    axes = figure.subplots()
    lines = lines.reset_index(drop=True)
    has = {over: lines[f'{over}_low'].notna() for over in ('images', 'seeds')}
    over = 'images' if has['images'].any() else 'seeds'
    ends = lines[['difference', f'{over}_low', f'{over}_high']].to_numpy()
    low, high = min(0.0, np.nanmin(ends)), max(0.0, np.nanmax(ends))
    margin = 0.08 * (high - low) or 1.0
    left, right = low - margin, high + margin
    shift = 0.13 * all(known.any() for known in has.values())
    for over, label, color, marker, place in (
        ('images', 'test images (bootstrap)', BLUE, 'o', -shift),
        ('seeds', 'seeds (Student)', ORANGE, 's', shift),
    ):
        known = lines[has[over]]
        if known.empty:
            continue
        low, high, places = known[f'{over}_low'], known[f'{over}_high'], known.index + place
        axes.errorbar(
            known.difference,
            places,
            xerr=[known.difference - low, high - known.difference],
            color=color,
            marker=marker,
            linestyle='none',
            capsize=3,
            label=f'95 % interval over {label}',
        )
        for outside, limit, arrow in (
            (low < left, left, CARETLEFT),
            (high > right, right, CARETRIGHT),
        ):
            at = places[outside]
            axes.plot([limit] * len(at), at, color=color, marker=arrow, ls='none', clip_on=False)
    bare = lines[~(has['images'] | has['seeds'])]
    if len(bare):
        style = {'color': BLACK, 'marker': 'x', 'linestyle': 'none'}
        axes.plot(bare.difference, bare.index, **style, label='no interval')
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(lines)), list(lines['first']), size=MEDIUM)
    axes.set_ylim(len(lines) - 0.5, -0.5)
    axes.grid(axis='x', alpha=0.3)
    axes.set_xlabel(title, size=MEDIUM)
    drawing.legend_above(figure, [axes])
    drawing.save(figure, path)
