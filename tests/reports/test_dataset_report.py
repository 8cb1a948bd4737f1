"""Table 1 and the picture of a data set say what is in it."""

import io

import numpy as np
from PIL import Image
from rich.console import Console

from metriclt_jax.data import prepare
from metriclt_jax.data.defaults import data_config
from metriclt_jax.reports import dataset as report
from metriclt_jax.reports import drawing

NAMES = ('[red]a[/]', 'x_{2}$', '[/b]漢', '$y')  # shown literally
COUNTS = {
    'train': np.array([8, 480, 40, 7]),
    'validation': np.array([1, 32, 3, 1]),
    'test': np.array([2, 128, 11, 2]),
}
GROUPS = {'major': [1], 'minor': [0, 3]}
COLORS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def samples(count, colors=COLORS):
    return [[np.full((16, 16, 3), color, np.uint8)] * count for color in colors]


def test_the_table_goes_from_head_to_tail():
    console = Console(file=io.StringIO(), width=80)
    console.print(report.table('moles', NAMES, COUNTS, GROUPS))
    rows = [line.split() for line in console.file.getvalue().splitlines()]
    assert {'480,', '68.57'} <= set(rows[0])
    rows = [row for row in rows if row and row[0] in (*NAMES, 'all')]
    assert [row[0] for row in rows] == [NAMES[1], NAMES[2], NAMES[0], NAMES[3], 'all']
    assert rows[0][1:] == ['480', '32', '128', 'major']
    assert rows[1][1:] == ['40', '3', '11']
    assert rows[4][1:] == ['4', '535', '37', '143']


def test_the_picture_has_a_bar_for_each_part_and_class_and_samples_beside(tmp_path):
    few = samples(7)
    few[3] = few[3][:2]
    figure = report.picture('moles', NAMES, COUNTS, GROUPS, few)
    drawing.save(figure, tmp_path / 'classes.png')  # without a warning of an unknown character
    bars, sheet = figure.axes
    order = [1, 2, 0, 3]
    shown = drawing.readable(NAMES)
    assert [label.get_text() for label in bars.get_yticklabels()] == [shown[c] for c in order]
    widths = [[bar.get_width() for bar in container] for container in bars.containers]
    assert widths == [images[order].tolist() for images in COUNTS.values()]
    numbers = {str(n) for images in COUNTS.values() for n in images}
    assert {text.get_text() for text in bars.texts} == numbers
    assert bars.get_xscale() == 'log'  # 480 to 7
    colors = [label.get_color() for label in bars.get_yticklabels()]
    assert len(set(colors)) == 3
    assert colors[2] == colors[3]

    shown = [(tuple(i.get_array()[0, 0]), int(i.get_extent()[3] + 0.5)) for i in sheet.images]
    assert shown == [(COLORS[c], row) for row, c in enumerate(order) for _ in few[c]]
    # A row of samples is beside the bars of its class.
    assert bars.get_ylim() == sheet.get_ylim()
    np.testing.assert_allclose(bars.get_position().intervaly, sheet.get_position().intervaly)


def test_many_classes_go_into_columns_and_a_part_without_images_is_left_out():
    train = np.arange(100, 0, -1)[:90]
    counts = {'train': train, 'validation': 0 * train, 'test': np.where(train > 50, 60, 1)}
    groups = {'major': range(30), 'medium': range(30, 60), 'minor': range(60, 90)}
    names = [f'a rather long name of a class, number {number}' for number in range(90)]
    figure = report.picture('dogs', names, counts, groups, samples(2, [(0, 0, 0)] * 90))
    figure.draw_without_rendering()
    bars, sheets = figure.axes[::2], figure.axes[1::2]
    assert [len(axes.get_yticks()) for axes in bars] == [30, 30, 30]
    assert [len(axes.containers) for axes in bars] == [2, 2, 2]
    # One scale, and linear: the training part goes from 100 to 11, though another has 1.
    assert len({(axes.get_xscale(), axes.get_xlim()) for axes in bars}) == 1
    assert bars[0].get_xscale() == 'linear'
    assert [len(axes.images) for axes in sheets] == [60, 60, 60]
    # Nothing runs over what is left of it.
    before = [0, *(axes.get_window_extent().x1 for axes in sheets)]
    for axes, end in zip(bars, before, strict=False):
        assert min(label.get_window_extent().x0 for label in axes.get_yticklabels()) > end


def test_the_digits_are_described_without_decoding_them_all(tmp_path, monkeypatch):
    prepare('digits_lt', None, str(tmp_path))
    config = data_config('digits_lt')
    config.data_dir = str(tmp_path)
    decode, decoded = report.decode, []
    monkeypatch.setattr(report, 'decode', lambda *a: decoded.append(a[-1]) or decode(*a))
    console = Console(file=io.StringIO(), width=80)
    report.describe(config, console, tmp_path / 'classes.png')
    text = ' '.join(console.file.getvalue().split())
    assert 'digits_lt: N min 5, N max 104, ratio 20.80 (training part)' in text
    assert '0 104 17 54 major' in text  # of 178 zeros; 60 % of the 174 eights are 104
    assert len(decoded) == 9 * 7 + 5
    assert not (tmp_path / 'cache').exists()
    assert np.asarray(Image.open(tmp_path / 'classes.png').convert('L')).std() > 5


def test_reasons_to_choose_another_split_are_given(tmp_path):
    rows = ['path,label,group,split']
    for number in range(80):
        image = np.random.default_rng(number).integers(0, 256, (4, 4), np.uint8)
        Image.fromarray(image).save(tmp_path / f'{number}.png')
        part = ('train', 'test')[number // 2 % 2]
        rows.append(f'{number}.png,{"ab"[number % 2]},p{number // 4},{part}')
    (tmp_path / 'labels.csv').write_text('\n'.join(rows))
    prepare('folder', str(tmp_path), str(tmp_path), 'own', labels=str(tmp_path / 'labels.csv'))
    texts = {}
    for split in ('auto', 'grouped', 'paper'):
        config = data_config('folder')
        config.update({'name': 'own', 'data_dir': str(tmp_path), 'split': split})
        console = Console(file=io.StringIO(), width=80)
        report.describe(config, console, tmp_path / 'classes.png')
        texts[split] = console.file.getvalue()
    assert '20 in train and test' in texts['auto']
    for split, text in texts.items():
        assert ('data.split=grouped keeps' in text) == (split != 'grouped')
        assert ('data.split=official' in text) == (split != 'auto')
