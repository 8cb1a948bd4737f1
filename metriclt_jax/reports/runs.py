"""Reads work directories and checks that their files agree with each other."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.metrics import mean_class_recall

_NOT_RUNS = ('checkpoints', 'figures')  # folders inside a work directory


class Predictions(NamedTuple):
    """Final outputs for the test images: `ids` `[N]`, `labels` `[N]`, `probabilities` `[N, C]`.

    `groups` `[N]` are their lesions or patients, '' where unknown.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run."""

    path: str  # of its work directory, relative to the folder that was read
    directory: Path
    results: Mapping[str, Any]  # the contents of results.json
    config: Mapping[str, Any] | None  # fields by dotted name; None without config.json
    epochs: list[dict[str, Any]]  # the lines of metrics.jsonl
    predictions: Predictions | None
    folds: tuple['Run', ...] = ()  # of a cross-validation, in their order

    @property
    def trainings(self) -> tuple['Run', ...]:
        """The runs that were trained: itself, or those on its folds."""
        return self.folds or (self,)


Problem = tuple[str, str]  # a work directory and why the report leaves out it or a part of it


def read_runs(root: str | os.PathLike) -> tuple[list[Run], list[Problem]]:
    """Reads all runs below a folder, at any depth, in the order of their paths.

    A run that cannot be used becomes a problem. One with a bad `predictions.npz` or
    `metrics.jsonl` is in both lists: its results still count.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f'--runs is {root}, which must be a folder with work directories')
    runs, problems = [], []

    def unreadable(error: OSError) -> None:
        path = Path(error.filename).relative_to(root).as_posix()
        problems.append((path, f'cannot be read: {error.strerror}'))

    for folder, names, files in os.walk(root, onerror=unreadable):
        is_run = 'results.json' in files or 'config.json' in files
        names[:] = sorted(name for name in names if not (is_run and name in _NOT_RUNS))
        if is_run:
            path = Path(folder).relative_to(root).as_posix()
            try:
                run, remarks = _read_run(Path(folder), path)
                runs.append(run)
            except InputError as error:
                remarks = [str(error)]
            except OSError as error:
                remarks = [f'cannot be read: {error.strerror}']
            problems += [(path, remark) for remark in remarks if remark]
    return runs, problems


def _read_run(directory: Path, path: str) -> tuple[Run, list[str | None]]:
    """Reads a run; also returns what is wrong with `metrics.jsonl` and `predictions.npz`."""
    epochs, remark = read_epochs(directory)
    if not (directory / 'results.json').exists():
        raise InputError(f'not finished: no results.json ({len(epochs)} epochs in metrics.jsonl)')
    results, config = _read_json(directory / 'results.json'), None
    if (directory / 'config.json').exists():
        config = flatten(_read_json(directory / 'config.json'))
    _require('results.json', _results_checks(results, config))
    if config:  # of another version it may lack fields
        config = flatten(paper_config().to_dict()) | config
    predictions, remarks = None, [remark]
    try:
        predictions = _read_predictions(directory / 'predictions.npz', results)
    except InputError as error:
        remarks.append(f'{error}; calibration, bootstrap and t-SNE leave out this run')
    return Run(path, directory, results, config, epochs, predictions), remarks


