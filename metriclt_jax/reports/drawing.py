"""What the figures share: colors, panels, legends, maps of features, and how a file is written.

Nothing here uses matplotlib's global state, so figures are drawn in any thread and without a
display.
"""

import io
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from metriclt_jax.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which color-blind people can tell apart.
BLACK, GREY = '#000000', '#999999'
BLUE, ORANGE, GREEN, PINK = '#0072B2', '#E69F00', '#009E73', '#CC79A7'
SKY, RED = '#56B4E9', '#D55E00'
PALETTE = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, GREY)
MARKERS = ('o', '^', 's')
SMALL, MEDIUM, LARGE = 9, 10, 11  # font sizes, in points


def new_figure(width: float, height: float) -> 'Figure':
    """An empty figure, in inches, that keeps its parts from overlapping."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def new_panels(
    titles: Sequence[str],
    height: float,
    width: float = 3.3,
    *,
    columns: int = 4,
    sharex: bool = False,
    sharey: bool = False,
) -> 'tuple[Figure, list[Axes]]':
    """A figure with a panel for each title, in rows of `columns`; sizes in inches."""
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    figure = new_figure(columns * width + 1.6, rows * (height + 0.35) + 0.9)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel()
    for axes in grid[len(titles) :]:
        axes.remove()
    panels = list(grid[: len(titles)])
    for axes, title in zip(panels, titles, strict=True):
        head, bracket, tail = title.partition(' (')
        broken = f'{head}\n({tail}' if len(title) > 30 and bracket else title
        axes.set_title(broken, size=LARGE)
    return figure, panels


def outer_labels(panels: 'Sequence[Axes]', xlabel: str, ylabel: str) -> None:
    """Labels at the left, and below each panel that has none under it."""
    columns = panels[0].get_gridspec().ncols
    for place, axes in enumerate(panels):
        if place % columns == 0:
            axes.set_ylabel(ylabel, size=MEDIUM)
        if place + columns >= len(panels):
            axes.set_xlabel(xlabel, size=MEDIUM)
            axes.tick_params(labelbottom=True)  # a shared axis hides it above a removed panel


def legend_above(figure: 'Figure', panels: 'Sequence[Axes]') -> None:
    """A legend of all panels, each label once, in as many columns as the figure has room for."""
    handles: dict[str, Artist] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
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


def note(axes: 'Axes', text: str) -> None:
    """A remark in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', color='#666666', size=MEDIUM)


def save(figure: 'Figure', path: str | os.PathLike) -> None:
    """Writes a PNG atomically; `$` and `_` in texts are printed as they are."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing', UserWarning)  # drawn as a box
        figure.savefig(png, format='png', dpi=150)
    write_atomically(Path(path), png.getvalue())


def scatter_classes(
    axes: 'Axes',
    points: np.ndarray,
    labels: np.ndarray,
    totals: np.ndarray,
    class_names: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Draws points by class; the rarer a class, the later and larger, so that it is not hidden.

    Args:
        axes: where to draw.
        points: `[N, 2]`.
        labels: classes `[N]`.
        totals: examples of each class `[C]`; classes without any are left out.
        class_names: names `[C]`, for the legend.
        scale: of the area of the points.
    """
    from matplotlib import colormaps

    few = _tells_classes_apart(len(class_names))
    head_to_tail = [c for c in np.argsort(-totals, kind='stable') if totals[c]]
    for rank, c in enumerate(head_to_tail):
        rarity = rank / max(len(head_to_tail) - 1, 1)
        axes.scatter(
            *points[labels == c].T,
            s=scale * (14 + 36 * rarity**2),
            color=PALETTE[c % len(PALETTE)] if few else colormaps['viridis'](rarity),
            marker=MARKERS[c % len(MARKERS)] if few else 'o',
            edgecolor='white',
            linewidth=scale * (0.3 + 0.4 * rarity),
            label=f'{class_names[c]} ({totals[c]})',
        )
    axes.set_xticks([])  # only who is near whom means something
    axes.set_yticks([])


def class_legend(figure: 'Figure', axes: 'Axes', totals: np.ndarray) -> None:
    """Beside the figure, what `scatter_classes` drew: a legend, or ranks where classes are many."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if _tells_classes_apart(len(totals)):
        handles, labels = axes.get_legend_handles_labels()
        legend = figure.legend(
            handles, labels, loc='outside right upper', fontsize=MEDIUM, title='class (images)'
        )
        for handle in legend.legend_handles:
            handle.set_sizes([50])
    else:
        ranks = ScalarMappable(Normalize(0, np.count_nonzero(totals) - 1), 'viridis')
        colorbar = figure.colorbar(ranks, ax=figure.axes)
        colorbar.set_label('class, from the most frequent to the rarest', size=MEDIUM)


def _tells_classes_apart(count: int) -> bool:
    """Whether there are pairs of color and marker for this many classes: 8 x 3."""
    return count <= len(PALETTE) * len(MARKERS)


def tsne(features: np.ndarray, seed: int) -> np.ndarray:
    """Features `[N, D]` in two dimensions (van der Maaten and Hinton, 2008), deterministic."""
    from sklearn.manifold import TSNE
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    features = features - features.mean(axis=0)
    # One thread: sums over several would come in any order, and t-SNE amplifies the difference.
    with threadpool_limits(1):
        size = min(50, *features.shape)
        left, scales, _ = randomized_svd(features, size, random_state=seed)
        principal = left * scales
        start = principal[:, :2] / max(principal[:, 0].std(), 1e-12)
        embedding = TSNE(
            perplexity=min(30, (len(features) - 1) / 3),
            init=1e-4 * start,
            max_iter=500,
            random_state=seed,
        )
        return embedding.fit_transform(principal)


def thin_out(labels: ArrayLike, max_points: int, seed: int = 0) -> np.ndarray:
    """At most `max_points` examples: up to the same number of each class, and all of rare ones.

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
