"""Figures are written whole, without warnings, and show the values they are given."""

import json

import numpy as np
import pandas as pd
import pytest
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from metriclt_jax.errors import InputError
from metriclt_jax.reports import drawing, figures
from metriclt_jax.reports.published import METHOD_TITLES
from metriclt_jax.reports.statistics import calibrate

TITLES = list(METHOD_TITLES.values())


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved; none has anything cut off or overlapping."""
    saved = []
    save = drawing.save

    def save_and_check(figure, path):
        saved.append(figure)
        save(figure, path)
        assert np.asarray(Image.open(path).convert('L')).std() > 5
        check_layout(figure)

    monkeypatch.setattr(drawing, 'save', save_and_check)
    return saved


def check_layout(figure) -> None:
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw_without_rendering()
    titles = [axes.title for axes in figure.axes if axes.get_title()]
    boxes = [part.get_window_extent(renderer) for part in (*titles, *figure.legends)]
    axises = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    boxes += [box for axis in axises if (box := axis.get_tightbbox(renderer))]
    for place, box in enumerate(boxes):
        assert np.all(box.min >= -1)  # pixel
        assert np.all(box.max <= figure.bbox.max + 1)
        for other in boxes[:place]:
            overlap = np.minimum(box.max, other.max) - np.maximum(box.min, other.min)
            assert overlap.min() < 2


def legend_texts(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines(method: int = 0, *, seed: int = 0) -> list[dict]:
    """Two stages of three epochs."""
    first = {'loss': 3.0 + seed, 'classification': 1.0, 'metric': 50.0, 'accuracy': 0.5}
    trains = {'stage1': first, 'stage2': {'loss': 1.0, 'classification': 1.0}}
    validation = {'mcr_all': 0.5 + 0.1 * seed, 'mcr_minor': 0.01 * method}
    return [
        {'stage': stage, 'epoch': epoch, 'learning_rate': 0.1 / epoch}
        | {'train': train, 'validation': validation}
        for stage, train in trains.items()
        for epoch in (1, 2, 3)
    ]


def test_recall_curves(tmp_path, drawn):
    runs = {t: ([lines(i), lines(i, seed=1)], figures.RECALLS) for i, t in enumerate(TITLES[:9])}
    assert figures.curves(runs, 'MCR', tmp_path / 'a.png', sharey=True) == tmp_path / 'a.png'
    (figure,) = drawn
    assert [axes.get_title() for axes in figure.axes] == list(runs)
    assert legend_texts(figure) == ['all classes', 'minor classes']
    shown = [line.get_xydata() for line in figure.axes[1].lines]
    # Stage by stage, so that no line joins the end of one to the start of the next.
    np.testing.assert_allclose(shown[:2], [[[1, 55], [2, 55], [3, 55]], [[1, 1], [2, 1], [3, 1]]])
    np.testing.assert_allclose(shown[3], [[4, 55], [5, 55], [6, 55]])
    assert len({line.get_linestyle() for line in figure.axes[0].lines}) >= 2  # not color alone


def test_curves_of_losses_and_without_values(tmp_path, drawn):
    runs = {'CE+TP → cRW': ([lines()], figures.LOSSES), 'CE': ([[]], figures.LOSSES)}
    assert figures.curves(runs, 'loss', tmp_path / 'a.png')
    first, second = drawn[0].axes
    heights = [line.get_ydata()[0] for line in first.lines if len(line.get_ydata()) == 3]
    assert heights == [3.0, 1.0, 2.0, 1.0]  # stage 1: sum, classification, rest; then one loss
    assert second.texts[0].get_text() == 'no curve was kept'
    without = {'CE': ([[line | {'validation': None} for line in lines()]], figures.RECALLS)}
    assert not figures.curves(without, 'MCR', tmp_path / 'b.png')
    assert not (tmp_path / 'b.png').exists()


def test_a_run_gets_its_figures_once(tmp_path, make_run, drawn):
    make_run('a', 'ce_sc_crw', 0)
    workdir = tmp_path / 'runs/a'
    (workdir / 'metrics.jsonl').write_text('\n'.join(json.dumps(line) for line in lines()))
    figures.draw_run(workdir)
    names = {'training_curves.png', 'confusion_matrices.png', 'features.png'}
    assert {path.name for path in (workdir / 'figures').iterdir()} == names
    run_curves, confusion, features = drawn
    assert len(run_curves.axes) == 4
    rates = [list(line.get_ydata()) for line in run_curves.axes[3].lines]
    assert [0.1, 0.05, pytest.approx(0.1 / 3)] in rates
    final = json.loads((workdir / 'results.json').read_text())['final']
    assert f'{100 * final["mcr_all"]:.2f}' in confusion.axes[1].get_title()
    assert f'({final["confusion"][0][0]})' in confusion.axes[1].texts[0].get_text()
    assert '177' in features.axes[0].get_title()

    (workdir / 'figures/features.png').unlink()
    figures.draw_run(workdir)
    assert len(drawn) == 4


def test_a_run_without_epochs_classifier_or_features(tmp_path, make_run, drawn):
    make_run('a', 'sc_crw', 0, predictions=False)
    workdir = tmp_path / 'runs/a'
    (workdir / 'metrics.jsonl').unlink()
    figures.draw_run(workdir)
    assert [path.name for path in (workdir / 'figures').iterdir()] == ['confusion_matrices.png']
    assert 'no trained classifier' in drawn[0].axes[0].get_title()
    (workdir / 'results.json').unlink()
    with pytest.raises(InputError, match=r'results\.json'):
        figures.draw_run(workdir)


def test_names_are_drawn_literally(tmp_path, drawn):
    names = ['$a', r'\frac{', 'x_{2}$', '_c']
    figures.confusion_matrices({'$CE_$': np.eye(4, dtype=int)}, names, tmp_path / 'a.png')
    figures.feature_maps({'$CE_$': clusters([2, 2, 2, 2])}, names, tmp_path / 'a.png')
    assert legend_texts(drawn[1]) == [f'{name} (2)' for name in names]
    assert not any(text.get_parse_math() for f in drawn for text in f.findobj(Text))


def test_a_name_is_drawn_in_a_font_that_has_it(tmp_path, drawn):
    default, *others = drawing._fonts()
    other = next(o for o in others if drawing._characters(o) - drawing._characters(default))
    rare = chr(max(drawing._characters(other) - drawing._characters(default)))
    figures.confusion_matrices({'a': np.eye(2, dtype=int)}, ['plain', rare], tmp_path / 'a.png')
    ticks = [tick for tick in drawn[0].axes[0].get_yticklabels() if tick.get_text() == rare]
    (tick,) = ticks
    assert any(ord(rare) in drawing._characters(name) for name in tick.get_fontfamily()[1:])


def test_a_name_that_cannot_be_drawn_is_spelled_out_and_said(tmp_path, drawn, monkeypatch, capsys):
    default = next(iter(drawing._fonts()))
    monkeypatch.setattr(drawing, '_fonts', lambda: {default: font_manager.findfont(default)})
    names = ['痣', 'a 癌', '\udcff', 'line\nbreak', 'long ' * 40]
    figures.confusion_matrices({'a': np.eye(5, dtype=int)}, names, tmp_path / 'a.png')
    shown = [tick.get_text() for tick in drawn[0].axes[0].get_yticklabels()]
    assert shown[:4] == [r'\u75e3', r'a \u764c', r'\udcff', 'line break']
    assert len(shown[4]) <= 24
    assert '癌' in capsys.readouterr().err
    figures.feature_maps({'a': clusters([3] * 5)}, names, tmp_path / 'b.png')
    assert legend_texts(drawn[1])[0] == r'\u75e3 (3)'
    assert capsys.readouterr().err == ''  # once


@pytest.fixture(autouse=True)
def forget_characters():
    yield
    for function in (drawing._family_with, drawing._characters, drawing._say_unknown):
        function.cache_clear()


@pytest.mark.parametrize(('count', 'classes'), [(5, 7), (3, 40)])
def test_confusion_matrices(tmp_path, drawn, count, classes):
    counts = np.random.default_rng(0).integers(0, 50, size=(classes, classes))
    names = [f'class {c}' for c in range(classes)]
    matrices = dict.fromkeys(TITLES[:count], counts)
    figures.confusion_matrices(matrices, names, tmp_path / 'a.png')
    first, *others = drawn[0].axes
    expected = 100 * counts / counts.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(first.images[0].get_array(), expected)
    assert len(others) == count  # the last one is the color bar
    assert bool(first.texts) == (classes <= 12)


def test_reliability_diagrams(tmp_path, drawn):
    bins = calibrate([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], [0, 1, 1])
    figures.reliability_diagrams(dict.fromkeys(TITLES[:5], bins), tmp_path / 'a.png')
    axes = drawn[0].axes[0]
    assert '43.3 %' in axes.texts[0].get_text()  # (0.1 + 0.8 + 0.4) / 3
    # .9 is in bin 14 of 15, .8 in bin 12 and .6 in bin 9 (bins include their upper end).
    assert np.flatnonzero([bar.get_height() == 1 for bar in axes.patches]).tolist() == [8, 13]


def clusters(counts) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centers = 5 * rng.normal(size=(len(counts), 16))
    return np.float32(centers[labels] + rng.normal(size=(len(labels), 16))), labels


def test_feature_maps_draw_rare_classes_last_and_largest(tmp_path, drawn):
    values = clusters([10, 90, 30])
    names = ['rare', 'head', 'middle']
    figures.feature_maps({'a': values, 'b': values}, names, tmp_path / 'a.png', max_points=80)
    axes = drawn[0].axes[0]
    expected = ['head (90)', 'middle (30)', 'rare (10)']
    assert [points.get_label() for points in axes.collections] == expected
    assert legend_texts(drawn[0]) == expected
    assert [len(points.get_offsets()) for points in axes.collections] == [40, 30, 10]
    first, second, third = (points.get_sizes()[0] for points in axes.collections)
    assert first < second < third
    # The classes are far apart, so every point's nearest neighbor is one of its class.
    points, again = (
        np.concatenate([p.get_offsets() for p in axes.collections]) for axes in drawn[0].axes
    )
    shown = np.repeat([0, 1, 2], [40, 30, 10])
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(80)
    assert np.mean(shown[distances.argmin(axis=1)] == shown) > 0.95
    np.testing.assert_array_equal(points, again)  # deterministic


@pytest.mark.parametrize('count', [24, 40])
def test_many_classes_are_told_apart_or_ranked(tmp_path, drawn, count):
    names = [str(i) for i in range(count)]
    figures.feature_maps({'a': clusters([1] * count)}, names, tmp_path / 'a.png')
    points = drawn[0].axes[0].collections
    looks = {(tuple(p.get_facecolor()[0]), p.get_paths()[0].vertices.tobytes()) for p in points}
    assert len(looks) == count
    assert bool(drawn[0].legends) == (count == 24)
    assert len(drawn[0].axes) == (1 if count == 24 else 2)  # the second is the color bar


@pytest.mark.parametrize('features', [np.ones((20, 8)), np.arange(12.0).reshape(3, 4)])
def test_collapsed_or_few_features_are_drawn_too(tmp_path, drawn, features):
    labels = np.arange(len(features)) % 2
    figures.feature_maps({'x': (features, labels)}, ['a', 'b', 'absent'], tmp_path / 'a.png')
    assert len(drawn) == 1


def test_sensitivity(tmp_path, drawn):
    recalls = pd.DataFrame({'mean': [80, 85, 82], 'deviation': [1.0, np.nan, 0.5]})
    recalls['validation'] = [70, np.nan, 75]
    study = recalls.set_axis([0.0, 0.001, 0.01]), 0.001, (0.00005, 0.01)
    other = recalls.set_axis([0.1, 10.0, 100.0]), 1.0, None
    figures.sensitivity({'CE+TP → cRW (triplet loss)': study, 'b': other}, tmp_path / 'a.png')
    first, second = drawn[0].axes
    (marked,) = (line for line in first.lines if line.get_marker() == '^')
    assert marked.get_xydata().tolist() == [[0.001, 85]]
    assert not any(line.get_marker() == '^' for line in second.lines)
    assert {'0', '0.001', '0.01'} <= {tick.get_text() for tick in first.get_xticklabels()}
    assert any(line.get_ydata().tolist()[::2] == [70, 75] for line in first.lines)
    assert len(legend_texts(drawn[0])) == 4
    figures.sensitivity({TITLES[0]: other}, tmp_path / 'a.png')  # has room for its legend, too


def test_differences(tmp_path, drawn):
    line = {'trainings_low': -10.0, 'trainings_high': 30.0, 'low': 5.0, 'high': 15.0}
    table = pd.DataFrame([{'first': title, 'difference': 10.0, **line} for title in TITLES[:9]])
    table = pd.concat([table, pd.DataFrame([{'first': 'without', 'difference': 20.0}])])
    figures.differences(table, 'MCR all: difference', tmp_path / 'a.png')
    (axes,) = drawn[0].axes
    assert axes.get_yticklabels()[-1].get_text() == 'without'
    ends = sorted({round(float(x), 6) for line in axes.lines for x in line.get_xdata()})
    # The seeds' interval leaves the picture on both sides, where there are arrows.
    assert ends == [-10, -1.6, 0, 5, 10, 15, 20, 21.6, 30]
    assert axes.get_xlim() == pytest.approx((-1.6, 21.6))
    assert len(legend_texts(drawn[0])) == 3
