"""What the figures share: colours, fonts, maps of features, and how a file is written.

Nothing here uses matplotlib's global state, so figures are drawn in any thread and without a
display.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# The palette of Okabe and Ito, which colour-blind people can tell apart.
BLACK, GREY = '#000000', '#999999'
BLUE, ORANGE, GREEN, PINK = '#0072B2', '#E69F00', '#009E73', '#CC79A7'
SKY, RED = '#56B4E9', '#D55E00'
PALETTE = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, GREY)
MARKERS = ('o', '^', 's')
SMALL, MEDIUM, LARGE = 9, 10, 12  # font sizes, in points


def new_figure(width: float, height: float) -> 'Figure':
    """An empty figure, in inches, that keeps its parts from overlapping."""
    from matplotlib.figure import Figure

    figure = Figure((width, height), layout='constrained')
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    return figure


def note(axes: 'Axes', text: str) -> None:
    """A remark in the middle of a panel that has nothing to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha='center', color='#666666', size=MEDIUM)


def save(figure: 'Figure', path: str | os.PathLike) -> None:
    """Writes a PNG in one step: a reader sees the old picture or the new one, never a part."""
    path = Path(path)
    temporary = path.with_name(f'.{path.name}.{os.getpid()}')
    figure.savefig(temporary, format='png', dpi=150)
    temporary.replace(path)


def tells_classes_apart(count: int) -> bool:
    """Whether there are pairs of colour and marker for so many classes: 8 x 3."""
    return count <= len(PALETTE) * len(MARKERS)


def scatter_classes(
    axes: 'Axes',
    points: np.ndarray,
    labels: np.ndarray,
    totals: np.ndarray,
    class_names: Sequence[str],
    scale: float = 1.0,
) -> None:
    """Points coloured by class; the rarer a class, the later and larger, so that it is not hidden.

    Args:
        axes: where to draw.
        points: `[N, 2]`.
        labels: classes `[N]`.
        totals: examples of each class `[C]`; classes without any are left out.
        class_names: names `[C]`, for the legend.
        scale: of the area of the points.
    """
    from matplotlib import colormaps

    few = tells_classes_apart(len(class_names))
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


def class_legend(figure: 'Figure', axes: 'Axes', classes: int, totals: np.ndarray) -> None:
    """Beside the figure, what `scatter_classes` drew: a legend, or ranks where classes are many."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    if tells_classes_apart(classes):
        legend = figure.legend(
            *axes.get_legend_handles_labels(),
            loc='outside right upper',
            fontsize=MEDIUM,
            title='class (images)',
        )
        for handle in legend.legend_handles:
            handle.set_sizes([50])
    else:
        ranks = ScalarMappable(Normalize(0, np.count_nonzero(totals) - 1), 'viridis')
        colorbar = figure.colorbar(ranks, ax=figure.axes)
        colorbar.set_label('class, from the most frequent to the rarest', size=MEDIUM)


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
