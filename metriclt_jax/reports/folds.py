"""Cross-validation: the runs that test each fold of a data set once are one run over all of it."""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from metriclt_jax.config import FIELDS_WITHOUT_INFLUENCE
from metriclt_jax.errors import InputError
from metriclt_jax.evaluation.metrics import summarize
from metriclt_jax.reports.runs import Predictions, Problem, Run


def pool_folds(runs: Sequence[Run]) -> tuple[list[Run], list[Problem]]:
    """Replaces runs that differ only in `data.fold` by one with the outputs of all folds.

    Its counts are sums, so that every image is tested once, and its means are taken from these. A
    cross-validation that lacks folds is left out and becomes a problem.
    """
    pooled, problems, families = [], [], {}
    for run in runs:
        if not run.config or not run.config['data.folds']:
            pooled.append(run)
            continue
        settings = {k: v for k, v in run.config.items() if k not in FIELDS_WITHOUT_INFLUENCE}
        del settings['data.fold'], settings['model.pretrained']  # a path; its content counts
        key = json.dumps([settings, run.results.get('pretrained')], sort_keys=True)
        family = families.setdefault(key, {})
        other = family.setdefault(run.config['data.fold'], run)
        if other is not run:
            problems.append((run.path, f'left out: repeats {other.path} (same fold and settings)'))
    for family in families.values():
        folds = [family[fold] for fold in sorted(family)]
        number = folds[0].config['data.folds']
        missing = [str(fold) for fold in range(number) if fold not in family]
        try:
            if missing:
                raise InputError(f'of {number} folds, {", ".join(missing)} are missing')
            pooled.append(_pool(folds))
        except InputError as error:
            problems += [(run.path, f'left out: {error}') for run in folds]
    return pooled, problems


def _pool(folds: Sequence[Run]) -> Run:
    first = folds[0].results
    if any(run.results['class_names'] != first['class_names'] for run in folds):
        raise InputError('its folds have different classes')
    counts = [run.results['train_counts'] for run in folds]
    outputs = [run.predictions for run in folds]
    predictions = None if None in outputs else _in_order_of_ids(outputs)
    stages = []
    for number, stage in enumerate(first['stages']):
        tests = [run.results['stages'][number]['last']['test'] for run in folds]
        kept = predictions if number == len(first['stages']) - 1 else None
        test = None if None in tests else _summary(tests, kept, first)
        stages.append({'name': stage['name'], 'last': {'test': test}})
    results = {
        **first,
        'train_counts': np.rint(np.mean(counts, axis=0)).astype(int).tolist(),
        'stages': stages,
        'final': stages[-1]['last']['test'],
    }
    path = os.path.commonpath([run.path for run in folds])
    config = {**folds[0].config, 'data.fold': 0}
    return Run(path, folds[0].directory, results, config, [], predictions, tuple(folds))


def _in_order_of_ids(outputs: Sequence[Predictions]) -> Predictions:
    together = [np.concatenate(column) for column in zip(*outputs, strict=True)]
    order = np.argsort(together[0], kind='stable')
    if len(np.unique(together[0])) < len(order):
        raise InputError('some images are in the test parts of several folds')
    return Predictions(*(column[order] for column in together))


def _summary(tests: Sequence[Any], outputs: Predictions | None, results: dict) -> dict[str, Any]:
    confusion = np.sum([test['confusion'] for test in tests], axis=0)
    probabilities, labels = (outputs.probabilities, outputs.labels) if outputs else (None, None)
    return summarize(probabilities, labels, confusion, results['groups'], results['class_names'])
