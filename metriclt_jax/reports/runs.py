"""Reads work directories and checks that their files agree with each other."""

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

_NOT_RUNS = ('checkpoints', 'figures')  # folders inside a work directory
_TOLERANCE = 1e-6  # of a recall that is computed again


@dataclass(frozen=True, eq=False)
class Predictions:
    """`ids` `[N]`, `labels` `[N]` and final `probabilities` `[N, C]` of the test images."""

    ids: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray

    @property
    def correct(self) -> np.ndarray:
        """Whether each image is predicted correctly, bool `[N]`."""
        return self.probabilities.argmax(axis=1) == self.labels


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


@dataclass(frozen=True)
class Problem:
    """Why the report leaves out a work directory, or a part of it."""

    path: str
    what: str


def read_runs(root: str | os.PathLike) -> tuple[list[Run], list[Problem]]:
    """Reads all runs below a folder, at any depth, in the order of their paths.

    Returns:
        The finished runs, and a problem for each directory with an unfinished run or with files
        that cannot be read or contradict each other. A finished run with a bad `predictions.npz` or
        `metrics.jsonl` is in both lists: its results still count.

    Raises:
        InputError: `root` is not a folder.
    """
    root = Path(root)
    if not root.is_dir():
        raise InputError(f'--runs is {root}, which must be a folder with work directories')
    runs, problems = [], []
    for folder, names, files in os.walk(root):
        is_run = 'results.json' in files or 'config.json' in files
        names[:] = sorted(name for name in names if not (is_run and name in _NOT_RUNS))
        if is_run:
            path = Path(folder).relative_to(root).as_posix()
            try:
                run, remarks = _read_run(Path(folder), path)
                runs.append(run)
            except InputError as error:
                remarks = [str(error)]
            problems += [Problem(path, remark) for remark in remarks]
    return runs, problems


def read_epochs(directory: Path) -> tuple[list[dict[str, Any]], str | None]:
    """Reads `metrics.jsonl` up to the first bad line; also returns what is wrong, if anything."""
    path, lines = directory / 'metrics.jsonl', []
    if not path.exists():
        return lines, 'no metrics.jsonl; training curves leave out this run'
    try:
        for text in path.read_text(encoding='utf-8').splitlines():
            line = json.loads(text)
            line['stage'], line['train'], line['validation']
            if not isinstance(line['epoch'], int):
                raise ValueError('epoch is not an integer')
            lines.append(line)
    except (KeyError, OSError, TypeError, ValueError):
        return lines, f'metrics.jsonl cannot be used from line {len(lines) + 1} on'
    return lines, None


def read_features(run: Run) -> np.ndarray | None:
    """The features `[N, D]` of a run with predictions, in their order; None if it kept none."""
    with np.load(run.directory / 'predictions.npz', allow_pickle=False) as arrays:
        if 'features' not in arrays:
            return None
        features = arrays['features'].astype(np.float32)
    usable = features.ndim == 2 and len(features) == len(run.predictions.labels)
    return features if usable and np.isfinite(features).all() else None


def flatten(values: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
    """Nested mappings as one with dotted names; lists become tuples, as in a config.

    >>> flatten({'seed': 0, 'data': {'fractions': [0.8, 0.2]}})
    {'seed': 0, 'data.fractions': (0.8, 0.2)}
    """
    flat = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{name}.')
        else:
            flat[prefix + name] = _tuples(value)
    return flat


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def _read_run(directory: Path, path: str) -> tuple[Run, list[str]]:
    """Reads a finished run and what is wrong with the files beside its `results.json`.

    Raises:
        InputError: it is not finished, or `results.json` or `config.json` cannot be used.
    """
    epochs, remark = read_epochs(directory)
    if not (directory / 'results.json').exists():
        raise InputError(
            f'not finished: no results.json yet ({len(epochs)} epochs in metrics.jsonl)'
        )
    results = _read_json(directory / 'results.json')
    _check_results(results)
    config = None
    if (directory / 'config.json').exists():
        config = _read_config(directory / 'config.json')
        for field, name in (('method', 'method'), ('data.name', 'dataset'), ('seed', 'seed')):
            if config[field] != results[name]:
                raise InputError(
                    f'{name} is {results[name]!r} in results.json and {config[field]!r} in '
                    'config.json'
                )
    remarks = [remark] if remark else []
    predictions = None
    try:
        predictions = _read_predictions(directory / 'predictions.npz', results)
    except InputError as error:
        remarks.append(f'{error}; calibration, bootstrap and t-SNE leave out this run')
    return Run(path, directory, results, config, tuple(epochs), predictions), remarks


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError) as error:
        raise InputError(f'{path.name} cannot be read: {error}') from None


