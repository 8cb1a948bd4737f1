"""The figures by method, with two methods and with all of table 2's."""

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from metriclt_jax.reports import drawing, method_figures
from metriclt_jax.reports.names import METHOD_TITLES
from metriclt_jax.reports.statistics import Estimate, Interval, calibrate

TITLES = list(METHOD_TITLES.values())


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, to look at what is on them."""
    saved = []
    save = drawing.save

    def save_and_remember(figure, path):
        saved.append(figure)
        save(figure, path)

    monkeypatch.setattr(drawing, 'save', save_and_remember)
    return saved


def check_layout(figure, path) -> None:
    """Nothing is cut off, and no title, label or legend lies on another."""
    with Image.open(path) as image:
        assert np.asarray(image.convert('L')).std() > 5
    figure.set_dpi(150)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    parts = [axes.title for axes in figure.axes]
    parts += [label for axes in figure.axes for label in (axes.xaxis.label, axes.yaxis.label)]
    parts += [label for axes in figure.axes for label in shown_ticks(axes)]
    boxes = [part.get_window_extent(renderer) for part in parts if part.get_text()]
    boxes += [legend.get_window_extent(renderer) for legend in figure.legends]
    for box in boxes:
        assert box.x0 >= -1
        assert box.y0 >= -1
        assert box.x1 <= figure.bbox.x1 + 1
        assert box.y1 <= figure.bbox.y1 + 1
    for place, box in enumerate(boxes):
        for other in boxes[:place]:
            width = min(box.x1, other.x1) - max(box.x0, other.x0)
            height = min(box.y1, other.y1) - max(box.y0, other.y0)
            assert min(width, height) < 2  # pixels


def shown_ticks(axes):
    low_x, high_x = sorted(axes.get_xlim())
    low_y, high_y = sorted(axes.get_ylim())
    if axes.xaxis.get_tick_params()['labelbottom']:
        yield from (
            t.label1 for t in axes.xaxis.get_major_ticks() if low_x <= t.get_loc() <= high_x
        )
    if axes.yaxis.get_tick_params()['labelleft']:
        yield from (
            t.label1 for t in axes.yaxis.get_major_ticks() if low_y <= t.get_loc() <= high_y
        )


def lines(method: int, *, seed: int = 0, validation: bool = True, stages=('stage1', 'stage2')):
    return [
        {
            'stage': stage,
            'epoch': epoch,
            'train': {'loss': 3.0 + seed, 'classification': 1.0, 'metric': 50.0}
            if stage == 'stage1'
            else {'loss': 1.0, 'classification': 1.0},
            'validation': {'mcr_all': 0.5 + 0.1 * seed, 'mcr_minor': 0.01 * method}
            if validation
            else None,
        }
        for stage in stages
        for epoch in (1, 2, 3)
    ]


@pytest.mark.parametrize('count', [2, pytest.param(21, marks=pytest.mark.slow)])
def test_recall_curves(tmp_path, drawn, count):
    runs = {t: [lines(i), lines(i, seed=1)] for i, t in enumerate(TITLES[:count])}
    assert method_figures.recall_curves(runs, tmp_path / 'a.png')
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a.png')
    assert [axes.get_title() for axes in figure.axes] == TITLES[:count]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ['all classes', 'minor classes']
    curves = [line.get_xydata() for line in figure.axes[1].lines]
    # Stage by stage, so that no line joins the end of one to the start of the next.
    np.testing.assert_allclose(curves[0], [[1, 55], [2, 55], [3, 55]])
    np.testing.assert_allclose(curves[1], [[1, 1], [2, 1], [3, 1]])
    np.testing.assert_allclose(curves[3], [[4, 55], [5, 55], [6, 55]])
    styles = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len({style for _, style in styles}) >= 2  # told apart without colour


def test_without_validation_there_are_no_recall_curves(tmp_path):
    runs = {'CE': [lines(0, validation=False)]}
    assert not method_figures.recall_curves(runs, tmp_path / 'a.png')
    assert not (tmp_path / 'a.png').exists()


def test_loss_curves_show_the_metric_loss_as_it_counts(tmp_path, drawn):
    runs = {'CE+TP → cRW': [lines(0)], 'CE': [[]]}
    assert method_figures.loss_curves(runs, tmp_path / 'a.png')
    first, second = drawn[0].axes
    heights = [line.get_ydata()[0] for line in first.lines if len(line.get_ydata()) == 3]
    assert heights == [3.0, 1.0, 2.0, 1.0]  # stage 1: sum, classification, rest; then one loss
    assert [text.get_text() for text in second.texts] == ['no curve was kept']


@pytest.mark.parametrize(
    ('count', 'classes'), [(2, 7), pytest.param(21, 4, marks=pytest.mark.slow), (3, 40)]
)
def test_confusion_matrices(tmp_path, drawn, count, classes):
    counts = np.random.default_rng(0).integers(0, 50, size=(classes, classes))
    names = [f'class {c}' for c in range(classes)]
    method_figures.confusion_matrices(dict.fromkeys(TITLES[:count], counts), names, tmp_path / 'a')
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a')
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shown.sum(axis=1), 100)
    np.testing.assert_allclose(shown, 100 * counts / counts.sum(axis=1, keepdims=True))
    assert len(figure.axes) == count + 1  # the last one is the colour bar
    assert bool(figure.axes[0].texts) == (classes <= 12)


@pytest.mark.parametrize('count', [2, pytest.param(21, marks=pytest.mark.slow)])
def test_reliability_diagrams(tmp_path, drawn, count):
    bins = calibrate([[0.9, 0.1], [0.8, 0.2], [0.4, 0.6]], [0, 1, 1])
    method_figures.reliability_diagrams(dict.fromkeys(TITLES[:count], bins), tmp_path / 'a.png')
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a.png')
    # (0.1 + 0.8 + 0.4) / 3
    assert figure.axes[0].texts[0].get_text() == 'ECE 43.3 %'
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    # .9 is in bin 14 of 15, .8 in bin 12 and .6 in bin 9 (bins include their upper end).
    assert [place + 1 for place, height in enumerate(heights) if height == 1] == [9, 14]
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {'perfect calibration', 'accuracy in the bin', 'share of the predictions'}


@pytest.mark.parametrize('classes', [7, 30])
def test_feature_maps(tmp_path, drawn, classes):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), 8)
    values = rng.normal(size=(len(labels), 8)) + labels[:, None]
    names = [f'class {c}' for c in range(classes)]
    features = dict.fromkeys(TITLES[:2], (values, labels))
    method_figures.feature_maps(features, names, tmp_path / 'a.png', max_points=60)
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a.png')
    drawn_points = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert drawn_points <= 60
    if classes == 7:
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts == [f'class {c} (8)' for c in range(7)]


def test_sensitivity(tmp_path, drawn):
    study = method_figures.Study(
        [0.0, 0.001, 0.01],
        [Estimate(80, 1.0, 2), Estimate(85, None, 1), Estimate(82, 0.5, 2)],
        0.001,
        (0.00005, 0.01),
    )
    other = method_figures.Study([0.1, 10], [Estimate(70, 1.0, 2)] * 2, 1.0, None)
    method_figures.sensitivity({'CE+TP → cRW (triplet loss)': study, 'b': other}, tmp_path / 'a')
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a')
    first, second = figure.axes
    (marked,) = (line for line in first.lines if line.get_marker() == '^')
    assert marked.get_xydata().tolist() == [[0.001, 85]]
    assert not any(line.get_marker() == '^' for line in second.lines)
    assert (first.get_xscale(), second.get_xscale()) == ('symlog', 'log')
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {'mean and deviation over runs', 'default', 'stable in the paper'}


def test_a_single_study_has_room_for_its_legend(tmp_path, drawn):
    study = method_figures.Study([0.1, 10], [Estimate(70, 1.0, 2)] * 2, 0.1, (0.04, 1.8))
    method_figures.sensitivity({'CE+SC → cRW (supervised contrastive loss)': study}, tmp_path / 'a')
    check_layout(drawn[0], tmp_path / 'a')


@pytest.mark.parametrize('count', [2, pytest.param(21, marks=pytest.mark.slow)])
def test_differences(tmp_path, drawn, count):
    over_seeds, over_images = Interval(0.1, -0.1, 0.3), Interval(0.1, 0.05, 0.15)
    compared = dict.fromkeys(TITLES[:count], (0.1, over_seeds, over_images))
    compared['without'] = (0.2, None, None)
    method_figures.differences(compared, 'MCR all: difference', tmp_path / 'a.png')
    (figure,) = drawn
    check_layout(figure, tmp_path / 'a.png')
    (axes,) = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == [*TITLES[:count], 'without']
    ends = sorted({round(float(x), 6) for line in axes.lines for x in line.get_xdata()})
    # The seeds' interval leaves the picture on both sides, where there are arrows.
    assert ends == [-10, -1.6, 0, 5, 10, 15, 20, 21.6, 30]
    assert axes.get_xlim() == pytest.approx((-1.6, 21.6))
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert 'no interval' in labels
