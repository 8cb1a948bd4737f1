"""Table 1 and the picture of a data set say what is in it."""

import io

import numpy as np
from PIL import Image
from rich.console import Console

from metriclt_jax.data.defaults import data_config
from metriclt_jax.reports import dataset as report
from metriclt_jax.reports import drawing

NAMES = ('a', 'b', 'c', 'd')
COUNTS = {
    'train': np.array([8, 480, 40, 7]),
    'validation': np.array([1, 32, 3, 1]),
    'test': np.array([2, 128, 11, 2]),
}
GROUPS = {'major': [1], 'minor': [0, 3]}
COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def samples(count, colours=COLOURS):
    return [[np.full((16, 16, 3), colour, np.uint8)] * count for colour in colours]


def printed(table, width=80):
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue()


def test_the_table_goes_from_head_to_tail():
    text = printed(report.table('moles', NAMES, COUNTS, GROUPS))
    assert 'moles: N min 7, N max 480, ratio 68.57 (training part)' in ' '.join(text.split())
    rows = [line.split() for line in text.splitlines()]
    rows = [row for row in rows if row and row[0] in (*NAMES, 'all')]
    assert rows == [
        ['b', '480', '32', '128', 'major'],
        ['c', '40', '3', '11'],
        ['a', '8', '1', '2', 'minor'],
        ['d', '7', '1', '2', 'minor'],
        ['all', '4', '535', '37', '143'],
    ]


def test_names_are_printed_and_drawn_as_they_are(tmp_path):
    names = ('[red]a[/]', 'x_{2}$', '[/b]', '$y')
    text = printed(report.table('moles', names, COUNTS, GROUPS))
    assert all(name in text for name in names)
    figure = report.picture('moles', names, COUNTS, GROUPS, samples(3))
    drawing.save(figure, tmp_path / 'classes.png')
    labels = figure.axes[0].get_yticklabels()
    assert [label.get_text() for label in labels] == [names[c] for c in (1, 2, 0, 3)]


def test_the_picture_has_a_bar_for_each_part_and_class_and_samples_beside(tmp_path):
    path = tmp_path / 'classes.png'
    few = samples(7)
    few[3] = few[3][:2]
    figure = report.picture('moles', NAMES, COUNTS, GROUPS, few)
    drawing.save(figure, path)
    assert [file.name for file in tmp_path.iterdir()] == ['classes.png']
    with Image.open(path) as image:
        assert image.format == 'PNG'
        assert min(image.size) > 500
    bars, sheet = figure.axes
    order = [1, 2, 0, 3]
    assert [label.get_text() for label in bars.get_yticklabels()] == [NAMES[c] for c in order]
    widths = [[bar.get_width() for bar in container] for container in bars.containers]
    assert widths == [images[order].tolist() for images in COUNTS.values()]
    written = {text.get_text() for text in bars.texts}
    assert written == {str(n) for images in COUNTS.values() for n in images}
    assert bars.get_xscale() == 'log'  # 480 to 1
    colours = [label.get_color() for label in bars.get_yticklabels()]
    assert len(set(colours)) == 3
    assert colours[2] == colours[3]

    mosaic = sheet.images[0].get_array()
    rows, columns = len(order), 7
    assert mosaic.shape == (rows * 20, columns * 20, 3)
    centres = mosaic[10::20, 10::20]
    for row, label in enumerate(order):
        shown = 2 if label == 3 else 7
        assert (centres[row, :shown] == COLOURS[label]).all()
        assert (centres[row, shown:] == 255).all()
    # A row of samples is beside the bars of its class.
    np.testing.assert_allclose(
        (bars.get_position().y0, bars.get_position().height),
        (sheet.get_position().y0, sheet.get_position().height),
    )


def test_the_training_part_alone_says_whether_the_axis_is_logarithmic():
    counts = {**COUNTS, 'train': np.array([80, 480, 400, 70]), 'validation': np.array([1, 3, 2, 1])}
    figure = report.picture('moles', NAMES, counts, GROUPS, samples(7))
    assert figure.axes[0].get_xscale() == 'linear'  # 480 to 70, though one part has 1


def test_many_classes_go_into_columns_and_a_part_without_images_is_left_out():
    train = np.arange(100, 0, -1)[:90]
    counts = {'train': train, 'validation': 0 * train, 'test': np.full(90, 60)}
    groups = {'major': range(30), 'medium': range(30, 60), 'minor': range(60, 90)}
    names = [f'a rather long name of a class, number {number}' for number in range(90)]
    colours = np.random.default_rng(0).integers(0, 256, (90, 3))
    figure = report.picture('dogs', names, counts, groups, samples(9, colours))
    figure.draw_without_rendering()
    assert len(figure.axes) == 3 * 2
    assert [len(axes.get_yticks()) for axes in figure.axes[::2]] == [30, 30, 30]
    assert all(len(axes.containers) == 2 for axes in figure.axes[::2])
    assert all(axes.get_xscale() == 'linear' for axes in figure.axes[::2])  # 100 to 11
    assert len({tuple(axes.get_xlim()) for axes in figure.axes[::2]}) == 1
    assert figure.axes[1].images[0].get_array().shape == (30 * 20, 5 * 20, 3)
    # Nothing runs over what is left of it.
    for bars, before in zip(figure.axes[2::2], figure.axes[1::2], strict=False):
        left = min(label.get_window_extent().x0 for label in bars.get_yticklabels())
        assert left > before.get_window_extent().x1
    assert min(t.get_window_extent().x0 for t in figure.axes[0].get_yticklabels()) > 0


def test_the_digits_are_described_without_decoding_them_all(tmp_path, monkeypatch):
    from metriclt_jax.data import prepare

    prepare('digits_lt', None, str(tmp_path))
    config = data_config('digits_lt')
    config.data_dir = str(tmp_path)
    decoded = []
    decode = report.decode
    monkeypatch.setattr(report, 'decode', lambda *a: decoded.append(a[-1]) or decode(*a))
    console = Console(file=io.StringIO(), width=80)
    report.describe(config, console, tmp_path / 'classes.png')
    text = ' '.join(console.file.getvalue().split())
    assert 'digits_lt: N min 5, N max 104, ratio 20.80 (training part)' in text
    assert '0 104 17 54 major' in text  # of 178 zeros; 60 % of the 174 eights are 104
    assert 'all 10 353 ' in text
    assert len(decoded) == 9 * 7 + 5
    assert not (tmp_path / 'cache').exists()
    with Image.open(tmp_path / 'classes.png') as image:
        assert np.asarray(image.convert('L')).std() > 5


def test_another_split_is_recommended_where_there_is_a_reason():
    groups, none = np.array(['p', 'p', 'q', 'q', 'r', 'r', '', '']), np.full(8, '')
    leaky = {'train': np.array([0, 2, 3, 6]), 'test': np.array([1, 4, 5, 7])}
    (remark,) = report._remarks('paper', groups, none, leaky)
    assert remark.startswith('1 groups (patients, lesions) have images both in')
    clean = {'train': np.array([0, 1, 6]), 'test': np.array([2, 3, 7])}
    assert report._remarks('grouped', groups, none, clean) == []
    official = np.where(np.arange(8) < 4, 'train', 'test')
    (remark,) = report._remarks('paper', none, official, clean)
    assert 'data.split=official' in remark
    assert report._remarks('official', none, official, clean) == []
