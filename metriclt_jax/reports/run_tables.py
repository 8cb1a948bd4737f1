"""The tables on the runs of a section: results beside the paper's, stages, classes, differences."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from metriclt_jax.reports.comparisons import Comparison, mcr_classes
from metriclt_jax.reports.document import Cell, Table
from metriclt_jax.reports.names import method_title, metric_title
from metriclt_jax.reports.paper_tables import MARKS, number
from metriclt_jax.reports.published import find_published
from metriclt_jax.reports.sections import Row, Section, coefficient_field, first_stage_method
from metriclt_jax.reports.statistics import (
    BINS,
    RESAMPLES,
    Calibration,
    Estimate,
    Interval,
    best_and_second,
    calibrate,
    calibration_error,
    class_recalls,
    estimate,
    seeds_interval,
)

WIDE = 15  # more classes than these are rows, not columns


def per_cent(values: Sequence[float]) -> Estimate | None:
    """Mean and deviation of fractions, in per cent; None without any."""
    return estimate([100 * value for value in values]) if len(values) else None


def text(value: Estimate | None) -> str:
    """An estimate as the paper prints it."""
    return '-' if value is None else number(value.mean, value.deviation)


def marked(estimates: Sequence[Estimate | None]) -> list[Cell]:
    """The cells of a column, the best one bold and the second best underlined."""
    marks = best_and_second([None if e is None else round(e.mean, 2) for e in estimates])
    return [Cell(text(e), mark) for e, mark in zip(estimates, marks, strict=True)]


def row_title(row: Row) -> str:
    """Name of a row; a star where it is the first stage of another method."""
    return row.title if row.stage == -1 else f'{row.title} *'


def results_table(section: Section, rows: Sequence[Row], methods: Sequence[str] = ()) -> Table:
    """Mean class recalls by method, beside the paper's where it has the data set and backbone.

    Args:
        section: of the rows.
        rows: in the order to print.
        methods: those that the table is about, in the order to print, run or not; those of `rows`
            if empty.
    """
    entries = [(row.method, row) for row in rows]
    if methods:
        ran = {method: [row for row in rows if row.method == method] for method in methods}
        entries = [(method, row) for method in methods for row in ran[method] or [None]]
    published = {
        (method, metric): find_published(section.dataset, section.model, method, metric)
        for method, _ in entries
        for metric in mcr_classes(section)
    }
    columns = [
        [row_title(row) if row else method_title(method) for method, row in entries],
        [str(len(row.summaries())) if row else '-' for _, row in entries],
    ]
    header, groups = ['Method', 'Runs'], [('', 2)]
    for metric in mcr_classes(section):
        ours = [row and per_cent(list(row.values(metric).values())) for _, row in entries]
        columns.append(marked(ours) if metric == 'mcr_all' else [text(value) for value in ours])
        # The paper has a method's default settings only.
        theirs = [
            None if row and row.variant else published[method, metric] for method, row in entries
        ]
        if any(theirs):
            columns.append(['-' if v is None else number(v.mean, v.deviation) for v in theirs])
            pairs = zip(ours, theirs, strict=True)
            columns.append([_difference(o, t and t.mean) for o, t in pairs])
            header += ['here', 'paper', 'here − paper']
            groups.append((metric_title(metric), 3))
        else:
            header.append(metric_title(metric))
            groups.append(('', 1))
    return Table(
        'Mean class recall (MCR) on the test part at the end of training, per cent: mean and '
        f'sample deviation (n − 1) over the runs, which differ in the seed. {MARKS}',
        tuple(header),
        tuple(zip(*columns, strict=True)),
        tuple(groups) if 'paper' in header else (),
    )


def _difference(ours: Estimate | None, theirs: float | None) -> str:
    if ours is None or theirs is None:
        return '-'
    return signed(round(ours.mean, 2) - theirs)


def signed(value: float) -> str:
    """A difference in points with its sign.

    >>> signed(1.5), signed(-0.25), signed(0.0)
    ('+1.50', '−0.25', '0.00')
    """
    value = round(value, 2)
    return number(abs(value)) if value == 0 else f'{"+" if value > 0 else "−"}{abs(value):.2f}'


def interval_text(interval: Interval | None) -> str:
    """An interval of a difference in points."""
    if interval is None:
        return '-'
    return f'{signed(100 * interval.low)} to {signed(100 * interval.high)}'


def stages_table(section: Section, rows: Sequence[Row]) -> Table | None:
    """Stage 1 against stage 2 in the rows with two stages; None if there is none."""
    two = [row for row in rows if row.stage == -1 and len(row.runs[0].results['stages']) > 1]
    if not two:
        return None
    metrics = list(mcr_classes(section))
    body = []
    for row in two:
        first, second = row.values('mcr_all', 0), row.values('mcr_all')
        seeds = sorted(first.keys() & second.keys())
        pairs = [first[seed] for seed in seeds], [second[seed] for seed in seeds]
        gain = signed(100 * float(np.mean(np.subtract(*pairs[::-1])))) if seeds else '-'
        interval = seeds_interval(*pairs[::-1]) if seeds else None
        alone = first_stage_method(row.method)
        recalls = [
            text(per_cent(list(row.values(metric, stage).values())))
            for stage in (0, -1)
            for metric in metrics
        ]
        name = '-' if alone is None else method_title(alone)
        body.append((row.title, name, str(len(row.runs)), *recalls, gain, interval_text(interval)))
    titles = [metric_title(metric) for metric in metrics]
    return Table(
        'Stage 1 against stage 2, MCR on the test part in per cent. "Stage 1 alone" is the row of '
        'the paper that the first stage is by itself. The gain is that of "All"; its 95 % interval '
        "is Student's, paired over seeds.",
        ('Method', 'Stage 1 alone', 'Runs', *titles, *titles, 'gain', '95 % interval'),
        tuple(body),
        (('', 3), ('stage 1', len(titles)), ('stage 2', len(titles)), ('stage 2 − stage 1', 2)),
    )


def further_table(rows: Sequence[Row]) -> Table:
    """Accuracy, macro F1, macro AUROC and calibration error by method."""
    metrics = ('accuracy', 'macro_f1', 'macro_auroc')
    columns = [
        marked([per_cent(list(row.values(metric).values())) for row in rows]) for metric in metrics
    ]
    errors = [per_cent(calibration_errors(row)) for row in rows]
    return Table(
        'Further metrics on the test part, per cent: mean and sample deviation over the runs; best '
        'of each column bold, second best underlined. ECE is the expected calibration error, the '
        f'mean of |accuracy − confidence| over {BINS} bins of equal width of the confidence, '
        'weighted by their images, for each run (lower is better, not marked); in an imbalanced '
        'set it speaks of the frequent classes.',
        ('Method', *(metric_title(metric) for metric in metrics), 'ECE'),
        tuple(zip(map(row_title, rows), *columns, map(text, errors), strict=True)),
    )


def calibration_errors(row: Row) -> list[float]:
    """The calibration error of each run that kept its predictions, as a fraction."""
    if row.stage != -1:
        return []
    outputs = [run.predictions for run in row.runs if run.predictions is not None]
    return [calibration_error(calibrate(one.probabilities, one.labels)) for one in outputs]


def pooled_calibration(row: Row) -> Calibration | None:
    """The predictions of all runs of a row together, in bins; None where none were kept."""
    outputs = [run.predictions for run in row.runs if run.predictions is not None]
    if row.stage != -1 or not outputs:
        return None
    return calibrate(
        np.concatenate([one.probabilities for one in outputs]),
        np.concatenate([one.labels for one in outputs]),
    )


def head_to_tail(section: Section) -> list[int]:
    """The classes from the most frequent one in training to the rarest."""
    return np.argsort(-np.asarray(section.results['train_counts']), kind='stable').tolist()


def confusion(row: Row) -> np.ndarray:
    """Test confusion matrix `[C, C]` summed over the runs of a row."""
    return np.sum([summary['confusion'] for summary in row.summaries().values()], axis=0)


def recall_table(section: Section, rows: Sequence[Row]) -> Table:
    """Recall of each class by method, classes from the most frequent to the rarest."""
    names, counts = section.results['class_names'], section.results['train_counts']
    images = confusion(rows[0]).sum(axis=1) // len(rows[0].summaries())
    order = head_to_tail(section)
    recalls = {
        row_title(row): [class_recalls(s['confusion']) for s in row.summaries().values()]
        for row in rows
    }
    cells = {
        (title, c): text(per_cent([one[c] for one in of_row]))
        for title, of_row in recalls.items()
        for c in order
    }
    caption = (
        'Recall of each class on the test part, per cent: mean and sample deviation over the runs.'
    )
    if len(order) > WIDE:
        body = [
            (names[c], str(counts[c]), str(images[c]), *(cells[title, c] for title in recalls))
            for c in order
        ]
        return Table(caption, ('Class', 'training', 'test', *recalls), tuple(body))
    body = [
        ('images, training', *(str(counts[c]) for c in order)),
        ('images, test', *(str(images[c]) for c in order)),
        *((title, *(cells[title, c] for c in order)) for title in recalls),
    ]
    return Table(caption, ('Method', *(names[c] for c in order)), tuple(body))


def differences_tables(compared: Sequence[Comparison]) -> list[Table]:
    """Differences in mean class recall with their intervals, and what they allow to say.

    A table for each metric, the first of which says how to read them.
    """
    tables = []
    for metric in dict.fromkeys(c.metric for c in compared):
        body = [
            (
                row_title(c.first),
                row_title(c.second),
                signed(100 * c.difference),
                _common_seeds(c),
                interval_text(c.over_seeds),
                interval_text(c.over_images),
                c.verdict,
            )
            for c in compared
            if c.metric == metric
        ]
        table = Table(
            f'MCR {metric_title(metric).lower()}: differences in points.'
            + ('' if tables else f' {_how_to_read_differences(len(compared))}'),
            ('A', 'B', 'A − B', 'seeds in common', 'seeds', 'images', 'verdict on A'),
            tuple(body),
            (('', 4), ('95 % interval over', 2), ('', 1)),
            words=(0, 1, 6),
        )
        tables.append(table)
    return tables


def _common_seeds(compared: Comparison) -> str:
    """How many seeds both rows have, and the most that one has where that is more."""
    most = max(len(row.summaries()) for row in (compared.first, compared.second))
    count = len(compared.seeds)
    return f'{count}' if count == most else f'{count} of {most}'


def _how_to_read_differences(count: int) -> str:
    return (
        'They are over the seeds that both methods have, with 95 % intervals: "seeds" is '
        "Student's, paired over seeds (what training leaves to chance; it needs two, and "
        f'differences that vary), "images" a bootstrap of {RESAMPLES:,} draws of the test images '
        'within each class, paired between the methods (what the choice of test images leaves to '
        'chance, for the networks as trained). A difference is called higher or lower only if '
        'every interval that there is excludes zero; "for these trained networks" where there is '
        'none over seeds, "on these images" where there is none over images, "two seeds only" '
        'where there are no more; else no difference is shown. No interval: one seed, and no '
        'predictions to draw from. Each interval stands for itself and holds one source of chance, '
        'the other taken as given, without a correction for the number of comparisons '
        f'({count}); and the best and the second best row were chosen on these images.'
    )


def sensitivity_table(section: Section, rows: Sequence[Row]) -> Table:
    """Mean class recalls of one method by the coefficient of its metric loss."""
    metrics = list(mcr_classes(section))
    columns = [
        [f'{row.settings[coefficient_field(row.method)]:g}' for row in rows],
        [str(len(row.runs)) for row in rows],
        *([text(per_cent(list(row.values(m).values()))) for row in rows] for m in metrics),
    ]
    return Table(
        f'{method_title(rows[0].method)}: MCR on the test part by the coefficient of its metric '
        'loss, per cent.',
        ('Coefficient', 'Runs', *(metric_title(metric) for metric in metrics)),
        tuple(zip(*columns, strict=True)),
    )


def files_table(rows: Sequence[Row]) -> Table:
    """Every run behind some rows, once: its `results.json`, and what it says."""
    runs = {run.path: (run, row) for row in rows[::-1] for run in row.runs}
    body = [
        (
            f'{path}/results.json',
            method_title(run.method),
            row.variant or '-',
            str(run.seed),
            number(100 * run.results['final']['mcr_all']),
            'yes' if run.predictions is not None else 'no',
        )
        for path, (run, row) in sorted(runs.items())
    ]
    return Table(
        'The files behind the numbers of this chapter.',
        ('File', 'Method', 'Variant', 'Seed', 'MCR all', 'Predictions kept'),
        tuple(body),
        words=(0, 1, 2),
    )


def tidy(section: Section, rows: Sequence[Row]) -> Iterator[Mapping[str, str]]:
    """A line for each number of a section, with what it was made of: for CSV."""
    names = section.results['class_names']
    for row in rows:
        numbers = {
            metric: list(row.values(metric).values())
            for metric in (*mcr_classes(section), 'accuracy', 'macro_f1', 'macro_auroc')
        }
        recalls = [class_recalls(s['confusion']) for s in row.summaries().values()]
        numbers |= {f'recall {name}': [r[c] for r in recalls] for c, name in enumerate(names)}
        numbers['ece'] = calibration_errors(row)
        for metric, values in numbers.items():
            ours = per_cent(values)
            if ours is None:
                continue
            theirs = find_published(section.dataset, section.model, row.method, metric)
            paper = theirs.mean if theirs and not row.variant else None
            yield {
                'section': section.title,
                'dataset': section.dataset,
                'model': section.model,
                'method': row.method,
                'variant': row.variant,
                'stage': 'last' if row.stage == -1 else '1',
                'metric': metric,
                'runs': str(ours.count),
                'seeds': ' '.join(map(str, row.summaries())),
                'mean': plain(ours.mean),
                'deviation': plain(ours.deviation),
                'paper_mean': plain(paper),
                'paper_deviation': plain(theirs.deviation if paper is not None else None),
                'difference': plain(None if paper is None else ours.mean - paper),
            }


def plain(value: float | None) -> str:
    """A number for a program to read."""
    return '' if value is None else f'{value:.6g}'
