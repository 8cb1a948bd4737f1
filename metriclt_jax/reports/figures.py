"""Figures of a run: its curves, its confusion matrices and its features, as PNG files.

Every function takes plain values and a path, and puts the file at the path in one step.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from metriclt_jax.reports import drawing
from metriclt_jax.reports.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LARGE,
    MEDIUM,
    PINK,
    RED,
    SKY,
    SMALL,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Panel -> curves: label, colour, and where a line of metrics.jsonl has the value.
_PANELS = {
    'training loss': (
        ('objective', BLACK, ('train', 'loss')),
        ('classification loss', SKY, ('train', 'classification')),
    ),
    'metric loss': (('before its coefficient', PINK, ('train', 'metric')),),
    'per cent': (
        ('training accuracy', GREY, ('train', 'accuracy')),
        ('validation MCR all', BLACK, ('validation', 'mcr_all')),
        ('validation MCR major', BLUE, ('validation', 'mcr_major')),
        ('validation MCR medium', GREEN, ('validation', 'mcr_medium')),
        ('validation MCR minor', RED, ('validation', 'mcr_minor')),
    ),
    'learning rate': (('', BLACK, ('learning_rate',)),),
}


def training_curves(lines: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Losses, recalls and learning rate over the epochs, a column for each stage.

    Args:
        lines: the lines of `metrics.jsonl`, at least one; what they do not have is not drawn.
        path: the PNG to write.
    """
    from matplotlib.ticker import MaxNLocator

    stages = list(dict.fromkeys(line['stage'] for line in lines))
    panels = {}
    for panel, curves in _PANELS.items():
        for curve in curves:
            if any(_value(line, curve[-1]) is not None for line in lines):
                panels.setdefault(panel, []).append(curve)

    figure = drawing.new_figure(4.2 * len(stages) + 2.4, 2.4 * len(panels) + 0.4)
    grid = figure.subplots(len(panels), len(stages), squeeze=False, sharex='col')
    for row, (panel, curves) in zip(grid, panels.items(), strict=True):
        for axes, stage in zip(row, stages, strict=True):
            here = [line for line in lines if line['stage'] == stage]
            for label, colour, where in curves:
                points = [(line['epoch'], _value(line, where)) for line in here]
                points = np.array([point for point in points if None not in point]).reshape(-1, 2)
                # The first curve is wide, since the next one may lie on it.
                width = 3 if label == curves[0][0] and len(curves) > 1 else 1.5
                marker = 'o' if len(points) < 30 else None  # a single point makes no line
                unit = 100 if panel == 'per cent' else 1
                axes.plot(
                    points[:, 0],
                    points[:, 1] * unit,
                    color=colour,
                    label=label,
                    linewidth=width,
                    marker=marker,
                    markersize=2 + width,
                )
            axes.grid(alpha=0.3)
            axes.xaxis.set_major_locator(
                MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1)
            )
            axes.set_xlim(0.5, here[-1]['epoch'] + 0.5)
            if not any(len(curve.get_xdata()) for curve in axes.lines):
                drawing.note(axes, 'none in this stage')
                axes.tick_params(labelleft=False)
        row[0].set_ylabel(panel, size=MEDIUM)
        if any(label for label, _, _ in curves):
            row[-1].legend(
                loc='upper left', bbox_to_anchor=(1, 1.05), fontsize=MEDIUM, frameon=False
            )
    for axes, stage in zip(grid[0], stages, strict=True):
        axes.set_title(stage, size=LARGE)
    for axes in grid[-1]:
        axes.set_xlabel('epoch', size=MEDIUM)
    drawing.save(figure, path)


def _value(line: Mapping[str, Any], where: Sequence[str]) -> float | None:
    value = line
    for name in where:
        value = None if value is None else value.get(name)
    return value


