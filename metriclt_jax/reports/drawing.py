"""What the figures share; nothing here uses matplotlib's global state or needs a display."""

import io
import math
import textwrap
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text

from metriclt_jax.files import write_atomically
from metriclt_jax.progress import say

# The palette of Okabe and Ito, which color-blind people can tell apart.
BLACK, GREY = '#000000', '#999999'
BLUE, ORANGE, GREEN, PINK = '#0072B2', '#E69F00', '#009E73', '#CC79A7'
SKY, RED = '#56B4E9', '#D55E00'
_PALETTE = (BLUE, ORANGE, GREEN, RED, PINK, SKY, BLACK, GREY)
_LONGEST = 24  # characters of a name
LOOKS = list(zip(3 * _PALETTE, 8 * ('o', '^', 's'), strict=True))  # pairs of color and marker


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sized in inches, whose parts do not overlap."""
    return Figure((width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))


def new_panels(
    titles: Collection[str],
    labels: tuple[str, str],
    height: float,
    width: float = 3.3,
    *,
    columns: int = 4,
    **shared: bool,
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each title, sized in inches; `labels` are those of x and y."""
    count, columns = len(titles), min(columns, len(titles))
    rows = math.ceil(count / columns)
    figure = new_figure(columns * width + 1.6, rows * (height + 0.35) + 0.9)
    panels = figure.subplots(rows, columns, squeeze=False, **shared).ravel()
    for axes in panels[count:]:
        axes.remove()
    for place, (title, axes) in enumerate(zip(titles, panels, strict=False)):
        axes.set_title(textwrap.fill(title, int(10.5 * width)), size=11)
        if place % columns == 0:
            axes.set_ylabel(labels[1])
        if place + columns >= count:
            axes.set_xlabel(labels[0])
            axes.tick_params(labelbottom=True)  # a shared axis hides it above a removed panel
    return figure, list(panels[:count])


def legend_handles(panels: Sequence[Axes]) -> dict[str, Artist]:
    """What the panels draw, each label once."""
    found = [axes.get_legend_handles_labels() for axes in panels]
    return {name: part for parts, names in found for name, part in zip(names, parts, strict=True)}


def legend_above(figure: Figure, handles: Mapping[str, Artist], title: str = '') -> Legend:
    """A legend above the panels, in as many columns as the figure has room for."""
    inches = 0.75 + 0.085 * max(map(len, handles))
    columns = max(1, min(len(handles), int(figure.get_figwidth() / inches)))
    style = {'loc': 'outside upper center', 'frameon': False, 'handlelength': 3, 'title': title}
    return figure.legend(handles.values(), handles, ncols=columns, **style)


def readable(names: Sequence[str]) -> list[str]:
    """Names of classes as a figure can show them: short, in characters that some font has."""
    names = [' '.join(name.split()) for name in names]
    unknown = {c for name in names for c in name if _family_with(c) is None}
    if unknown:
        _say_unknown(''.join(sorted(unknown)))
    spelled = {ord(c): c.encode('ascii', 'backslashreplace').decode() for c in unknown}
    half = _LONGEST // 2
    shown = [name.translate(spelled) for name in names]
    return [f'{n[:half]}…{n[1 - half :]}' if len(n) > _LONGEST else n for n in shown]


def save(figure: Figure, path: Path) -> None:
    """Writes a PNG atomically; all text is drawn literally, in fonts that have its characters."""
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            axis.get_majorticklabels()  # gives them their texts
    texts = figure.findobj(Text)
    families = {_family_with(c): None for text in texts for c in text.get_text() if c.isprintable()}
    for text in texts:
        text.set_parse_math(False)
        text.set_fontfamily([*text.get_fontfamily(), *filter(None, families)])
    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph .* missing', UserWarning)
        figure.savefig(png, format='png', dpi=150)
    write_atomically(path, png.getvalue())


@cache
def _family_with(character: str) -> str | None:
    """An installed font family that has a character, matplotlib's default one first."""
    return next((name for name in _fonts() if ord(character) in _characters(name)), None)


@cache
def _fonts() -> dict[str, str]:
    """The file of each font family; without the one whose glyphs are all boxes."""
    fonts = [f for f in font_manager.fontManager.ttflist if (f.style, f.weight) == ('normal', 400)]
    default = font_manager.FontProperties().get_name()
    fonts.sort(key=lambda font: (font.name != default, 'Sans' not in font.name, font.name))
    return {font.name: font.fname for font in fonts if 'Last Resort' not in font.name}


@cache
def _characters(family: str) -> frozenset[int]:
    try:
        return frozenset(FT2Font(_fonts()[family]).get_charmap())
    except (OSError, RuntimeError):  # deleted meanwhile, or unreadable
        return frozenset()


@cache
def _say_unknown(characters: str) -> None:
    shown = characters.encode('utf-8', 'backslashreplace').decode()
    say(
        f'no installed font has {shown}: the figures show the codes of these characters; '
        'install a font that has them (such as Noto Sans CJK) and draw the figures again'
    )


def tsne(features: np.ndarray) -> np.ndarray:
    """Maps features `[N, D]` to `[N, 2]` (van der Maaten and Hinton, 2008), deterministically."""
    from sklearn.manifold import TSNE
    from sklearn.utils.extmath import randomized_svd
    from threadpoolctl import threadpool_limits

    # Several threads would add in any order, and t-SNE amplifies the difference.
    with threadpool_limits(1):
        size, centered = min(50, *features.shape), features - features.mean(axis=0)
        left, scales, _ = randomized_svd(centered, size, random_state=0)
        principal = left * scales
        init = 1e-4 * principal[:, :2] / max(principal[:, 0].std(), 1e-12)
        perplexity = min(30, (len(features) - 1) / 3)
        embedding = TSNE(perplexity=perplexity, init=init, max_iter=500, random_state=0)
        return embedding.fit_transform(principal)


def thin_out(labels: np.ndarray, max_points: int) -> np.ndarray:
    """Sorted indices of at most `max_points` examples, taken from all classes in turn."""
    order = np.random.default_rng(0).permutation(len(labels))
    shuffled = pd.Series(labels[order])
    turns = shuffled.groupby(shuffled).cumcount().to_numpy()
    return np.sort(order[np.argsort(turns, kind='stable')[:max_points]])
