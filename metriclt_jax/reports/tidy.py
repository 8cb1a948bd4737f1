"""The tidy table of all numbers, and what is computed from it: estimates and differences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metriclt_jax.evaluation.metrics import mean_class_recall
from metriclt_jax.reports.published import published_cells
from metriclt_jax.reports.sections import Row, Section, unlike_default
from metriclt_jax.reports.statistics import (
    Interval,
    calibrate,
    images_interval,
    seeds_interval,
    verdict,
)


def tidy(section: Section) -> pd.DataFrame:
    """A line for each run, stage and metric of a section.

    Columns: what names the run (`dataset`, `model`, `section`, `method`, `variant`, `path`,
    `seed`), `stage` ('1' or 'last'), `metric` ('mcr_all' ..., 'accuracy', 'macro_f1',
    'macro_auroc', 'recall NAME' of each class and 'ece'), `value` (a fraction) and `row`, the title
    of the row that prints it (NaN if none does). `row` and `metric` are ordered categories.
    """
    firsts = {run.path: row.title for row in section.rows if row.stage == '1' for run in row.runs}
    both = {run.path: (row, run) for row in section.rows for run in row.runs}
    both |= {r.path: (row, r) for row in section.rows if row.stage == 'last' for r in row.runs}
    names = section.results['class_names']
    metrics = [*section.mcr_classes, 'accuracy', 'macro_f1', 'macro_auroc']
    lines = []
    for row, run in both.values():
        stages = {'1': run.results['stages'][0], 'last': run.results['stages'][-1]}
        if len(run.results['stages']) == 1:
            del stages['1']
        for stage, result in stages.items():
            test = result['last']['test']
            if test is None:
                continue
            line = {
                'dataset': section.dataset,
                'model': section.model,
                'section': section.title,
                'method': run.results['method'],
                'variant': row.variant,
                'path': run.path,
                'seed': run.results['seed'],
                'stage': stage,
                'row': firsts.get(run.path) if stage == '1' else row.title,
            }
            if stage == 'last' and row.stage == '1':  # the method itself is not in this report
                line['row'] = None
            values = {metric: test[metric] for metric in metrics}
            for c, name in enumerate(names):
                values[f'recall {name}'] = mean_class_recall(test['confusion'], [c])
            if stage == 'last' and run.predictions is not None:
                outputs = run.predictions
                values['ece'] = calibrate(outputs.probabilities, outputs.labels).error
            lines += [line | {'metric': name, 'value': value} for name, value in values.items()]
    table = pd.DataFrame(lines)
    table['row'] = pd.Categorical(table['row'], [row.title for row in section.rows])
    order = [*metrics, *dict.fromkeys(f'recall {name}' for name in names), 'ece']
    table['metric'] = pd.Categorical(table['metric'], order)
    return table


def estimates(table: pd.DataFrame, by: Sequence[str] = ('row', 'metric')) -> pd.DataFrame:
    """Number of `runs`, `mean` and sample `deviation` in per cent; by row and metric by default.

    The deviation is NaN for a single run.
    """
    groups = (100 * table.value).groupby([table[name] for name in by], observed=True)
    return groups.agg(runs='count', mean='mean', deviation='std')


def results(section: Section, table: pd.DataFrame) -> pd.DataFrame:
    """The estimates of a section beside the paper's numbers: the lines of `results.csv`."""
    rows = pd.DataFrame(
        {
            'row': row.title,
            'section': section.title,
            'dataset': section.dataset,
            'model': section.model,
            'method': row.method,
            'variant': row.variant,
            'stage': row.stage,
            'seeds': ' '.join(str(run.results['seed']) for run in trained(row)),
        }
        for row in section.rows
    )
    lines = rows.merge(estimates(table).reset_index(), on='row')
    paper = published_cells().add_prefix('paper_')
    lines = lines.join(paper, ['dataset', 'model', 'method', 'metric'])
    # The paper has a method's default settings only.
    lines.loc[lines.variant != '', paper.columns] = np.nan
    lines['difference'] = lines['mean'] - lines.paper_mean
    first = ['section', 'dataset', 'model', 'method', 'variant', 'stage', 'metric', 'runs', 'seeds']
    return lines[
        [*first, 'mean', 'deviation', 'paper_mean', 'paper_deviation', 'difference', 'row']
    ]


