"""Figures are written whole, without warnings, for everything that a run can give."""

import copy

import numpy as np
import pytest
from PIL import Image

from metriclt_jax.reports import drawing, figures

CONFUSION = [[8, 2, 0], [1, 3, 1], [0, 0, 2]]
RESULTS = {
    'class_names': ['nevus', 'wart', 'mole'],
    'train_counts': [40, 8, 20],
    'stages': [
        {'name': 'stage1', 'last': {'test': {'mcr_all': 0.8, 'confusion': CONFUSION}}},
        {'name': 'stage2', 'last': {'test': {'mcr_all': 0.9, 'confusion': CONFUSION}}},
    ],
}


def lines(epochs: int, *, metric: bool = True, validation: bool = True) -> list[dict]:
    return [
        {
            'stage': stage,
            'epoch': epoch,
            'step': 10 * epoch,
            'learning_rate': 0.1 / epoch,
            'train': {'loss': 2 / epoch, 'classification': 1 / epoch, 'accuracy': 0.0}
            | ({'metric': 3.0} if metric and stage == 'stage1' else {}),
            'validation': {'mcr_all': 0.5, 'mcr_major': 0.6, 'mcr_minor': 0.4}
            if validation and epoch % 2 == 0
            else None,
        }
        for stage in ('stage1', 'stage2')
        for epoch in range(1, epochs + 1)
    ]


def size(path) -> tuple[int, int]:
    """Width and height of an image with something on it; there is no other file beside it."""
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    with Image.open(path) as image:
        assert image.format == 'PNG'
        assert np.asarray(image.convert('L')).std() > 5
        return image.size


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


