"""The tidy table of all numbers, and what is computed from it: estimates and differences."""

from collections.abc import Container, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from metriclt_jax.data.splits import group_numbers
from metriclt_jax.evaluation.metrics import mean_class_recall
from metriclt_jax.reports import statistics
from metriclt_jax.reports.published import CELL, published_cells
from metriclt_jax.reports.sections import Row, Section, unlike_default


def tidy(section: Section) -> pd.DataFrame:
    """A line for each run, stage and metric of a section.

    Columns: `method`, `variant`, `path`, `seed`, `stage` ('1' or 'last'), `row` (the title of the
    row that prints it, if one does), `metric` ('mcr_all' ..., 'accuracy', 'macro_f1',
    'macro_auroc', 'recall NAME' of each class, 'ece') and `value` (a fraction).
    """
    titles = {(run, row.stage): row.title for row in section.rows for run in row.runs}
    variants = {run: row.variant for row in section.rows for run in row.runs}
    summaries = [*section.mcr_classes, 'accuracy', 'macro_f1', 'macro_auroc']
    metrics = [*summaries, *(f'recall {name}' for name in section.results['class_names']), 'ece']
    names = ['method', 'variant', 'path', 'seed', 'stage', 'row']
    lines = []
    for run, variant in variants.items():
        for stage, end in zip(('last', '1'), reversed(run.results['stages']), strict=False):
            test, error = end['last']['test'], None
            if test is None:
                continue
            if stage == 'last' and run.predictions:
                outputs = run.predictions
                error = statistics.calibrate(outputs.probabilities, outputs.labels).error
            line = [run.results['method'], variant, run.path, run.results['seed'], stage]
            line += [titles.get((run, stage)), *map(test.get, summaries)]
            confusion = np.array(test['confusion'], float)
            sizes = confusion.sum(axis=1)
            sizes[sizes == 0] = np.nan  # such a class has no recall
            lines.append([*line, *confusion.diagonal() / sizes, error])
    table = pd.DataFrame(lines, columns=[*names, *metrics])
    table = table.melt(names, var_name='metric').dropna(subset='value')
    table['row'] = pd.Categorical(table['row'], [row.title for row in section.rows])
    table['metric'] = pd.Categorical(table['metric'], metrics)
    return table.assign(value=table.value.astype(float))


def estimates(table: pd.DataFrame, by: Sequence[str] = ('row', 'metric')) -> pd.DataFrame:
    """Number of `runs`, `mean` and sample `deviation` (NaN for a single run) in per cent."""
    groups = (100 * table.value).groupby([table[name] for name in by], observed=True)
    return groups.agg(runs='count', mean='mean', deviation='std')


def results(section: Section, table: pd.DataFrame) -> pd.DataFrame:
    """The estimates of a section beside the paper's numbers: the lines of `results.csv`."""
    rows = [(r.method, r.variant, r.stage, ' '.join(map(str, r.seeds))) for r in section.rows]
    rows = pd.DataFrame(rows, columns=['method', 'variant', 'stage', 'seeds'])
    rows = rows.assign(section=section.title, dataset=section.dataset, model=section.model)
    rows['row'] = [row.title for row in section.rows]
    paper = published_cells().add_prefix('paper_')
    lines = rows.merge(estimates(table).reset_index(), on='row').join(paper, CELL)
    # The paper has a method's default settings only.
    lines.loc[lines.variant != '', paper.columns] = np.nan
    lines['difference'] = lines['mean'] - lines.paper_mean
    ends = pd.DataFrame(
        [_interval(section, r, metric) for r in section.rows for metric in section.mcr_classes]
    )
    lines = lines.merge(ends, 'left', on=['row', 'metric'])
    first = ['section', 'dataset', 'model', 'method', 'variant', 'stage', 'metric', 'runs', 'seeds']
    last = [*paper.columns, 'difference', 'row']
    return lines[[*first, 'mean', 'deviation', 'low', 'high', *last]]


def _interval(section: Section, row: Row, metric: str) -> dict:
    """The bootstrap interval of a row's recall over the test images, in per cent."""
    of_row, (low, high) = _shares(row, row.seeds), statistics.Interval()
    if of_row is not None:
        _, labels, groups, right = of_row
        classes = section.mcr_classes[metric]
        low, high = statistics.bootstrap(right, 0 * right, labels, classes, groups).interval
    return {'row': row.title, 'metric': metric, 'low': 100 * low, 'high': 100 * high}


def reference_row(rows: Sequence[Row], wanted: str | None = None) -> Row | None:
    """The row that is most like the defaults, of the method `wanted` or of `ce_crw` or `ce`."""
    names = [wanted] if wanted else ['ce_crw', 'ce']
    likes = [row for row in rows if row.method in names]
    likes.sort(key=lambda row: (names.index(row.method), len(unlike_default(row.settings))))
    return likes[0] if likes else None


