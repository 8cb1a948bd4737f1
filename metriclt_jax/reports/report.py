"""Puts a report together, from runs or from the paper's own numbers, and writes it.

A report is a folder: `report.html` (one page that needs nothing else), `report.md` with
`figures/`, `report.tex` (the tables), `results.csv` and, from runs, `differences.csv`. It depends
on the results only, not on when or where it was made.
"""

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metriclt_jax.errors import InputError
from metriclt_jax.files import write_atomically
from metriclt_jax.reports import method_figures as figures
from metriclt_jax.reports.comparisons import Comparison, comparisons, reference_row
from metriclt_jax.reports.document import Chapter, Figure, Report, Table, latex, markdown
from metriclt_jax.reports.names import METRIC_LOSS_TITLES, method_title, metric_title
from metriclt_jax.reports.page import html_page
from metriclt_jax.reports.paper_tables import (
    CAPTIONS,
    MARKS,
    arrange,
    contradictions,
    methods_of,
    published_table,
)
from metriclt_jax.reports.published import (
    STABLE_COEFFICIENTS,
    TABLES,
    find_published,
    table_values,
)
from metriclt_jax.reports.run_tables import (
    confusion,
    differences_tables,
    files_table,
    further_table,
    head_to_tail,
    per_cent,
    plain,
    pooled_calibration,
    recall_table,
    results_table,
    row_title,
    sensitivity_table,
    stages_table,
    tidy,
)
from metriclt_jax.reports.runs import Problem, read_features, read_runs
from metriclt_jax.reports.sections import (
    Row,
    Section,
    coefficient_field,
    default_settings,
    make_sections,
    studies,
    unlike_default,
    with_first_stages,
    without_studies,
)
from metriclt_jax.reports.statistics import best_and_second

Progress = Callable[[str], object]


def report_paper(output: str | os.PathLike) -> Path:
    """Writes tables 2 to 5 with the paper's own numbers, marked by value.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: `output` cannot be made.
    """
    folder = _make_folder(output)
    chapters, lines = [], []
    for table in TABLES:
        wrong = contradictions(table)
        text = 'Where the paper marks a second best value, it is the second best by value.'
        if wrong:
            text = f"The paper's own marks disagree with its numbers. {' '.join(wrong)}"
        elif not any(value.mark for value in table_values(table)):
            text = 'The paper marks no second best value in this table.'
        items = (published_table(table), text)
        chapters.append(Chapter(f'Table {table}. {CAPTIONS[table]}', items))
        lines += _published_lines(table)
    _write(Report('The numbers of the paper', tuple(chapters)), folder)
    write_atomically(folder / 'results.csv', _csv(lines))
    return folder / 'report.html'


def report_runs(
    runs: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    table: int | None = None,
    reference: str | None = None,
    progress: Progress = print,
) -> Path:
    """Writes a report on all finished runs below a folder.

    Args:
        runs: folder with work directories at any depth.
        output: folder to write to; `runs`/report if None.
        table: 2 to 5 takes the methods of this table of the paper only, and adds the table in the
            paper's layout.
        reference: method that the others are compared with; `ce_crw` or, without it, `ce` if None.
        progress: gets a sentence about each longer step.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: there is nothing to report, or `output` cannot be made; nothing was written.
    """
    found, problems = read_runs(runs)
    sections, repeated = make_sections(found)
    problems = sorted([*problems, *repeated], key=lambda problem: problem.path)
    wanted = None if table is None else methods_of(table)
    parts = [_make_part(section, wanted, reference) for section in sections]
    parts = [part for part in parts if part.rows]
    if not parts:
        _refuse(runs, problems, found, table)
    names = dict.fromkeys(row.method for part in parts for row in part.rows)
    if reference is not None and reference not in names:
        raise InputError(
            f'reference method is {reference}; allowed: one that was run: {", ".join(names)}'
        )
    folder = _make_folder(Path(runs) / 'report' if output is None else output)
    (folder / 'figures').mkdir(exist_ok=True)

    chapters = [_about(parts, problems)]
    if table is not None:
        chapters.append(_as_in_paper(table, parts))
    lines, differences = [], []
    for part, name in zip(parts, _file_names(parts), strict=True):
        progress(f'{part.section.title}: {len(part.rows)} rows')
        chapters += _chapters(part, folder / 'figures' / name, progress)
        lines += tidy(part.section, part.all_rows)
        differences += [_difference_line(part.section, one) for one in part.compared]
    title = 'Results' if table is None else f'Table {table}: results beside the paper'
    _write(Report(title, tuple(chapters)), folder)
    write_atomically(folder / 'results.csv', _csv(lines))
    write_atomically(folder / 'differences.csv', _csv(differences, _DIFFERENCE_FIELDS))
    return folder / 'report.html'


