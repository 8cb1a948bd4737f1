"""Runs on the folds of a data set are pooled to one run in which every image is tested once."""

import json

import numpy as np
import pytest

from metriclt_jax.reports.folds import pool_folds
from metriclt_jax.reports.runs import read_runs
from metriclt_jax.reports.sections import make_sections
from metriclt_jax.reports.statistics import trainings_interval
from metriclt_jax.reports.tidy import differences, tidy


@pytest.fixture
def make_folds(make_run, tmp_path):
    """`make_folds(path, method, seed, folds=3)` writes a run for each fold, of images of its own.

    Two images of a class that follow one another are of one lesion.
    """

    def make(path, method='ce_crw', seed=0, folds=3, rights=(0.6, 0.7, 0.8), **fields):
        for fold in range(folds):
            of_fold = {'data__folds': 3, 'data__fold': fold, 'data__split': 'grouped'}
            made = f'{path}/fold{fold}'
            make_run(made, method, seed, right=rights[fold], **of_fold, **fields)
            file = tmp_path / 'runs' / made / 'predictions.npz'
            with np.load(file) as arrays:
                arrays = dict(arrays)
            arrays['ids'] = np.char.add(f'fold{fold} ', arrays['ids'])
            lesions = np.char.add(arrays['labels'].astype(str), f' of {fold} ')
            within = np.arange(len(lesions)) // 2
            arrays['groups'] = np.char.add(lesions, within.astype(str))
            np.savez(file, **arrays)

    return make


def pooled(tmp_path):
    return pool_folds(read_runs(tmp_path / 'runs')[0])


def test_confusions_are_summed_and_means_follow(make_folds, tmp_path):
    make_folds('a')
    ((run,), problems), parts = pooled(tmp_path), read_runs(tmp_path / 'runs')[0]
    assert not problems
    assert run.path == 'a'
    for stage in (0, 1):
        tests = [part.results['stages'][stage]['last']['test'] for part in parts]
        together = run.results['stages'][stage]['last']['test']
        confusion = np.sum([test['confusion'] for test in tests], axis=0)
        assert together['confusion'] == confusion.tolist()
        recalls = confusion.diagonal() / confusion.sum(axis=1)
        assert together['mcr_all'] == pytest.approx(recalls.mean())
        assert together['mcr_minor'] == pytest.approx(recalls[5:].mean())
    assert run.results['train_counts'] == parts[0].results['train_counts']
    assert run.results['final']['macro_auroc'] is not None
    assert run.results['stages'][0]['last']['test']['macro_auroc'] is None  # no probabilities
    assert len(np.unique(run.predictions.ids)) == confusion.sum()
    right = run.predictions.probabilities.argmax(axis=1) == run.predictions.labels
    assert right.sum() == confusion.trace()


def test_methods_stay_apart_whatever_the_folders_of_their_folds(make_run, tmp_path):
    """As in a folder for each fold, which has a folder for each method."""
    for fold in range(3):
        of_fold = {'data__folds': 3, 'data__fold': fold, 'predictions': False}
        make_run(f'fold{fold}/ce', 'ce', right=0.5, **of_fold)
        make_run(f'fold{fold}/rs', 'rs', right=0.9, **of_fold)
    runs = pooled(tmp_path)[0]
    (section,), _ = make_sections(runs)
    table = tidy(section)
    assert {line.method: line.row for line in table.itertuples()} == {'ce': 'CE', 'rs': 'RS'}
    for run in runs:
        values = table[(table.method == run.results['method']) & (table.metric == 'mcr_all')].value
        assert values.tolist() == [run.results['final']['mcr_all']]


def test_other_runs_stay_as_they_are(make_run, tmp_path):
    make_run('a')
    assert pooled(tmp_path)[0][0].folds == ()


def test_what_cannot_be_pooled_is_a_problem(make_folds, make_run, tmp_path):
    make_folds('short', folds=2)
    make_folds('twice', 'ce')
    make_run('again', 'ce', data__folds=3, data__fold=1, data__split='grouped')
    make_folds('same', 'rs')
    for fold in (0, 1):  # an image in two test parts
        file = tmp_path / f'runs/same/fold{fold}/predictions.npz'
        with np.load(file) as arrays:
            arrays = dict(arrays)
        arrays['ids'][0] = 'fold0 image'
        np.savez(file, **arrays)
    runs, problems = pooled(tmp_path)
    assert [run.results['method'] for run in runs] == ['ce']
    reasons = dict(problems)
    assert set(reasons) == {'short/fold0', 'short/fold1', 'twice/fold1'} | {
        f'same/fold{fold}' for fold in range(3)
    }
    assert 'of 3 folds, 2 are missing' in reasons['short/fold0']