def confusion_matrices(results: Mapping[str, Any], path: str | os.PathLike) -> None:
    """The confusion matrices of the test part at the end of each stage, side by side.

    Rows are true classes and sum to 100 per cent, so that the diagonal has the recalls; below the
    per cent is the count. Classes go from the most frequent one in training to the least frequent.

    Args:
        results: the contents of `results.json`.
        path: the PNG to write.
    """
    order = np.argsort(-np.asarray(results['train_counts']), kind='stable')
    names = [results['class_names'][c] for c in order]
    stages = results['stages']
    few = len(names) <= 12  # numbers in more cells could not be read
    side = max(3.2, 0.62 * len(names)) if few else 7

    figure = drawing.new_figure(side * len(stages) + 2.6, side + 1.6)
    grid = figure.subplots(1, len(stages), squeeze=False, sharey=True)[0]
    for axes, stage in zip(grid, stages, strict=True):
        test = stage['last']['test']
        if test is None:
            counts = np.zeros((len(names), len(names)), int)
            drawing.note(axes, 'no trained classifier')
            title = stage['name']
        else:
            counts = np.array(test['confusion'])[np.ix_(order, order)]
            title = f'{stage["name"]}, test part: MCR {100 * test["mcr_all"]:.2f} %'
        per_cent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(per_cent, cmap='Blues', vmin=0, vmax=100)
        if few and test is not None:
            _write_cells(axes, per_cent, counts)
        axes.set_title(title, size=LARGE)
        axes.set_xlabel('predicted class', size=LARGE)
        if len(names) <= 30:
            axes.set_xticks(range(len(names)), names, rotation=90, size=MEDIUM)
            axes.set_yticks(range(len(names)), names, size=MEDIUM)
    rank = '' if len(names) <= 30 else ', by rank in the training part'
    grid[0].set_ylabel(f'true class{rank}', size=LARGE)
    colorbar = figure.colorbar(image, ax=grid, shrink=0.8)
    colorbar.set_label('per cent of the true class', size=MEDIUM)
    drawing.save(figure, path)


def _write_cells(axes: 'Axes', per_cent: np.ndarray, counts: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            value = per_cent[row, column]
            axes.text(
                column,
                row,
                f'{value:.1f}\n({count})',
                ha='center',
                va='center',
                size=SMALL,
                color='white' if value > 55 else 'black',
            )


def feature_map(
    features: ArrayLike,
    labels: ArrayLike,
    class_names: Sequence[str],
    path: str | os.PathLike,
    seed: int = 0,
    *,
    max_points: int = 2000,
) -> None:
    """Features in two dimensions by t-SNE (van der Maaten and Hinton, 2008), coloured by class.

    The rarer a class, the later and larger it is drawn, so that it is not hidden. The same
    arguments give the same picture.

    Args:
        features: `[N, D]`.
        labels: classes `[N]`.
        class_names: names `[C]`.
        path: the PNG to write.
        seed: of the choice of the points and of t-SNE.
        max_points: of more than these, the most frequent classes are thinned out, see `thin_out`.
    """
    features, labels = np.asarray(features), np.asarray(labels)
    totals = np.bincount(labels, minlength=len(class_names))
    kept = thin_out(labels, max_points, seed)
    points, labels = drawing.tsne(features[kept], seed), labels[kept]

    figure = drawing.new_figure(9, 6.6)
    axes = figure.subplots()
    drawing.scatter_classes(axes, points, labels, totals, class_names)
    drawing.class_legend(figure, axes, len(class_names), totals)
    drawn = '' if len(kept) == totals.sum() else f', {len(kept)} of them drawn'
    axes.set_title(f't-SNE of the features of {totals.sum()} test images{drawn}', size=LARGE)
    drawing.save(figure, path)


def thin_out(labels: ArrayLike, max_points: int, seed: int = 0) -> np.ndarray:
    """At most `max_points` examples: up to the same number of each class, and all of rare ones.

    Args:
        labels: classes `[N]`.
        max_points: how many to keep; not below one of each class.
        seed: of the choice within a class.

    Returns:
        Indices of the kept examples, in ascending order.

    >>> labels = [0] * 50 + [1] * 7 + [2] * 3
    >>> np.bincount(np.asarray(labels)[thin_out(labels, 20)]).tolist()
    [10, 7, 3]
    """
    labels = np.asarray(labels)
    counts = np.bincount(labels)
    limits = np.arange(1, counts.max() + 1)
    totals = np.minimum(counts, limits[:, None]).sum(axis=1)
    limit = max(1, np.searchsorted(totals, max_points, side='right'))
    order = np.random.default_rng(seed).permutation(len(labels))
    return np.sort(np.concatenate([order[labels[order] == c][:limit] for c in np.unique(labels)]))


def draw_run(workdir: Path) -> None:
    """Draws `figures/` of a finished run from its own files."""
    import json

    directory = workdir / 'figures'
    directory.mkdir(exist_ok=True)
    results = json.loads((workdir / 'results.json').read_text())
    lines = [json.loads(text) for text in (workdir / 'metrics.jsonl').read_text().splitlines()]
    training_curves(lines, directory / 'training_curves.png')
    confusion_matrices(results, directory / 'confusion_matrices.png')
    if (workdir / 'predictions.npz').exists():
        with np.load(workdir / 'predictions.npz', allow_pickle=False) as arrays:
            feature_map(
                arrays['features'],
                arrays['labels'],
                results['class_names'],
                directory / 'features.png',
                results['seed'],
            )