@dataclass(frozen=True)
class _Part:
    """What the report shows of a section.

    Attributes:
        section: all of it.
        rows: those of the tables.
        methods: those that the tables are about, run or not; empty for those that were run.
        studies: rows by the coefficient of a metric loss, each study in the order of it.
        base: the row that the others are compared with, if there is one.
        compared: the differences to it.
    """

    section: Section
    rows: list[Row]
    methods: Sequence[str]
    studies: list[list[Row]]
    base: Row | None
    compared: list[Comparison]

    @property
    def all_rows(self) -> list[Row]:
        """The rows of the tables, then those that are in a study only."""
        known = [row.runs for row in self.rows if row.stage == -1]
        extra = [row for study in self.studies for row in study if row.runs not in known]
        return [*self.rows, *extra]


def _make_part(section: Section, wanted: Sequence[str] | None, reference: str | None) -> _Part:
    rows = main_rows(section, wanted)
    return _Part(
        section,
        rows,
        wanted or (),
        [study for study in studies(section) if wanted is None or study[0].method in wanted],
        reference_row(rows, reference),
        comparisons(section, rows, reference),
    )


def main_rows(section: Section, methods: Sequence[str] | None = None) -> list[Row]:
    """The rows of a section's tables: without studies of a coefficient, with first stages.

    Args:
        section: with all its rows.
        methods: those to keep, in this order; all if None.
    """
    rows = with_first_stages(without_studies(section.rows))
    if methods is None:
        return rows
    return [row for method in methods for row in rows if row.method == method]


def _refuse(runs, problems: Sequence[Problem], found: Sequence, table: int | None) -> None:
    if found:
        raise InputError(f'no run in {runs} is of a method of table {table}')
    reasons = '; '.join(f'{problem.path}: {problem.what}' for problem in problems[:3])
    more = f' and {len(problems) - 3} more' if len(problems) > 3 else ''
    raise InputError(
        f'no finished run in {runs}: it needs a results.json'
        + (f' ({reasons}{more})' if reasons else '')
    )


def _file_names(parts: Sequence[_Part]) -> list[str]:
    """A name for the files of each section."""
    names = []
    for section in (part.section for part in parts):
        name = re.sub(r'[^a-zA-Z0-9_-]', '_', f'{section.dataset}_{section.model}')
        likes = sum(re.fullmatch(rf'{name}(_\d+)?', other) is not None for other in names)
        names.append(f'{name}_{likes + 1}' if likes else name)
    return names


def _about(parts: Sequence[_Part], problems: Sequence[Problem]) -> Chapter:
    runs = len({run.path for part in parts for row in part.all_rows for run in row.runs})
    items = [
        f'{runs} finished run{"s" if runs > 1 else ""}. Runs are compared within a chapter only: '
        'there, the data, the backbone and all settings that methods share are the same. Every '
        'number comes from the results.json files that end the chapter. A star (*) marks a row '
        'that was not run by itself and is the first stage of a two-stage row.'
    ]
    if problems:
        body = tuple((problem.path, problem.what) for problem in problems)
        items.append(
            Table(
                'Work directories that are not in this report, or only in part.',
                ('Directory', 'Why'),
                body,
                words=(0, 1),
            )
        )
    return Chapter('About this report', tuple(items))