def test_a_difference_is_over_all_images_and_over_folds(make_folds, tmp_path):
    make_folds('a', 'ce_crw', rights=(0.5, 0.55, 0.6))
    make_folds('b', 'ce_tp_crw', rights=(0.8, 0.9, 0.85))
    (section,), _ = make_sections(pooled(tmp_path)[0])
    lines = differences(section, tidy(section))
    line = lines[(lines.metric == 'mcr_all') & (lines['first'] == 'CE+TP → cRW')].iloc[0]
    tests = [
        [
            json.loads(path.read_text())['final']
            for path in sorted(tmp_path.glob(f'runs/{name}/*/results.json'))
        ]
        for name in 'ba'
    ]
    assert line.images == 3 * 177
    assert line.groups < line.images
    assert line.trainings == 3
    confusions = [np.sum([test['confusion'] for test in of_row], axis=0) for of_row in tests]
    recalls = [np.mean(c.diagonal() / c.sum(axis=1)) for c in confusions]
    assert line.difference == pytest.approx(100 * (recalls[0] - recalls[1]))
    gaps = [100 * (b['mcr_all'] - a['mcr_all']) for b, a in zip(*tests, strict=True)]
    # Three folds: t of 2 degrees of freedom, n_test / n_train = 1 / 2.
    half = 4.3027 * np.std(gaps, ddof=1) * np.sqrt(1 / 3 + 1 / 2)
    ends = np.mean(gaps) - half, np.mean(gaps) + half
    assert (line.trainings_low, line.trainings_high) == pytest.approx(ends, abs=1e-3)
    assert line.corrected_p >= line.p


def test_seeds_share_their_folds_so_a_fold_counts_once(make_folds, tmp_path):
    gaps = np.zeros((2, 3))
    for seed in (0, 1):
        for sign, method in ((-1, 'ce'), (1, 'rs')):
            path = f'{method}{seed}'
            rights = (0.5, 0.6, 0.7) if method == 'ce' else (0.9, 0.8, 0.7)
            make_folds(path, method, seed, rights=rights)
            files = sorted(tmp_path.glob(f'runs/{path}/*/results.json'))
            gaps[seed] += [sign * json.loads(f.read_text())['final']['mcr_all'] for f in files]
    (section,), _ = make_sections(pooled(tmp_path)[0])
    lines = differences(section, tidy(section))
    (line,) = lines[lines.metric == 'mcr_all'].itertuples()
    low, high = trainings_interval(100 * gaps.mean(axis=0), 1 / 3)
    assert (line.trainings_low, line.trainings_high) == pytest.approx((low, high))
    assert line.trainings == 6


def test_the_classes_of_a_group_are_the_same_in_all_folds(make_run, tmp_path):
    for fold, minor in enumerate([(5, 6), (4, 6), (5, 6)]):  # two classes are about as frequent
        of_fold = {'data__folds': 3, 'data__fold': fold, 'predictions': False}
        of_fold['groups'] = {'major': [0], 'minor': minor}
        for method, right in (('ce', (0.5, 0.6, 0.7)), ('rs', (0.9, 0.8, 0.9))):
            make_run(f'{method}/{fold}', method, right=right[fold], **of_fold)
    (section,), _ = make_sections(pooled(tmp_path)[0])
    lines = differences(section, tidy(section))
    (line,) = lines[lines.metric == 'mcr_minor'].itertuples()
    recalls = []
    for method in ('rs', 'ce'):
        files = sorted(tmp_path.glob(f'runs/{method}/*/results.json'))
        tests = [np.array(json.loads(file.read_text())['final']['confusion']) for file in files]
        recalls.append([np.mean((c.diagonal() / c.sum(axis=1))[5:]) for c in tests])
    middle = 100 * np.mean(np.subtract(*recalls))
    assert (line.trainings_low + line.trainings_high) / 2 == pytest.approx(middle)


def test_rows_may_differ_in_tuned_fields_only_when_told(make_folds, tmp_path):
    make_folds('a', 'ce_crw', stage1__learning_rate=0.01)
    make_folds('b', 'ce_tp_crw', stage1__learning_rate=0.03)
    runs = pooled(tmp_path)[0]
    assert len(make_sections(runs)[0]) == 2
    ((section,), _) = make_sections(runs, ['stage1.learning_rate'])
    rates = {row.method: row.settings['stage1.learning_rate'] for row in section.main_rows}
    assert (rates['ce_crw'], rates['ce_tp_crw']) == (0.01, 0.03)
