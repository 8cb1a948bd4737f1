"""Reads the work directories of runs: what can be relied on, and what is wrong with the others."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metriclt_jax.config import paper_config
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.metrics import mean_class_recall
from metriclt_jax.training.workdir import lists_to_tuples

_TEXTS = ('dataset', 'method', 'model')
_NOT_RUNS = ('checkpoints', 'figures')  # folders of a work directory, without runs inside
_TOLERANCE = 1e-6  # of a recall that is computed again


@dataclass(frozen=True, eq=False)
class Predictions:
    """The final outputs for the N test images.

    Attributes:
        ids: names of the images `[N]`.
        labels: true classes `[N]`.
        probabilities: `[N, C]`.
    """

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


@dataclass(frozen=True, eq=False)
class Run:
    """A finished run.

    Attributes:
        path: its work directory, relative to the folder that was read.
        directory: its work directory.
        results: the contents of `results.json`, checked.
        config: every field of the config by its dotted name; None without `config.json`.
        epochs: the lines of `metrics.jsonl`; empty without the file.
        predictions: None without `predictions.npz`.
    """

    path: str
    directory: Path
    results: Mapping[str, Any]
    config: Mapping[str, Any] | None
    epochs: tuple[Mapping[str, Any], ...]
    predictions: Predictions | None

    @property
    def method(self) -> str:
        """Row of the tables."""
        return self.results['method']

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.results['seed']


@dataclass(frozen=True)
class Problem:
    """A work directory that is left out of the report or only partly in it, and why."""

    path: str
    what: str


def read_runs(root: str | os.PathLike) -> tuple[list[Run], list[Problem]]:
    """All runs below a folder, at any depth, in the order of their paths.

    Returns:
        The finished runs, and a problem for each directory that holds something else: an unfinished
        run, or files that cannot be read or contradict each other. (A finished run whose
        `predictions.npz` or `metrics.jsonl` is bad is among both: its results still count.)

    Raises:
        InputError: `root` is no folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f'folder of runs {root} does not exist; allowed: a folder with results')
    runs, problems = [], []
    for folder, names, files in os.walk(root):
        is_run = 'results.json' in files or 'config.json' in files
        names[:] = sorted(name for name in names if not (is_run and name in _NOT_RUNS))
        if not is_run:
            continue
        directory = Path(folder)
        path = directory.relative_to(root).as_posix()
        try:
            run, remarks = read_run(directory, path)
        except InputError as error:
            problems.append(Problem(path, str(error)))
            continue
        runs.append(run)
        problems += [Problem(path, remark) for remark in remarks]
    return runs, problems


def read_run(directory: Path, path: str) -> tuple[Run, list[str]]:
    """One finished run and what is wrong with the files beside its `results.json`.

    Raises:
        InputError: it is not finished, or `results.json` or `config.json` cannot be used.
    """
    if not (directory / 'results.json').exists():
        epochs = len(_read_epochs(directory)[0])
        raise InputError(f'not finished: no results.json yet ({epochs} epochs in metrics.jsonl)')
    results = _check_results(_read_json(directory / 'results.json'))
    config = None
    if (directory / 'config.json').exists():
        config = _read_settings(directory)
        for field, name in (('method', 'method'), ('data.name', 'dataset'), ('seed', 'seed')):
            if config[field] != results[name]:
                raise InputError(
                    f'results.json has the {name} {results[name]!r} and config.json '
                    f'{config[field]!r}'
                )
    remarks = []
    epochs, remark = _read_epochs(directory)
    remarks += [remark] if remark else []
    predictions = None
    try:
        predictions = _read_predictions(directory, results)
    except InputError as error:
        remarks.append(f'{error}; calibration, bootstrap and t-SNE go without this run')
    return Run(path, directory, results, config, tuple(epochs), predictions), remarks


def read_features(run: Run) -> np.ndarray | None:
    """The features `[N, D]` of a run with predictions, in their order; None if it kept none."""
    with np.load(run.directory / 'predictions.npz', allow_pickle=False) as arrays:
        if 'features' not in arrays:
            return None
        features = arrays['features'].astype(np.float32)
    usable = features.ndim == 2 and len(features) == len(run.predictions.labels)
    return features if usable and np.isfinite(features).all() else None


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested mappings as one, with dotted names.

    >>> flatten({'seed': 0, 'data': {'name': 'skin7'}})
    {'seed': 0, 'data.name': 'skin7'}
    """
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = value
    return flat


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path.name} cannot be read: {error}') from None


def _read_settings(directory: Path) -> dict[str, Any]:
    """All fields of the run's config; also those that only the version that trained it has."""
    saved = lists_to_tuples(_read_json(directory / 'config.json'))
    if not isinstance(saved, Mapping):
        raise InputError('config.json is no config')
    config = flatten(paper_config().to_dict()) | flatten(saved)
    missing = [field for field in ('method', 'data.name', 'seed') if field not in flatten(saved)]
    if missing:
        raise InputError(f'config.json is no config: it has no {", ".join(missing)}')
    return config


