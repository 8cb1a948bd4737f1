"""Training curves: losses and recalls over the epochs, with a panel for each method or aspect."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.ticker import MaxNLocator

from metriclt_jax.reports import drawing
from metriclt_jax.reports.drawing import BLACK, BLUE, GREEN, GREY, PINK, RED, SKY

Line = Mapping[str, Any]  # of the metrics.jsonl of a run


class Curve(NamedTuple):
    """How a column of `_values` is drawn."""

    label: str
    color: str
    style: str
    column: str


RECALLS = (
    Curve('all classes', BLACK, '-', 'validation.mcr_all'),
    Curve('major classes', BLUE, '--', 'validation.mcr_major'),
    Curve('medium classes', GREEN, '-.', 'validation.mcr_medium'),
    Curve('minor classes', RED, ':', 'validation.mcr_minor'),
)
LOSSES = (
    Curve('sum of both', BLACK, '-', 'sum'),
    Curve('classification loss', SKY, '--', 'train.classification'),
    Curve('coefficient × metric loss', PINK, ':', 'weighted'),
)
_ACCURACY = Curve('training accuracy', GREY, '--', 'train.accuracy')
# The panels of a single run.
_ASPECTS = {
    'training loss': LOSSES,
    'metric loss, before its coefficient': (Curve('metric loss', PINK, ':', 'train.metric'),),
    'validation MCR, per cent': (*RECALLS, _ACCURACY),
    'learning rate': (Curve('learning rate', BLACK, '-', 'learning_rate'),),
}
_PER_CENT = [curve.column for curve in (*RECALLS, _ACCURACY)]
_COLUMNS = ['train.loss', 'train.classification', 'train.metric', 'learning_rate', *_PER_CENT]


def run_curves(lines: Sequence[Line], path: Path) -> Path | None:
    """Draws losses, recalls and learning rate of a single run, with a panel for each."""
    panels = {title: ([lines], kinds) for title, kinds in _ASPECTS.items()}
    panels = {title: panel for title, panel in panels.items() if not _values(*panel).empty}
    return curves(panels, '', path, columns=2)


def curves(
    panels: Mapping[str, tuple[Sequence[Sequence[Line]], Sequence[Curve]]],
    ylabel: str,
    path: Path,
    *,
    columns: int = 4,
    sharey: bool = False,
) -> Path | None:
    """Draws values over the epochs; a vertical line separates the stages.

    A curve is the mean over the runs of its panel, its band their range. Returns the path of the
    PNG, or None if there is nothing to draw.
    """
    tables = [_values(*panel) for panel in panels.values()]
    if all(table.empty for table in tables):
        return None
    shared = {'columns': columns, 'sharex': True, 'sharey': sharey}
    figure, grid = drawing.new_panels(panels, ('epoch', ylabel), 2.5, **shared)
    for axes, table, (_, kinds) in zip(grid, tables, panels.values(), strict=True):
        if table.empty:
            axes.text(0.5, 0.5, 'no curve was kept', transform=axes.transAxes, ha='center')
        for number, (_, stage) in enumerate(table.groupby('stage', sort=False)):
            stage = stage.droplevel('stage')
            if number:
                axes.axvline(stage.index.min() - 0.5, color=GREY, linewidth=1)
            for label, color, style, column in (kind for kind in kinds if kind.column in stage):
                over = stage[column].dropna().groupby('epoch').agg(['min', 'mean', 'max'])
                axes.fill_between(
                    over.index, over['min'], over['max'], color=color, alpha=0.2, lw=0
                )
                marker = 'o' if len(over) == 1 else None  # a point makes no line
                axes.plot(over['mean'], style, color=color, lw=1.8, marker=marker, label=label)
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))
    if len({kinds for _, kinds in panels.values()}) == 1:
        drawing.legend_above(figure, drawing.legend_handles(grid))
    else:
        for axes in grid:
            handles = drawing.legend_handles([axes])
            axes.legend(handles.values(), handles, fontsize='small')
    drawing.save(figure, path)
    return path


def _values(runs: Sequence[Sequence[Line]], kinds: Sequence[Curve]) -> pd.DataFrame:
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
    table = table.set_index(['stage', 'epoch'])[[curve.column for curve in kinds]]
    return table.dropna(axis=1, how='all')