def differences(section: Section, table: pd.DataFrame, wanted: str | None = None) -> pd.DataFrame:
    """Every row against the reference, by metric: the lines of `differences.csv`, in points.

    First comes the best row against the second best, unless one of them is the reference. A
    difference is over the `seeds` that both rows have, or over all where they share none; `low` and
    `high` are the ends of the bootstrap interval over `images` in `groups`.
    """
    rows = section.main_rows
    base = reference_row(rows, wanted)
    pairs = [(row, base) for row in rows if base is not None and row is not base]
    means = estimates(table)['mean']
    best = sorted(rows, key=lambda row: -means[row.title, 'mcr_all'])[:2]
    if len(best) == 2 and base not in best:
        pairs.insert(0, tuple(best))
    lines = [
        {'section': section.title, **_difference(table, pair, metric, classes)}
        for metric, classes in section.mcr_classes.items()
        for pair in pairs
        if metric in means.index.get_level_values('metric')
    ]
    columns = [*_IDENTITY, *_ENDS, 'p', 'corrected_p', 'trainings', 'verdict']
    lines = pd.DataFrame(lines, columns=columns)
    for _, family in lines.groupby('metric'):
        known = family.p.dropna()
        lines.loc[known.index, 'corrected_p'] = statistics.holm(known)
    lines['verdict'] = list(map(_verdict, lines.itertuples()))
    return lines


def _verdict(line) -> str:
    over_trainings = statistics.Interval(line.trainings_low, line.trainings_high)
    return statistics.verdict(line.difference, over_trainings, line.corrected_p, line.trainings)


_IDENTITY = ['section', 'first', 'second', 'metric', 'seeds', 'images', 'groups', 'difference']
_ENDS = ['low', 'high', 'trainings_low', 'trainings_high']


def _difference(table, pair: tuple[Row, Row], metric: str, classes: Sequence[int]) -> dict:
    """Who is compared, common seeds, difference, and both intervals."""
    values = 100 * table[table.metric == metric].set_index(['row', 'seed']).value
    a, b = (values[row.title] for row in pair)
    common = sorted(a.index.intersection(b.index))
    difference = a.mean() - b.mean()
    over_trainings, trainings = statistics.Interval(), 0
    if common:
        a, b = a[common], b[common]
        difference = np.mean(a - b)
        over_trainings, trainings = _over_trainings(pair, common, classes)
    seeds, (first, second) = ' '.join(map(str, common)), (row.title for row in pair)
    return {
        **{'first': first, 'second': second, 'metric': metric, 'seeds': seeds},
        **{'difference': difference, 'trainings': trainings},
        **_over_images(pair, {*a.index, *b.index}, classes),
        **dict(zip(_ENDS[2:], over_trainings, strict=True)),
    }


def _over_trainings(pair, seeds: Sequence[int], classes) -> tuple[statistics.Interval, int]:
    """In points, paired over the seeds or, of a cross-validation, over its folds.

    Seeds share the folds, so a fold counts once, with the mean over seeds. Folds may differ in
    their rarest classes, so the recall is over the same `classes` in each.
    """
    recalls = []
    for row in pair:
        runs = [run for run in row.runs if run.results['seed'] in seeds]
        stages = [t.results['stages'] for run in runs for t in run.trainings]
        place = -1 if row.stage == 'last' else 0
        tests = [stage[place]['last']['test']['confusion'] for stage in stages]
        tested = [c for c in classes if any(tests[0][c])]
        recalls.append([100 * mean_class_recall(test, tested) for test in tests])
    gaps, folds = np.subtract(*recalls), len(pair[0].runs[0].folds)
    means = gaps.reshape(-1, folds).mean(axis=0) if folds else gaps
    return statistics.trainings_interval(means, 1 / folds if folds else 0.0), len(gaps)


def _over_images(pair: tuple[Row, Row], seeds: set[int], classes: Sequence[int]) -> dict:
    """In points; there is none where a run kept no predictions of the same images."""
    first, second = (_shares(row, seeds) for row in pair)
    if first is None or second is None or not np.array_equal(first.ids, second.ids):
        return {}
    images = first.labels, classes, first.groups
    _, (low, high), p = statistics.bootstrap(first.right, second.right, *images)
    groups = group_numbers(first.groups[np.isin(first.labels, classes)])
    found = {'images': len(groups), 'groups': len(set(groups))}
    return {**found, 'low': 100 * low, 'high': 100 * high, 'p': p}


class _Shares(NamedTuple):
    """The test images `[N]`, and the share of a row's runs that are `right` about each."""

    ids: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    right: np.ndarray


def _shares(row: Row, seeds: Container[int]) -> _Shares | None:
    """None where a run of the row kept no predictions, or those of other images."""
    kept = [run.predictions for run in row.runs if run.results['seed'] in seeds]
    if row.stage == '1' or None in kept:
        return None
    ids, labels, _, groups = kept[0]
    if not all(np.array_equal(o.ids, ids) and np.array_equal(o.labels, labels) for o in kept):
        return None
    right = np.mean([one.probabilities.argmax(axis=1) == labels for one in kept], axis=0)
    return _Shares(ids, labels, groups, right)