def _read_config(path: Path) -> dict[str, Any]:
    """All fields of the run's config, including those that only the version that trained it has."""
    saved = _read_json(path)
    saved = flatten(saved) if isinstance(saved, Mapping) else {}
    missing = [field for field in ('method', 'data.name', 'seed') if field not in saved]
    if missing:
        raise InputError(f'config.json is not a config: it lacks {", ".join(missing)}')
    return flatten(paper_config().to_dict()) | saved


def _check_results(results: Any) -> None:
    """Checks `results.json`; the recalls must follow from the confusion matrices."""
    try:
        names, groups = results['class_names'], results['groups']
        for field, kind in {'dataset': str, 'method': str, 'model': str, 'seed': int}.items():
            if not isinstance(results[field], kind):
                raise InputError(
                    f'results.json has {field} {results[field]!r}, not {kind.__name__}'
                )
        if len(names) < 2 or len(results['train_counts']) != len(names):
            raise InputError('results.json needs one entry of train_counts for each class')
        for stage in results['stages']:
            if not isinstance(stage['name'], str):
                raise InputError('results.json has a stage without a name')
            if stage['last']['test'] is not None:
                _check_metrics(stage['last']['test'], len(names), groups)
        if results['final'] is None:
            raise InputError('results.json has no final result: no classifier was trained')
        if results['final'] != results['stages'][-1]['last']['test']:
            raise InputError('results.json has a final result unlike that of its last stage')
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f'results.json is not as runs write it: {error!r}') from None


def _check_metrics(test: Mapping[str, Any], classes: int, groups: Mapping[str, list[int]]) -> None:
    if np.shape(test['confusion']) != (classes, classes):
        raise InputError(f'results.json has a confusion matrix that is not {classes} x {classes}')
    for name, members in {'all': range(classes), **groups}.items():
        stated = test[f'mcr_{name}']
        computed = mean_class_recall(test['confusion'], list(members))
        if not math.isclose(stated, computed, abs_tol=_TOLERANCE):
            raise InputError(
                f'results.json has mcr_{name} {stated}, but its confusion matrix gives {computed}'
            )
    for name in ('accuracy', 'macro_f1', 'macro_auroc'):
        if not 0 <= test[name] <= 1:
            raise InputError(f'results.json has {name} {test[name]}, which must be 0 to 1')


def _read_predictions(path: Path, results: Mapping[str, Any]) -> Predictions:
    if not path.exists():
        raise InputError('no predictions.npz')
    try:
        # np.load leaves a damaged file open that it opened itself.
        with path.open('rb') as file, np.load(file, allow_pickle=False) as arrays:
            found = Predictions(*(arrays[name] for name in ('ids', 'labels', 'probabilities')))
    except Exception as error:  # a damaged archive raises whatever its parts raise
        raise InputError(f'predictions.npz cannot be read ({type(error).__name__})') from None
    count, classes = len(found.ids), len(results['class_names'])
    shapes = (found.ids.shape, found.labels.shape, found.probabilities.shape)
    if shapes != ((count,), (count,), (count, classes)):
        raise InputError('predictions.npz has arrays of shapes that do not fit')
    if not (np.isfinite(found.probabilities).all() and np.isin(found.labels, range(classes)).all()):
        raise InputError('predictions.npz has labels or probabilities out of range')
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (found.labels, found.probabilities.argmax(axis=1)), 1)
    if confusion.tolist() != results['final']['confusion']:
        raise InputError('predictions.npz does not give the confusion matrix of results.json')
    return found