def _check_results(results: Any) -> Mapping[str, Any]:
    """`results.json` as training writes it; recalls must follow from the confusion matrix."""
    try:
        if not all(isinstance(results[name], str) for name in _TEXTS):
            raise InputError(f'results.json has no texts for {", ".join(_TEXTS)}')
        if not isinstance(results['seed'], int):
            raise InputError('results.json has no whole number as seed')
        names, groups = results['class_names'], results['groups']
        if len(names) < 2 or len(results['train_counts']) != len(names):
            raise InputError('results.json has not one training count for each of its classes')
        for stage in results['stages']:
            if not isinstance(stage['name'], str):
                raise InputError('results.json has a stage without a name')
            _check_summary(stage['last']['test'], len(names), groups)
        if results['final'] is None:
            raise InputError('results.json has no final result: no classifier was trained')
        _check_summary(results['final'], len(names), groups)
        if results['final'] != results['stages'][-1]['last']['test']:
            raise InputError('results.json has a final result that is not that of its last stage')
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'results.json is not as runs write it: {error!r}') from None
    return results


def _check_summary(
    summary: Mapping[str, Any] | None, classes: int, groups: Mapping[str, list[int]]
) -> None:
    if summary is None:
        return
    if np.shape(summary['confusion']) != (classes, classes):
        raise InputError(f'results.json has a confusion matrix that is not {classes} x {classes}')
    for name, members in {'all': range(classes), **groups}.items():
        stated = summary[f'mcr_{name}']
        computed = mean_class_recall(summary['confusion'], list(members))
        if not math.isclose(stated, computed, abs_tol=_TOLERANCE):
            raise InputError(
                f'results.json has mcr_{name} {stated}, and its confusion matrix gives {computed}'
            )
    for name in ('accuracy', 'macro_f1', 'macro_auroc'):
        if not 0 <= summary[name] <= 1:
            raise InputError(f'results.json has {name} {summary[name]}; allowed: 0 to 1')


def _read_epochs(directory: Path) -> tuple[list[Mapping[str, Any]], str | None]:
    """The lines of `metrics.jsonl` that can be used, and what is wrong with it."""
    path = directory / 'metrics.jsonl'
    if not path.exists():
        return [], 'no metrics.jsonl; training curves go without this run'
    lines = []
    try:
        for text in path.read_text(encoding='utf-8').splitlines():
            line = json.loads(text)
            line['stage'], line['train'], line['validation']
            if not isinstance(line['epoch'], int):
                raise ValueError('an epoch is not a whole number')
            lines.append(line)
    except (KeyError, OSError, TypeError, ValueError):
        return lines, f'metrics.jsonl cannot be used from line {len(lines) + 1} on'
    return lines, None


def _read_predictions(directory: Path, results: Mapping[str, Any]) -> Predictions:
    path = directory / 'predictions.npz'
    if not path.exists():
        raise InputError('no predictions.npz')
    try:
        # np.load leaves a damaged file open that it opened itself.
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            ids, labels, probabilities = (
                arrays[name] for name in ('ids', 'labels', 'probabilities')
            )
    except Exception as error:  # a damaged archive raises whatever its parts raise
        raise InputError(f'predictions.npz cannot be read ({type(error).__name__})') from None
    classes = len(results['class_names'])
    confusion = np.zeros((classes, classes), int)
    shapes_fit = ids.shape == labels.shape == (len(ids),)
    if not (shapes_fit and probabilities.shape == (len(ids), classes)):
        raise InputError('predictions.npz has arrays that do not fit each other')
    if not (np.isfinite(probabilities).all() and np.isin(labels, range(classes)).all()):
        raise InputError('predictions.npz has labels or probabilities that are none')
    np.add.at(confusion, (labels, probabilities.argmax(axis=1)), 1)
    if confusion.tolist() != results['final']['confusion']:
        raise InputError('predictions.npz does not give the confusion matrix of results.json')
    return Predictions(ids, labels, probabilities)
