"""Training curves: losses and recalls over the epochs, with a panel for each method or aspect."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from metriclt_jax.reports import drawing
from metriclt_jax.reports.drawing import BLACK, BLUE, GREEN, GREY, PINK, RED, SKY, SMALL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Line = Mapping[str, Any]  # of the metrics.jsonl of a run


class Curve(NamedTuple):
    """How a value of the epochs is drawn; `value` is None for an epoch without it."""

    label: str
    color: str
    style: str
    value: Callable[[Line], float | None]


def _recall(name: str) -> Callable[[Line], float | None]:
    def value(line):
        recall = (line['validation'] or {}).get(name)
        return None if recall is None else 100 * recall

    return value


def _objective(line: Line) -> float | None:
    """The sum of both losses; None where there is one, whose curve it would lie on."""
    return line['train']['loss'] if {'classification', 'metric'} <= line['train'].keys() else None


def _weighted_metric_loss(line: Line) -> float | None:
    """Coefficient times metric loss: what the objective has beside the classification loss."""
    train = line['train']
    return train['loss'] - train.get('classification', 0) if 'metric' in train else None


def _accuracy(line: Line) -> float | None:
    return 100 * line['train']['accuracy'] if 'accuracy' in line['train'] else None


RECALLS = (
    Curve('all classes', BLACK, '-', _recall('mcr_all')),
    Curve('major classes', BLUE, '--', _recall('mcr_major')),
    Curve('medium classes', GREEN, '-.', _recall('mcr_medium')),
    Curve('minor classes', RED, ':', _recall('mcr_minor')),
)
LOSSES = (
    Curve('sum of both', BLACK, '-', _objective),
    Curve('classification loss', SKY, '--', lambda line: line['train'].get('classification')),
    Curve('coefficient × metric loss', PINK, ':', _weighted_metric_loss),
)
# The panels of a single run.
_ASPECTS = {
    'training loss': LOSSES,
    'metric loss, before its coefficient': (
        Curve('metric loss', PINK, ':', lambda line: line['train'].get('metric')),
    ),
    'validation MCR, per cent': (*RECALLS, Curve('training accuracy', GREY, '--', _accuracy)),
    'learning rate': (Curve('learning rate', BLACK, '-', lambda line: line.get('learning_rate')),),
}


def run_curves(lines: Sequence[Line], path: Path) -> Path | None:
    """Draws losses, recalls and learning rate of a single run, with a panel for each."""
    panels = {title: ([lines], kinds) for title, kinds in _ASPECTS.items()}
    panels = {title: panel for title, panel in panels.items() if _has_values(*panel)}
    return curves(panels, '', path, columns=2)


def curves(
    panels: Mapping[str, tuple[Sequence[Sequence[Line]], Sequence[Curve]]],
    ylabel: str,
    path: Path,
    *,
    columns: int = 4,
    sharey: bool = False,
) -> Path | None:
    """Draws values over the epochs; a vertical line parts the stages.

    A curve is the mean over the runs, its band their range.

    Args:
        panels: the epochs of some runs, and what to draw of them.
        ylabel: of all panels.
        path: the PNG to write.
        columns: panels side by side.
        sharey: whether all panels have the same scale.

    Returns:
        The path, or None and no file where there is nothing to draw.
    """
    from matplotlib.ticker import MaxNLocator

    if not any(_has_values(*panel) for panel in panels.values()):
        return None
    figure, grid = drawing.new_panels(
        list(panels), 2.5, columns=columns, sharex=True, sharey=sharey
    )
    for axes, (runs, kinds) in zip(grid, panels.values(), strict=True):
        if not _has_values(runs, kinds):
            drawing.note(axes, 'no curve was kept')
        start = 0
        for stage, length in _stage_lengths(runs).items():
            if start:
                axes.axvline(start + 0.5, color=GREY, linewidth=1)
            _draw_stage(axes, runs, kinds, stage, start)
            start += length
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    drawing.outer_labels(grid, 'epoch', ylabel)
    if len({kinds for _, kinds in panels.values()}) == 1:
        drawing.legend_above(figure, grid)
    else:
        for axes in grid:
            handles, labels = axes.get_legend_handles_labels()
            if len(set(labels)) > 1:
                unique = dict(zip(labels, handles, strict=True))
                axes.legend(unique.values(), unique, fontsize=SMALL)
    drawing.save(figure, path)
    return path


def _draw_stage(axes: 'Axes', runs, kinds: Sequence[Curve], stage: str, start: int) -> None:
    for label, color, style, value in kinds:
        points = pd.DataFrame(
            [
                (start + line['epoch'], value(line))
                for lines in runs
                for line in lines
                if line['stage'] == stage and value(line) is not None
            ],
            columns=['epoch', 'value'],
        )
        if len(points):
            over = points.groupby('epoch').value.agg(['min', 'mean', 'max'])
            axes.fill_between(over.index, over['min'], over['max'], color=color, alpha=0.2, lw=0)
            axes.plot(
                over.index,
                over['mean'],
                color=color,
                linestyle=style,
                linewidth=1.8,
                marker='o' if len(over) == 1 else None,  # a point makes no line
                label=label,
            )


def _has_values(runs: Sequence[Sequence[Line]], kinds: Sequence[Curve]) -> bool:
    return any(kind.value(line) is not None for lines in runs for line in lines for kind in kinds)


def _stage_lengths(runs: Sequence[Sequence[Line]]) -> dict[str, int]:
    """The epochs of each stage."""
    lengths = {}
    for line in (line for lines in runs for line in lines):
        lengths[line['stage']] = max(lengths.get(line['stage'], 0), line['epoch'])
    return lengths
