"""Figures that set methods beside each other: a small panel for each, with the same axes.

Every function takes plain values by the title of the method, in the order to draw, and writes a
PNG. Colours are those that colour-blind people can tell apart, and no curve is told by its colour
alone.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from metriclt_jax.reports import drawing
from metriclt_jax.reports.drawing import (
    BLACK,
    BLUE,
    GREEN,
    GREY,
    LARGE,
    MEDIUM,
    ORANGE,
    PINK,
    RED,
    SKY,
    SMALL,
)
from metriclt_jax.reports.figures import thin_out
from metriclt_jax.reports.statistics import Calibration, Estimate, Interval, calibration_error

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 4  # panels side by side

Line = Mapping[str, Any]  # of the metrics.jsonl of a run


def _recall(name: str) -> Callable[[Line], float | None]:
    return lambda line: (line['validation'] or {}).get(name)


def _loss(name: str) -> Callable[[Line], float | None]:
    return lambda line: line['train'].get(name)


def _objective(line: Line) -> float | None:
    """The sum of both losses; None where there is one, whose curve it would lie on."""
    return line['train']['loss'] if {'classification', 'metric'} <= line['train'].keys() else None


def _weighted_metric_loss(line: Line) -> float | None:
    """Coefficient times metric loss: what the objective has beside the classification loss."""
    train = line['train']
    return train['loss'] - train.get('classification', 0) if 'metric' in train else None


# Label, colour, line style, and the value of a line.
_RECALLS = (
    ('all classes', BLACK, '-', _recall('mcr_all')),
    ('major classes', BLUE, '--', _recall('mcr_major')),
    ('medium classes', GREEN, '-.', _recall('mcr_medium')),
    ('minor classes', RED, ':', _recall('mcr_minor')),
)
_LOSSES = (
    ('sum of both', BLACK, '-', _objective),
    ('classification loss', SKY, '--', _loss('classification')),
    ('coefficient × metric loss', PINK, ':', _weighted_metric_loss),
)


def recall_curves(runs: Mapping[str, Sequence[Sequence[Line]]], path: str | os.PathLike) -> bool:
    """Mean class recalls on the validation part over the epochs, by method.

    A curve is the mean over the runs, its band their range; a vertical line parts the stages.

    Returns:
        False, and no file, where no run was validated.
    """
    return _curves(runs, _RECALLS, 'validation MCR, per cent', 100, path, sharey=True)


def loss_curves(runs: Mapping[str, Sequence[Sequence[Line]]], path: str | os.PathLike) -> bool:
    """What the methods minimise over the epochs, on axes of their own: losses have other scales."""
    return _curves(runs, _LOSSES, 'training loss', 1, path, sharey=False)


def _curves(runs, kinds, ylabel, unit, path, sharey) -> bool:
    from matplotlib.ticker import MaxNLocator

    drawn = {}
    figure, panels = _panels(list(runs), 2.5, sharex=True, sharey=sharey)
    for axes, of_method in zip(panels, runs.values(), strict=True):
        start = 0
        for stage, length in _stage_lengths(of_method).items():
            if start:
                axes.axvline(start + 0.5, color=GREY, linewidth=1)
            for label, colour, style, value in kinds:
                epochs, low, mean, high = _over_runs(of_method, stage, value)
                if len(epochs):
                    epochs = start + epochs
                    axes.fill_between(
                        epochs, unit * low, unit * high, color=colour, alpha=0.2, lw=0
                    )
                    (drawn[label],) = axes.plot(
                        epochs,
                        unit * mean,
                        color=colour,
                        linestyle=style,
                        linewidth=1.8,
                        marker='o' if len(epochs) == 1 else None,  # a point makes no line
                    )
            start += length
        if not any(len(curve.get_xdata()) and curve.get_color() != GREY for curve in axes.lines):
            drawing.note(axes, 'no curve was kept')
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    _outer_labels(panels, 'epoch', ylabel)
    if not drawn:
        return False
    _legend_above(figure, {label: drawn[label] for label, *_ in kinds if label in drawn})
    drawing.save(figure, path)
    return True


def _stage_lengths(runs: Sequence[Sequence[Line]]) -> dict[str, int]:
    """The epochs of each stage."""
    lengths = {}
    for line in (line for lines in runs for line in lines):
        lengths[line['stage']] = max(lengths.get(line['stage'], 0), line['epoch'])
    return lengths


def _over_runs(
    runs: Sequence[Sequence[Line]], stage: str, value: Callable[[Line], float | None]
) -> tuple[np.ndarray, ...]:
    """Epochs, and the lowest, mean and highest value over the runs that have one, `[E]` each."""
    found = {}
    for line in (line for lines in runs for line in lines if line['stage'] == stage):
        if value(line) is not None:
            found.setdefault(line['epoch'], []).append(value(line))
    epochs = sorted(found)
    return (
        np.array(epochs),
        *(np.array([summary(found[e]) for e in epochs]) for summary in (min, np.mean, max)),
    )


def confusion_matrices(
    confusions: Mapping[str, np.ndarray], class_names: Sequence[str], path: str | os.PathLike
) -> None:
    """Confusion matrices by method; rows are true classes and sum to 100 per cent.

    Args:
        confusions: counts `[C, C]` by method, classes in the order to draw.
        class_names: names `[C]`, in the same order.
        path: the PNG to write.
    """
    count = len(class_names)
    few = count <= 12  # numbers in more cells, and more names, could not be read
    height = max(2.8, 0.36 * count) if few else 3.2
    columns = COLUMNS if count <= 9 else 3
    figure, panels = _panels(
        list(confusions), height, height + 0.1, columns=columns, sharex=True, sharey=True
    )
    for axes, counts in zip(panels, confusions.values(), strict=True):
        per_cent = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        image = axes.imshow(per_cent, cmap='Blues', vmin=0, vmax=100)
        if few:
            _write_per_cent(axes, per_cent, counts)
            axes.set_xticks(range(count), class_names, rotation=90, size=SMALL)
            axes.set_yticks(range(count), class_names, size=SMALL)
    rank = '' if few else ', by rank in training'
    _outer_labels(panels, f'predicted class{rank}', f'true class{rank}')
    colorbar = figure.colorbar(
        image, ax=panels, shrink=min(1.0, 2.6 / figure.get_figheight() + 0.2)
    )
    colorbar.set_label('per cent of the true class', size=MEDIUM)
    drawing.save(figure, path)


def _write_per_cent(axes: 'Axes', per_cent: np.ndarray, counts: np.ndarray) -> None:
    for (row, column), value in np.ndenumerate(per_cent):
        if counts[row, column]:
            text = f'{value:.0f}' if value >= 0.5 else '<1'
            colour = 'white' if value > 65 else 'black'
            axes.text(column, row, text, ha='center', va='center', size=SMALL - 1, color=colour)


def reliability_diagrams(calibrations: Mapping[str, Calibration], path: str | os.PathLike) -> None:
    """Accuracy over confidence by method, with the share of the predictions in each bin.

    Bars below the diagonal are overconfident. The number is the calibration error of all runs
    together.
    """
    figure, panels = _panels(list(calibrations), 2.9, sharex=True, sharey=True)
    for axes, bins in zip(panels, calibrations.values(), strict=True):
        width = 1 / len(bins.counts)
        middles = (np.arange(len(bins.counts)) + 0.5) * width
        axes.plot([0, 1], [0, 1], color=BLACK, linewidth=1, label='perfect calibration')
        axes.bar(
            middles,
            np.nan_to_num(bins.accuracy),
            width,
            color=SKY,
            edgecolor='white',
            linewidth=0.6,
            label='accuracy in the bin',
        )
        axes.plot(
            middles,
            bins.counts / bins.counts.sum(),
            color=RED,
            linestyle='--',
            marker='.',
            linewidth=1.2,
            label='share of the predictions',
        )
        axes.text(
            0.04,
            0.95,
            f'ECE {100 * calibration_error(bins):.1f} %',
            transform=axes.transAxes,
            va='top',
            size=MEDIUM,
            bbox={'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.85, 'pad': 2},
        )
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1)
        axes.set_xticks([0, 0.5, 1])
        axes.set_yticks([0, 0.5, 1])
    _outer_labels(panels, 'confidence', 'accuracy, share')
    _legend_above(figure, _handles(panels))
    drawing.save(figure, path)


def feature_maps(
    features: Mapping[str, tuple[np.ndarray, np.ndarray]],
    class_names: Sequence[str],
    path: str | os.PathLike,
    *,
    max_points: int = 1000,
    seed: int = 0,
) -> None:
    """Features in two dimensions by t-SNE, a panel and a map of its own for each method.

    Args:
        features: `[N, D]` and labels `[N]` of the same test images by method.
        class_names: names `[C]`.
        path: the PNG to write.
        max_points: of more images, the most frequent classes are thinned out.
        seed: of the choice of the images and of t-SNE.
    """
    figure, panels = _panels(list(features), 3.0, 3.0)
    for axes, (values, labels) in zip(panels, features.values(), strict=True):
        totals = np.bincount(labels, minlength=len(class_names))
        kept = thin_out(labels, max_points, seed)
        points = drawing.tsne(values[kept], seed)
        drawing.scatter_classes(axes, points, labels[kept], totals, class_names, scale=0.5)
    drawing.class_legend(figure, panels[0], len(class_names), totals)
    drawing.save(figure, path)


@dataclass(frozen=True)
class Study:
    """Mean class recall by the coefficient of a metric loss.

    Attributes:
        coefficients: in ascending order `[K]`.
        recalls: of all classes, in per cent `[K]`.
        default: the coefficient that the paper uses.
        stable: the range in which the paper finds the result stable; None where it says nothing.
    """

    coefficients: Sequence[float]
    recalls: Sequence[Estimate]
    default: float
    stable: tuple[float, float] | None


def sensitivity(studies: Mapping[str, Study], path: str | os.PathLike) -> None:
    """Figure 2 of the paper: mean class recall by the coefficient of each metric loss."""
    figure, panels = _panels(list(studies), 3.0, 4.0, columns=3, sharey=True)
    for axes, study in zip(panels, studies.values(), strict=True):
        means = np.array([recall.mean for recall in study.recalls])
        deviations = np.array([recall.deviation or 0 for recall in study.recalls])
        if study.stable:
            axes.axvspan(*study.stable, color=GREY, alpha=0.2, lw=0, label='stable in the paper')
        axes.errorbar(
            study.coefficients,
            means,
            deviations,
            color=GREEN,
            marker='o',
            capsize=3,
            label='mean and deviation over runs',
        )
        for coefficient, mean in zip(study.coefficients, means, strict=True):
            if coefficient == study.default:
                axes.plot(
                    coefficient,
                    mean,
                    color=RED,
                    marker='^',
                    markersize=11,
                    linestyle='none',
                    zorder=3,
                    label='default',
                )
        positive = min((c for c in study.coefficients if c > 0), default=1.0)
        axes.set_xscale('symlog', linthresh=positive) if 0 in study.coefficients else (
            axes.set_xscale('log')
        )
        axes.grid(alpha=0.3)
        axes.tick_params(labelleft=True)
    _outer_labels(panels, 'coefficient of the metric loss', 'test MCR, per cent')
    _legend_above(figure, _handles(panels))
    drawing.save(figure, path)


def differences(
    compared: Mapping[str, tuple[float, Interval | None, Interval | None]],
    title: str,
    path: str | os.PathLike,
) -> None:
    """Differences to a reference method in points, with their intervals over seeds and images.

    With two or three seeds Student's intervals are so wide that nothing else could be seen beside
    them: the axis holds the differences and the intervals over images, and an arrow says that an
    interval goes on.

    Args:
        compared: by method the difference, the interval over seeds and that over test images.
        title: what is subtracted from what.
        path: the PNG to write.
    """
    from matplotlib.markers import CARETLEFT, CARETRIGHT

    figure = drawing.new_figure(8.5, 1.6 + 0.42 * len(compared))
    axes = figure.subplots()
    both = all(any(values[which] for values in compared.values()) for which in (1, 2))
    kinds = (
        ('test images (bootstrap)', BLUE, -0.13 * both, 'o', 2),
        ('seeds (Student)', ORANGE, 0.13 * both, 's', 1),
    )
    left, right = _differences_shown(compared)
    for label, colour, shift, marker, which in kinds:
        rows = [
            (place + shift, 100 * values[which].difference, values[which])
            for place, values in enumerate(compared.values())
            if values[which] is not None
        ]
        if rows:
            places, means, intervals = zip(*rows, strict=True)
            reach = [
                [m - 100 * i.low, 100 * i.high - m] for m, i in zip(means, intervals, strict=True)
            ]
            axes.errorbar(
                means,
                places,
                xerr=np.array(reach).T,
                color=colour,
                marker=marker,
                linestyle='none',
                capsize=3,
                label=f'95 % interval over {label}',
            )
            for place, _, interval in rows:
                for end, limit, arrow in (
                    (100 * interval.low, left, CARETLEFT),
                    (100 * interval.high, right, CARETRIGHT),
                ):
                    if not left <= end <= right:
                        axes.plot(limit, place, color=colour, marker=arrow, clip_on=False)
    bare = [
        (place, 100 * difference)
        for place, (difference, *intervals) in enumerate(compared.values())
        if not any(intervals)
    ]
    if bare:
        places, means = zip(*bare, strict=True)
        axes.plot(means, places, color=BLACK, marker='x', linestyle='none', label='no interval')
    axes.axvline(0, color=BLACK, linewidth=1)
    axes.set_xlim(left, right)
    axes.set_yticks(range(len(compared)), list(compared), size=MEDIUM)
    axes.set_ylim(len(compared) - 0.5, -0.5)
    axes.grid(axis='x', alpha=0.3)
    axes.set_xlabel(title, size=MEDIUM)
    _legend_above(figure, _handles([axes]))
    drawing.save(figure, path)


def _differences_shown(
    compared: Mapping[str, tuple[float, Interval | None, Interval | None]],
) -> tuple[float, float]:
    """The part of the axis, in points, that holds zero, the differences and their intervals.

    Those over images, that is, which are narrower; those over seeds where there are no others.
    """
    intervals = [over_images for *_, over_images in compared.values() if over_images]
    intervals = intervals or [over_seeds for _, over_seeds, _ in compared.values() if over_seeds]
    ends = [0.0, *(difference for difference, *_ in compared.values())]
    ends += [end for interval in intervals for end in (interval.low, interval.high)]
    margin = 0.08 * (max(ends) - min(ends)) or 0.01
    return 100 * (min(ends) - margin), 100 * (max(ends) + margin)


def _panels(
    titles: Sequence[str],
    height: float,
    width: float = 3.3,
    *,
    columns: int = COLUMNS,
    sharex: bool = False,
    sharey: bool = False,
) -> 'tuple[Figure, list[Axes]]':
    """A figure with a panel for each title, in rows of `columns`."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = drawing.new_figure(columns * width + 1.6, rows * (height + 0.35) + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in grid[len(titles) :]:
        axes.remove()
    panels = list(grid[: len(titles)])
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(_broken(title), size=LARGE - 1)
    return figure, panels