def trained(row: Row) -> list:
    """The runs of a row that have a trained classifier at the end of its stage."""
    stage = -1 if row.stage == 'last' else 0
    return [run for run in row.runs if run.results['stages'][stage]['last']['test'] is not None]


def reference_row(rows: Sequence[Row], wanted: str | None = None) -> Row | None:
    """The row that the others are compared with: of the method `wanted`, or of `ce_crw` or `ce`.

    Of several rows of that method, the one that is most like the default config.
    """
    for name in (wanted,) if wanted else ('ce_crw', 'ce'):
        likes = [row for row in rows if row.method == name]
        if likes:
            return min(likes, key=lambda row: len(unlike_default(row.settings)))
    return None


def differences(
    section: Section, table: pd.DataFrame, reference: str | None = None
) -> pd.DataFrame:
    """Every row against the reference, by metric; first the best against the second best row.

    The latter is left out where it is one of the former.

    Returns:
        The lines of `differences.csv`: `first - second` in points over the `seeds` that both rows
        have (over all where they share none), with its intervals (NaN where there is none).
    """
    rows = section.main_rows
    base = reference_row(rows, reference)
    pairs = [(row, base) for row in rows if base is not None and row is not base]
    means = estimates(table)['mean']
    best = sorted(rows, key=lambda row: -means[row.title, 'mcr_all'])[:2]
    if len(best) == 2 and base not in best:
        pairs.insert(0, tuple(best))
    lines = [
        _difference(section, table, first, second, metric, classes)
        for metric, classes in section.mcr_classes.items()
        for first, second in pairs
    ]
    return pd.DataFrame(lines, columns=_DIFFERENCE_COLUMNS)


_DIFFERENCE_COLUMNS = (
    *('section', 'first', 'second', 'metric', 'seeds', 'difference', 'seeds_low', 'seeds_high'),
    *('images_low', 'images_high', 'verdict'),
)


def _difference(section, table, first: Row, second: Row, metric: str, classes) -> tuple:
    of_metric = table[table.metric == metric]
    a, b = (of_metric[of_metric.row == r.title].set_index('seed').value for r in (first, second))
    common = sorted(set(a.index) & set(b.index))
    over_seeds, difference = None, float(a.mean() - b.mean())
    if common:
        pairs = a[common].to_numpy(), b[common].to_numpy()
        over_seeds, difference = seeds_interval(*pairs), float(np.mean(np.subtract(*pairs)))
    over_images = _over_images(first, second, common or [*a.index, *b.index], classes)
    ends = [
        100 * end
        for interval in (over_seeds, over_images)
        for end in ((interval.low, interval.high) if interval else (np.nan, np.nan))
    ]
    names = (section.title, first.title, second.title, metric, ' '.join(map(str, common)))
    claim = verdict(difference, over_seeds, over_images, len(common))
    return (*names, 100 * difference, *ends, claim)


def _over_images(first: Row, second: Row, seeds: Sequence[int], classes) -> Interval | None:
    """The interval over test images; None where a run kept no predictions of the same images."""
    runs = [[r for r in row.runs if r.results['seed'] in seeds] for row in (first, second)]
    outputs = [run.predictions for run in (*runs[0], *runs[1])]
    if '1' in (first.stage, second.stage) or None in outputs:
        return None
    ids, labels = outputs[0].ids, outputs[0].labels
    if not all(np.array_equal(o.ids, ids) and np.array_equal(o.labels, labels) for o in outputs):
        return None
    shares = [np.mean([run.predictions.correct for run in of_row], axis=0) for of_row in runs]
    return images_interval(*shares, labels, classes)
