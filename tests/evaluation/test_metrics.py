"""Metrics against hand-worked cases and scikit-learn."""

import itertools
import json

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclt_jax.class_groups import class_groups, class_thirds
from metriclt_jax.errors import InputError, TrainingDiverged
from metriclt_jax.evaluation.metrics import (
    accuracy,
    macro_auroc,
    macro_f1,
    mean_class_recall,
    summarize,
)

SKIN7 = [5029, 835, 824, 386, 245, 107, 86]  # the paper's table 1


@st.composite
def predictions(draw):
    """Labels `[N]` with every one of C classes in them and probabilities `[N, C]` with ties."""
    num_classes = draw(st.integers(2, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = rng.permutation(np.r_[np.arange(num_classes), rng.integers(0, num_classes, 30)])
    scores = rng.integers(1, draw(st.sampled_from([3, 1000])), (len(labels), num_classes))
    return labels, scores / scores.sum(axis=1, keepdims=True)


def confusion_of(labels, probabilities):
    return sklearn.metrics.confusion_matrix(
        labels, probabilities.argmax(axis=1), labels=range(probabilities.shape[1])
    )


def test_recall_of_a_class_is_over_its_row():
    assert mean_class_recall([[8, 2], [5, 5]]) == pytest.approx(0.65)
    assert mean_class_recall([[8, 2], [5, 5]], [0]) == pytest.approx(0.8)
    assert mean_class_recall(np.array([[90, 10], [1, 1]]), (0, 1)) == pytest.approx(0.7)
    assert accuracy([[90, 10], [1, 1]]) == pytest.approx(91 / 102)
    assert isinstance(mean_class_recall([[8, 2], [5, 5]]), float)


def test_absent_class_is_an_error_that_names_it():
    confusion = [[3, 1, 0], [0, 0, 0], [0, 1, 2]]
    with pytest.raises(InputError, match='class 1 has no examples'):
        mean_class_recall(confusion)
    with pytest.raises(InputError, match='class 1 has no examples'):
        mean_class_recall(confusion, [0, 1])
    assert mean_class_recall(confusion, [0, 2]) == pytest.approx((3 / 4 + 2 / 3) / 2)
    with pytest.raises(InputError, match='class 1 has no examples'):
        macro_f1(confusion)
    with pytest.raises(InputError, match='class 1 has no examples'):
        macro_auroc(np.ones((2, 3)) / 3, [0, 2])
    with pytest.raises(InputError, match='class 0 has no counterexamples'):
        macro_auroc(np.ones((2, 1)), [0, 0])
    with pytest.raises(InputError, match='no example'):
        accuracy(np.zeros((2, 2)))


@pytest.mark.parametrize('classes', [[], [2], [-1]])
def test_classes_that_do_not_exist_are_refused(classes):
    with pytest.raises(InputError, match='among 0 to 1'):
        mean_class_recall([[8, 2], [5, 5]], classes)


@pytest.mark.parametrize('confusion', [[1, 2], [[1, 2, 3], [4, 5, 6]]])
def test_confusion_must_be_square(confusion):
    with pytest.raises(InputError, match=r'must be \[C, C\]'):
        mean_class_recall(confusion)


@settings(deadline=None, max_examples=25)
@given(predictions(), st.data())
def test_a_summary_without_some_classes_is_over_the_others(case, data):
    labels, probabilities = case
    classes = probabilities.shape[1]
    present = data.draw(st.sets(st.integers(0, classes - 1), min_size=1, max_size=classes - 1))
    kept = np.isin(labels, sorted(present))
    labels, probabilities = labels[kept], probabilities[kept]
    predicted, confusion = probabilities.argmax(axis=1), confusion_of(labels, probabilities)
    names, missing = [*'abcde'[:classes]], sorted(set(range(classes)) - present)
    groups = {'major': [*range(classes)], 'minor': missing}
    summary = summarize(probabilities, labels, confusion, groups, names)
    assert summary['classes_without_images'] == [names[c] for c in missing]
    recalls = sklearn.metrics.recall_score(labels, predicted, labels=sorted(present), average=None)
    assert summary['mcr_all'] == summary['mcr_major'] == pytest.approx(recalls.mean())
    assert summary['mcr_minor'] is None
    assert summary['accuracy'] == pytest.approx(np.mean(predicted == labels))
    assert summary['macro_f1'] == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, labels=sorted(present), average='macro')
    )
    if len(present) == 1:
        assert summary['macro_auroc'] is None
    else:
        areas = [sklearn.metrics.roc_auc_score(labels == c, probabilities[:, c]) for c in present]
        assert summary['macro_auroc'] == pytest.approx(np.mean(areas))
    json.dumps(summary, allow_nan=False)