def _as_in_paper(table: int, parts: Sequence[_Part]) -> Chapter:
    rows = {
        (part.section.title, method): [row for row in part.rows if row.method == method]
        for part in parts
        for method in methods_of(table)
    }

    def values(method, metric, column):
        here = rows[column, method]
        fits = len(here) == 1 and metric in mcr_classes_of(here[0])
        ours = per_cent(list(here[0].values(metric).values())) if fits else None
        return ours and (ours.mean, ours.deviation)

    titles = [part.section.title for part in parts]
    items = [
        arrange(
            table,
            titles,
            values,
            f'Table {table} with the numbers of these runs: MCR on the test part, per cent, mean '
            f'and sample deviation over runs. {MARKS}',
            f'table{table}',
        )
    ]
    read_off = {method_title(m) for (_, m), r in rows.items() if len(r) == 1 and r[0].stage != -1}
    if read_off:
        items.append(
            f'Not run by itself, but the first stage of another row: {", ".join(sorted(read_off))}.'
        )
    several = [f'{column}, {method_title(m)}' for (column, m), r in rows.items() if len(r) > 1]
    if several:
        items.append(f'Run with several settings, so not in this table: {"; ".join(several)}.')
    return Chapter(f'Table {table}', tuple(items))


def mcr_classes_of(row: Row) -> Iterable[str]:
    """The mean class recalls that a row has."""
    return {'mcr_all', *(f'mcr_{name}' for name in row.runs[0].results['groups'])}


def _chapters(part: _Part, stem: Path, progress: Progress) -> list[Chapter]:
    """The chapter of a section and its parts; draws the figures to `stem`_NAME.png."""

    def file(name: str) -> Path:
        return stem.with_name(f'{stem.name}_{name}.png')

    section, rows = part.section, part.rows
    chapters = [
        Chapter(section.title, _introduction(section, rows)),
        Chapter('Mean class recall', _recall_items(part), 2),
    ]
    stages = stages_table(section, rows)
    if stages is not None:
        chapters.append(Chapter('Stage 1 and stage 2', (stages,), 2))
    if part.compared:
        items = (*differences_tables(part.compared), *_difference_figures(part, file))
        chapters.append(Chapter('Differences and what can be said for them', items, 2))
    progress('drawing recalls, calibration and curves')
    chapters += [
        Chapter('Recall of each class', (recall_table(section, rows),), 2),
        Chapter('Confusion matrices', (_confusion_figure(section, rows, file('confusion')),), 2),
        Chapter('Further metrics and calibration', _calibration_items(rows, file), 2),
        Chapter('Training curves', _curve_items(rows, file), 2),
        Chapter('Features', _feature_items(section, rows, file('features'), progress), 2),
    ]
    if part.studies:
        items = _study_items(section, part.studies, file('sensitivity'))
        chapters.append(Chapter('Sensitivity to the coefficient of the metric loss', items, 2))
    return [*chapters, Chapter('Files', (files_table(part.all_rows),), 2)]


def _introduction(section: Section, rows: Sequence[Row]) -> tuple[str, ...]:
    counts = section.results['train_counts']
    groups = '; '.join(
        f'{name}: {", ".join(section.results["class_names"][c] for c in members)}'
        for name, members in section.results['groups'].items()
        if len(members) <= 5
    )
    images = int(confusion(rows[0]).sum()) // len(rows[0].summaries())
    items = [
        f'{len(counts)} classes, {sum(counts)} training images ({max(counts)} of the most frequent '
        f'class, {min(counts)} of the rarest), {images} test images.'
        + (f' Groups: {groups}.' if groups else '')
    ]
    if section.differing and section.settings is not None:
        items.append(
            'Kept apart from other runs on this data set and backbone, which differ in: '
            f'{", ".join(section.differing)}.'
        )
    if section.settings is None:
        items.append('These runs have no config.json, so their settings are unknown.')
        return tuple(items)
    settings = dict(section.settings)
    for row in rows:
        settings |= {f: row.settings[f] for f in row.settings if f not in row.variant_fields}
    other = unlike_default(settings)
    if other:
        defaults = default_settings()
        words = (f'{f}={_shown(settings[f])} (default {_shown(defaults.get(f))})' for f in other)
        items.append(
            "Settings that are not the defaults, which are the paper's recipe for Skin7: "
            f'{"; ".join(words)}.'
        )
    else:
        items.append("All settings are the defaults, the paper's recipe for Skin7.")
    return tuple(items)