def texts(axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


# Curves


def test_curves_have_a_column_a_stage_and_a_row_a_panel(tmp_path, drawn):
    figures.training_curves(lines(4), tmp_path / 'curves.png')
    width, height = size(tmp_path / 'curves.png')
    assert width > 1000
    assert height > 1000
    axes = np.reshape(drawn[0].axes, (4, 2))
    assert [a.get_title() for a in axes[0]] == ['stage1', 'stage2']
    assert [a.get_ylabel() for a in axes[:, 0]] == [
        'training loss',
        'metric loss',
        'per cent',
        'learning rate',
    ]
    recall = {curve.get_label(): curve.get_xydata() for curve in axes[2, 1].lines}
    np.testing.assert_allclose(recall['validation MCR all'], [[2, 50], [4, 50]])
    np.testing.assert_allclose(recall['training accuracy'], [[e, 0] for e in range(1, 5)])
    assert 'validation MCR medium' not in recall
    assert texts(axes[1, 0]) == []
    assert texts(axes[1, 1]) == ['none in this stage']


def test_what_a_run_does_not_have_takes_no_room(tmp_path, drawn):
    figures.training_curves(lines(1, metric=False, validation=False), tmp_path / 'curves.png')
    size(tmp_path / 'curves.png')
    assert len(drawn[0].axes) == 3 * 2


def test_stage_without_classifier_has_no_accuracy(tmp_path, drawn):
    rows = lines(2)
    for line in rows[:2]:
        line['train'] = {'loss': 1.0, 'metric': 1.0}
        line['validation'] = None
    figures.training_curves(rows, tmp_path / 'curves.png')
    axes = np.reshape(drawn[0].axes, (4, 2))
    assert texts(axes[2, 0]) == ['none in this stage']
    assert texts(axes[2, 1]) == []


# Confusion matrices


def test_confusion_matrices_go_from_head_to_tail(tmp_path, drawn):
    figures.confusion_matrices(RESULTS, tmp_path / 'confusion.png')
    width, height = size(tmp_path / 'confusion.png')
    assert width > height > 500
    first, second, _ = drawn[0].axes
    assert first.get_title() == 'stage1, test part: MCR 80.00 %'
    assert second.get_title() == 'stage2, test part: MCR 90.00 %'
    assert [label.get_text() for label in first.get_yticklabels()] == ['nevus', 'mole', 'wart']
    per_cent = np.array([[80, 0, 20], [0, 100, 0], [20, 20, 60]])
    np.testing.assert_allclose(first.images[0].get_array(), per_cent)
    assert texts(first) == [
        '80.0\n(8)',
        '20.0\n(2)',
        '100.0\n(2)',
        '20.0\n(1)',
        '20.0\n(1)',
        '60.0\n(3)',
    ]


def test_stage_without_classifier_has_an_empty_matrix(tmp_path, drawn):
    results = copy.deepcopy(RESULTS)
    results['stages'][0]['last']['test'] = None
    figures.confusion_matrices(results, tmp_path / 'confusion.png')
    size(tmp_path / 'confusion.png')
    assert texts(drawn[0].axes[0]) == ['no trained classifier']
    assert drawn[0].axes[0].get_title() == 'stage1'


@pytest.mark.parametrize('count', [20, 40])
def test_many_classes_have_colours_only(tmp_path, drawn, count):
    results = {
        'class_names': [f'class {i}' for i in range(count)],
        'train_counts': list(range(count, 0, -1)),
        'stages': [
            {
                'name': 'stage1',
                'last': {'test': {'mcr_all': 1, 'confusion': np.eye(count, dtype=int).tolist()}},
            }
        ],
    }
    figures.confusion_matrices(results, tmp_path / 'confusion.png')
    size(tmp_path / 'confusion.png')
    assert texts(drawn[0].axes[0]) == []
    named = drawn[0].axes[0].get_yticklabels()[0].get_text() == 'class 0'
    assert named == (count == 20)


# Features


def clusters(counts, seed=0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    centres = 5 * rng.normal(size=(len(counts), 16))
    return np.float32(centres[labels] + rng.normal(size=(len(labels), 16))), labels


def test_feature_map_draws_rare_classes_last_and_largest(tmp_path, drawn):
    features, labels = clusters([10, 90, 30])
    path = tmp_path / 'features.png'
    figures.feature_map(features, labels, ['rare', 'head', 'middle'], path, 0, max_points=80)
    width, height = size(path)
    assert width > height > 800
    axes, (legend,) = drawn[0].axes[0], drawn[0].legends
    names = ['head (90)', 'middle (30)', 'rare (10)']
    assert [points.get_label() for points in axes.collections] == names
    assert [text.get_text() for text in legend.get_texts()] == names
    assert [len(points.get_offsets()) for points in axes.collections] == [40, 30, 10]
    sizes = [points.get_sizes()[0] for points in axes.collections]
    assert sizes == sorted(sizes)
    assert sizes[0] < sizes[-1]
    assert '130 test images, 80 of them drawn' in axes.get_title()

    # The classes are far apart, so every point's nearest neighbour is one of its class.
    points = np.concatenate([p.get_offsets() for p in axes.collections])
    shown = np.repeat([0, 1, 2], [40, 30, 10])
    distances = np.linalg.norm(points[:, None] - points, axis=-1) + 1e9 * np.eye(80)
    assert np.mean(shown[distances.argmin(axis=1)] == shown) > 0.95


def test_feature_map_is_deterministic(tmp_path, drawn):
    features, labels = clusters([30, 20])
    for name, seed in [('a', 0), ('b', 0), ('c', 1)]:
        figures.feature_map(features, labels, ['x', 'y'], tmp_path / f'{name}.png', seed)
    a, b, c = ((tmp_path / f'{name}.png').read_bytes() for name in 'abc')
    assert a == b
    assert a != c


def test_feature_map_of_many_classes_shows_their_rank(tmp_path, drawn):
    features, labels = clusters([2] * 40)
    path = tmp_path / 'features.png'
    figures.feature_map(features, labels, [f'class {i}' for i in range(40)], path)
    size(path)
    assert not drawn[0].legends
    assert len(drawn[0].axes) == 2  # the second is the colour bar


def test_no_two_of_24_classes_look_the_same(tmp_path, drawn):
    features, labels = clusters([1] * 24)
    figures.feature_map(features, labels, [str(i) for i in range(24)], tmp_path / 'features.png')
    looks = {
        (tuple(points.get_facecolor()[0]), points.get_paths()[0].vertices.tobytes())
        for points in drawn[0].axes[0].collections
    }
    assert len(looks) == 24


@pytest.mark.parametrize('features', [np.ones((20, 8)), np.arange(12.0).reshape(3, 4)])
def test_collapsed_or_few_features_are_drawn_too(tmp_path, features):
    labels = np.arange(len(features)) % 2
    figures.feature_map(features, labels, ['a', 'b', 'absent'], tmp_path / 'features.png')
    assert min(size(tmp_path / 'features.png')) > 300  # pixels


def test_thinning_takes_from_the_largest_classes_first():
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [500, 200, 30, 4]))
    kept = figures.thin_out(labels, 200)
    assert np.bincount(labels[kept]).tolist() == [83, 83, 30, 4]
    assert np.all(np.diff(kept) > 0)
    np.testing.assert_array_equal(kept, figures.thin_out(labels, 200))
    assert not np.array_equal(kept, figures.thin_out(labels, 200, seed=1))
    np.testing.assert_array_equal(figures.thin_out(labels, 1000), np.arange(734))
    assert np.bincount(labels[figures.thin_out(labels, 1)]).tolist() == [1, 1, 1, 1]