def _broken(title: str, length: int = 30) -> str:
    """A long title in two lines, at a bracket if it has one."""
    head, bracket, tail = title.partition(' (')
    return f'{head}\n{bracket.strip()}{tail}' if len(title) > length and bracket else title


def _outer_labels(panels: 'Sequence[Axes]', xlabel: str, ylabel: str) -> None:
    """Labels at the left, and below each panel that has none under it."""
    columns = panels[0].get_gridspec().ncols
    for place, axes in enumerate(panels):
        if place % columns == 0:
            axes.set_ylabel(ylabel, size=MEDIUM)
        if place + columns >= len(panels):
            axes.set_xlabel(xlabel, size=MEDIUM)
            axes.tick_params(labelbottom=True)  # a shared axis hides it above a removed panel


def _handles(panels: 'Sequence[Axes]') -> 'dict[str, Artist]':
    """What the panels show, each label once."""
    handles = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    return handles


def _legend_above(figure: 'Figure', handles: 'Mapping[str, Artist]') -> None:
    """A legend in as many columns as the figure has room for."""
    inches = 0.75 + 0.085 * max(map(len, handles))
    figure.legend(
        handles.values(),
        handles,
        loc='outside upper center',
        ncols=max(1, min(len(handles), int(figure.get_figwidth() / inches))),
        fontsize=MEDIUM,
        frameon=False,
        handlelength=3,
    )