def _shown(value: Any) -> str:
    return 'none' if value in ('', None, ()) else str(value)


def _recall_items(part: _Part) -> tuple:
    section, methods = part.section, part.methods or [row.method for row in part.rows]
    items = [results_table(section, part.rows, part.methods)]
    if len({frozenset(row.summaries()) for row in part.rows}) > 1:
        items.append(
            'Not all rows have the same seeds, so their means do not differ by the methods alone; '
            'the differences below are over the seeds that both methods have.'
        )
    if not any(find_published(section.dataset, section.model, m, 'mcr_all') for m in methods):
        items.append('The paper has no numbers for this data set with this backbone.')
    return tuple(items)


def _difference_figures(part: _Part, file) -> list[Figure]:
    drawn = []
    for metric in dict.fromkeys(c.metric for c in part.compared):
        of_base = {
            row_title(c.first): (c.difference, c.over_seeds, c.over_images)
            for c in part.compared
            if c.metric == metric and c.second is part.base
        }
        if metric in ('mcr_all', 'mcr_minor') and any(any(v[1:]) for v in of_base.values()):
            path = file(f'differences_{metric}')
            words = f'MCR {metric_title(metric).lower()}: difference to {part.base.title}, points'
            figures.differences(of_base, words, path)
            drawn.append(Figure(f'{words}, with 95 % intervals.', path))
    return drawn


def _confusion_figure(section: Section, rows: Sequence[Row], path: Path) -> Figure:
    order = head_to_tail(section)
    figures.confusion_matrices(
        {row_title(row): confusion(row)[order][:, order] for row in rows},
        [section.results['class_names'][c] for c in order],
        path,
    )
    return Figure(
        'Confusion matrices of the test part, summed over the runs; each row (a true class) sums '
        'to 100 per cent. Classes go from the most frequent in training to the rarest.',
        path,
    )


def _calibration_items(rows: Sequence[Row], file) -> tuple:
    bins = {row_title(row): pooled_calibration(row) for row in rows}
    known = {title: one for title, one in bins.items() if one is not None}
    items = [further_table(rows)]
    if known:
        figures.reliability_diagrams(known, file('reliability'))
        items.append(
            Figure(
                'Reliability of the test predictions of all runs together: accuracy by confidence '
                '(the highest probability) in 15 bins. Bars below the line are overconfident. The '
                'ECE in a panel is that of all runs together, in the table the mean over runs.',
                file('reliability'),
            )
        )
    return (*items, *_without('Calibration', [t for t in bins if t not in known]))


def _curve_items(rows: Sequence[Row], file) -> tuple:
    lines = {
        row.title: [run.epochs for run in row.runs if run.epochs] for row in rows if row.stage == -1
    }
    known = {title: runs for title, runs in lines.items() if runs}
    items = []
    if known and figures.recall_curves(known, file('recall_curves')):
        items.append(
            Figure(
                'Mean class recall on the validation part after each epoch. Curves are means over '
                'the runs, bands their range; the vertical line parts stage 1 from stage 2. The '
                'rarest classes have few validation images, so their curve moves in large steps.',
                file('recall_curves'),
            )
        )
    if known and figures.loss_curves(known, file('loss_curves')):
        items.append(
            Figure(
                'Training losses, mean over the runs and their range. The axes differ, since the '
                'methods minimise different things; and where classes are re-weighted (stage 2, '
                'and the end of DRW) the loss is another one, so it jumps.',
                file('loss_curves'),
            )
        )
    return (*items, *_without('Training curves', [t for t in lines if t not in known]))