@settings(deadline=None, max_examples=25)
@given(predictions())
def test_agrees_with_scikit_learn(case):
    labels, probabilities = case
    predicted, confusion = probabilities.argmax(axis=1), confusion_of(*case)
    one_hot = np.eye(probabilities.shape[1])[labels]
    assert mean_class_recall(confusion) == pytest.approx(
        sklearn.metrics.balanced_accuracy_score(labels, predicted)
    )
    assert accuracy(confusion) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert macro_f1(confusion) == pytest.approx(
        sklearn.metrics.f1_score(labels, predicted, average='macro')
    )
    assert macro_auroc(probabilities, labels) == pytest.approx(
        sklearn.metrics.roc_auc_score(one_hot, probabilities, average='macro')
    )


def test_auroc_counts_ties_one_half():
    labels = [0, 0, 1, 1]
    assert macro_auroc(np.full((4, 2), 0.5), labels) == pytest.approx(0.5)
    perfect = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.1, 0.9]])
    assert macro_auroc(perfect, labels) == pytest.approx(1)
    assert macro_auroc(perfect[::-1], labels) == pytest.approx(0)
    one_tie = np.array([[0.9, 0.1], [0.5, 0.5], [0.5, 0.5], [0.1, 0.9]])
    assert macro_auroc(one_tie, labels) == pytest.approx(7 / 8)


def test_a_diverged_model_is_an_error():
    probabilities = np.full((4, 2), 0.5)
    probabilities[2, 0] = np.nan
    with pytest.raises(TrainingDiverged, match='probabilities of example 2 are not finite'):
        macro_auroc(probabilities, [0, 0, 1, 1])


def test_groups_are_the_ends_of_the_training_counts():
    assert class_groups(SKIN7, minor=2) == {'major': [0, 1, 2], 'minor': [5, 6]}
    shuffled = [86, 824, 5029, 245, 835, 107, 386]
    assert class_groups(np.array(shuffled), minor=2) == {'major': [2, 4, 1], 'minor': [5, 0]}
    assert class_groups([5, 1], major=1, minor=1) == {'major': [0], 'minor': [1]}


def test_ties_go_by_class_index():
    assert class_groups([7, 9, 7, 7, 9, 7], major=3, minor=2) == {
        'major': [1, 4, 0],
        'minor': [3, 5],
    }
    assert class_thirds([4, 4, 4, 4, 4, 4]) == {'major': [0, 1], 'medium': [2, 3], 'minor': [4, 5]}


@pytest.mark.parametrize(('major', 'minor'), [(2, 2), (3, 1), (0, 1), (1, 0)])
def test_groups_that_overlap_or_are_empty_are_refused(major, minor):
    with pytest.raises(InputError, match=f'data.major is {major} and data.minor is {minor}'):
        class_groups([3, 2, 1], major, minor)


def test_thirds_cover_every_class_once():
    for num_classes in (3, 7, 8, 102):
        counts = np.random.default_rng(0).permutation(num_classes) + 1
        groups = class_thirds(counts)
        assert sorted(itertools.chain(*groups.values())) == list(range(num_classes))
        sizes = [len(group) for group in groups.values()]
        assert sizes == sorted(sizes, reverse=True)
        assert max(sizes) - min(sizes) <= 1
        assert counts[groups['major']].min() > counts[groups['medium']].max()
        assert counts[groups['medium']].min() > counts[groups['minor']].max()
    with pytest.raises(InputError, match='at least 3 classes'):
        class_thirds([4, 5])


def test_summary_has_every_metric_and_is_json():
    rng = np.random.default_rng(0)
    labels = np.r_[np.arange(7), rng.integers(0, 7, 93)].astype(np.int32)
    probabilities = rng.dirichlet(np.ones(7), 100).astype(np.float32)
    confusion = confusion_of(labels, probabilities)
    names = [f'class {i}' for i in range(7)]
    summary = summarize(probabilities, labels, confusion, class_thirds(SKIN7), names)
    assert list(summary) == [
        'mcr_all',
        'mcr_major',
        'mcr_medium',
        'mcr_minor',
        'accuracy',
        'macro_f1',
        'macro_auroc',
        'confusion',
    ]
    assert summary['mcr_minor'] == pytest.approx(mean_class_recall(confusion, [5, 6]))
    assert summary['mcr_medium'] == pytest.approx(mean_class_recall(confusion, [3, 4]))
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert np.sum(summary['confusion']) == 100

    two = summarize(probabilities, labels, confusion, class_groups(SKIN7, minor=2), names)
    assert 'mcr_medium' not in two
    assert two['mcr_major'] == pytest.approx(mean_class_recall(confusion, [0, 1, 2]))