def read_epochs(directory: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Reads `metrics.jsonl` up to the first bad line; also returns what is wrong, if anything."""
    path, lines = directory / 'metrics.jsonl', []
    if not path.exists():
        return lines, 'no metrics.jsonl; training curves leave out this run'
    try:
        for text in path.read_text(encoding='utf-8').splitlines():
            line = json.loads(text)
            validation = dict(line['validation'] or {})
            validation.pop('classes_without_images', None)
            numbers = [*line['train'].values(), *(v for v in validation.values() if v is not None)]
            if not (isinstance(line['stage'], str) and isinstance(line['epoch'], int)):
                raise TypeError(line)
            math.fsum(numbers)
            lines.append(line)
    except (AttributeError, KeyError, OSError, TypeError, ValueError):
        return lines, f'metrics.jsonl cannot be used from line {len(lines) + 1} on'
    return lines, None


def read_features(directory: Path, count: int) -> np.ndarray | None:
    """The features `[count, D]` of a run's test images; None if it kept none that fit."""
    try:
        with (directory / 'predictions.npz').open('rb') as file:
            features = np.load(file, allow_pickle=False)['features'].astype(np.float32)
    except Exception:  # the array is missing, or damaged in one of many ways
        return None
    fits = features.ndim == 2 and len(features) == count and features.shape[1] > 1
    return features if fits and np.isfinite(features).all() else None


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one with dotted names, and lists as tuples."""
    flat = flatten_dict(values, sep='.')
    return {name: tuple(v) if isinstance(v, list) else v for name, v in flat.items()}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path.name} cannot be read: {error}') from None
    if not isinstance(content, dict):
        raise InputError(f'{path.name} must hold a JSON object')
    return content


Checks = Iterator[tuple[str, bool]]  # what may be wrong, and whether it is right


def _require(file: str, checks: Checks) -> None:
    try:
        wrong = next((what for what, is_right in checks if not is_right), None)
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        wrong = f'a part missing or of another kind: {error!r}'
    if wrong:
        raise InputError(f'{file} has {wrong}')


def _results_checks(results: Mapping[str, Any], config: Mapping[str, Any] | None) -> Checks:
    for field, kind in {'dataset': str, 'method': str, 'model': str, 'seed': int}.items():
        yield f'{field} {results[field]!r}, not {kind.__name__}', isinstance(results[field], kind)
    for name, field in {'method': 'method', 'dataset': 'data.name', 'seed': 'seed'}.items():
        in_config = results[name] if config is None else config.get(field)
        yield f'{name} {results[name]!r}, config.json {in_config!r}', results[name] == in_config
    for field, kind in {'class_names': str, 'train_counts': int}.items():
        yield f'{field} of another type', all(isinstance(v, kind) for v in results[field])
    classes = len(results['class_names'])
    yield 'fewer than two classes or a name twice', len(set(results['class_names'])) == classes > 1
    yield 'a length of train_counts unlike class_names', len(results['train_counts']) == classes
    yield 'no final result: no classifier was trained', results['final'] is not None
    last = results['stages'][-1]['last']['test']
    yield 'a final result unlike that of its last stage', results['final'] == last
    yield 'a stage without a name', all(isinstance(s['name'], str) for s in results['stages'])
    tests = [stage['last']['test'] for stage in results['stages']]
    for test in (test for test in tests if test is not None):
        shape = np.shape(test['confusion'])
        yield f'a confusion matrix that is not {classes} x {classes}', shape == (classes, classes)
        sizes = np.sum(test['confusion'], axis=1)
        missing = [results['class_names'][c] for c in np.flatnonzero(sizes == 0)]
        stated = test.get('classes_without_images', [])
        yield f'test images of all classes but {stated}, not {missing}', stated == missing
        for group, members in {'all': range(classes), **results['groups']}.items():
            stated, members = test[f'mcr_{group}'], [c for c in members if sizes[c]]
            computed = mean_class_recall(test['confusion'], members) if members else None
            what = f'mcr_{group} {stated}, but its confusion matrix gives {computed}'
            same = stated is computed if None in (stated, computed) else None
            yield what, math.isclose(stated, computed, abs_tol=1e-6) if same is None else same
        for name in ('accuracy', 'macro_f1', 'macro_auroc'):
            alone = name == 'macro_auroc' and np.count_nonzero(sizes) == 1  # nothing to tell from
            right = test[name] is None if alone else 0 <= test[name] <= 1
            yield f'{name} {test[name]}, which must be 0 to 1', right


def _read_predictions(path: Path, results: Mapping[str, Any]) -> Predictions:
    if not path.exists():
        raise InputError('no predictions.npz')
    try:
        # np.load leaves a damaged file open that it opened itself.
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            found = [arrays[name] for name in ('ids', 'labels', 'probabilities')]
            groups = arrays['groups'] if 'groups' in arrays else np.full(len(found[0]), '')
    except Exception as error:  # a damaged archive raises whatever its parts raise
        raise InputError(f'predictions.npz cannot be read ({type(error).__name__})') from None
    _require('predictions.npz', _predictions_checks(*found, groups, results))
    return Predictions(*found, groups)


def _predictions_checks(ids, labels, probabilities, groups, results: Mapping[str, Any]) -> Checks:
    count, classes = len(ids), len(results['class_names'])
    shapes = [(count,), (count,), (count, classes), (count,)]
    fit = [array.shape for array in (ids, labels, probabilities, groups)] == shapes
    yield 'arrays of shapes that do not fit', fit
    in_range = np.isfinite(probabilities).all() and np.isin(labels, range(classes)).all()
    yield 'labels or probabilities out of range', in_range
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    same = confusion.tolist() == results['final']['confusion']
    yield 'another confusion matrix than results.json', same
