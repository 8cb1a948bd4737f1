"""The tidy table of all numbers, and what is computed from it: estimates and differences."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from metriclt_jax.reports import statistics
from metriclt_jax.reports.published import CELL, published_cells
from metriclt_jax.reports.sections import Row, Section, unlike_default


def tidy(section: Section) -> pd.DataFrame:
    """A line for each run, stage and metric of a section.

    Columns: `method`, `variant`, `path`, `seed`, `stage` ('1' or 'last'), `row` (the title of the
    row that prints it, if one does), `metric` ('mcr_all' ..., 'accuracy', 'macro_f1',
    'macro_auroc', 'recall NAME' of each class, 'ece') and `value` (a fraction).
    """
    titles = {(run.path, row.stage): row.title for row in section.rows for run in row.runs}
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
                _, labels, probabilities = run.predictions
                error = statistics.calibrate(probabilities, labels).error
            line = [run.results['method'], variant, run.path, run.results['seed'], stage]
            line += [titles.get((run.path, stage)), *map(test.get, summaries)]
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
    first = ['section', 'dataset', 'model', 'method', 'variant', 'stage', 'metric', 'runs', 'seeds']
    return lines[[*first, 'mean', 'deviation', *paper.columns, 'difference', 'row']]


def reference_row(rows: Sequence[Row], wanted: str | None = None) -> Row | None:
    """The row that is most like the defaults, of the method `wanted` or of `ce_crw` or `ce`."""
    names = [wanted] if wanted else ['ce_crw', 'ce']
    likes = [row for row in rows if row.method in names]
    likes.sort(key=lambda row: (names.index(row.method), len(unlike_default(row.settings))))
    return likes[0] if likes else None


def differences(section: Section, table: pd.DataFrame, wanted: str | None = None) -> pd.DataFrame:
    """Every row against the reference, by metric: the lines of `differences.csv`, in points.

    First comes the best row against the second best, unless one of them is the reference. A
    difference is over the `seeds` that both rows have, or over all where they share none.
    """
    rows = section.main_rows
    base = reference_row(rows, wanted)
    pairs = [(row, base) for row in rows if base is not None and row is not base]
    means = estimates(table)['mean']
    best = sorted(rows, key=lambda row: -means[row.title, 'mcr_all'])[:2]
    if len(best) == 2 and base not in best:
        pairs.insert(0, tuple(best))
    lines = [
        (section.title, a.title, b.title, metric, *_difference(table, (a, b), metric, classes))
        for metric, classes in section.mcr_classes.items()
        for a, b in pairs
        if metric in means.index.get_level_values('metric')
    ]
    names = ['section', 'first', 'second', 'metric', 'seeds', 'difference']
    ends = ['seeds_low', 'seeds_high', 'images_low', 'images_high']
    return pd.DataFrame(lines, columns=[*names, *ends, 'verdict'])


def _difference(table, pair: tuple[Row, Row], metric: str, classes: Sequence[int]) -> tuple:
    """Common seeds, difference, the ends of both intervals and the verdict."""
    values = 100 * table[table.metric == metric].set_index(['row', 'seed']).value
    a, b = (values[row.title] for row in pair)
    common = sorted(a.index.intersection(b.index))
    over_seeds, difference = statistics.Interval(), a.mean() - b.mean()
    if common:
        a, b = a[common], b[common]
        over_seeds, difference = statistics.seeds_interval(a, b), np.mean(a - b)
    over_images = _over_images(pair, {*a.index, *b.index}, classes)
    claim = statistics.verdict(difference, over_seeds, over_images, len(common))
    return ' '.join(map(str, common)), difference, *over_seeds, *over_images, claim


def _over_images(pair: tuple[Row, Row], seeds: set[int], classes) -> statistics.Interval:
    """In points; there is none where a run kept no predictions of the same images."""
    kept = [[r.predictions for r in row.runs if r.results['seed'] in seeds] for row in pair]
    outputs = [*kept[0], *kept[1]]
    if None in outputs or '1' in (row.stage for row in pair):
        return statistics.Interval()
    ids, labels, _ = outputs[0]
    if not all(np.array_equal(o.ids, ids) and np.array_equal(o.labels, labels) for o in outputs):
        return statistics.Interval()
    shares = [
        np.mean([one.probabilities.argmax(axis=1) == labels for one in of_row], axis=0)
        for of_row in kept
    ]
    interval = statistics.images_interval(*shares, labels, classes)
    return statistics.Interval(*(100 * end for end in interval))