def _feature_items(section: Section, rows: Sequence[Row], path: Path, progress) -> tuple:
    known, left_out, seeds = {}, [], set()
    for row in rows:
        runs = [run for run in row.runs if run.predictions is not None and row.stage == -1]
        features = read_features(runs[0]) if runs else None
        if features is None:
            left_out.append(row_title(row))
        else:
            known[row.title] = (features, runs[0].predictions.labels)
            seeds.add(runs[0].seed)
    items = []
    if known:
        progress(f't-SNE of {len(known)} methods')
        figures.feature_maps(known, section.results['class_names'], path)
        items.append(
            Figure(
                'Features of the test images at the end of training by t-SNE, one run a method '
                f'(seed {", ".join(map(str, sorted(seeds)))}). Only who is near whom means '
                'something; distances between clusters and their sizes do not. Of more than 1,000 '
                'images, the frequent classes are thinned out.',
                path,
            )
        )
    return (*items, *_without('t-SNE', left_out))


def _without(what: str, titles: Sequence[str]) -> list[str]:
    if not titles:
        return []
    return [f'{what} goes without {", ".join(titles)}: no run kept what it needs.']


def _study_items(section: Section, found: Sequence[list[Row]], path: Path) -> tuple:
    drawn, items = {}, []
    for rows in found:
        field = coefficient_field(rows[0].method)
        loss = field.split('.')[1]
        title = f'{method_title(rows[0].method)} ({METRIC_LOSS_TITLES.get(loss, loss)})'
        while title in drawn:  # studies of one method under several other settings
            title += '*'
        drawn[title] = figures.Study(
            [row.settings[field] for row in rows],
            [per_cent(list(row.values('mcr_all').values())) for row in rows],
            default_settings()[field],
            STABLE_COEFFICIENTS.get(loss),
        )
        items.append(sensitivity_table(section, rows))
    figures.sensitivity(drawn, path)
    caption = (
        'MCR of all classes on the test part by the coefficient of the metric loss, as in figure 2 '
        "of the paper. The triangle is the paper's default; the grey range is where the paper's "
        'text calls its result stable.'
    )
    return (Figure(caption, path), *items)


def _published_lines(table: int) -> list[dict[str, str]]:
    values = table_values(table)
    lines = []
    for value in values:
        column = [
            v
            for v in values
            if (v.dataset, v.model) == (value.dataset, value.model) and v.metric == value.metric
        ]
        mark = best_and_second([v.mean for v in column])[column.index(value)]
        lines.append(
            {
                'table': str(table),
                'dataset': value.dataset,
                'model': value.model,
                'method': value.method,
                'metric': value.metric,
                'mean': plain(value.mean),
                'deviation': plain(value.deviation),
                'mark_in_paper': value.mark,
                'mark_by_value': mark if value.metric == 'mcr_all' else '',
            }
        )
    return lines


_DIFFERENCE_FIELDS = (
    'section',
    'first',
    'second',
    'metric',
    'seeds',
    'difference',
    'seeds_low',
    'seeds_high',
    'images_low',
    'images_high',
    'verdict',
)


def _difference_line(section: Section, one: Comparison) -> dict[str, str]:
    def ends(interval):
        return (None, None) if interval is None else (100 * interval.low, 100 * interval.high)

    numbers = (100 * one.difference, *ends(one.over_seeds), *ends(one.over_images))
    words = (section.title, row_title(one.first), row_title(one.second), one.metric)
    seeds = ' '.join(map(str, one.seeds))
    cells = (*words, seeds, *map(plain, numbers), one.verdict)
    return dict(zip(_DIFFERENCE_FIELDS, cells, strict=True))


def _csv(lines: Sequence[Mapping[str, str]], fields: Sequence[str] | None = None) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(fields or lines[0]), lineterminator='\n')
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _make_folder(path: str | os.PathLike) -> Path:
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f'output folder {folder} cannot be made: {error.strerror}; use another one'
        ) from None
    if not os.access(folder, os.W_OK):
        raise InputError(f'output folder {folder} cannot be written to; use another one')
    return folder


def _write(report: Report, folder: Path) -> None:
    write_atomically(folder / 'report.md', markdown(report, folder))
    write_atomically(folder / 'report.tex', latex(report))
    write_atomically(folder / 'report.html', html_page(report))
