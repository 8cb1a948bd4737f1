"""Writes a report on runs, or on the paper's own numbers, to a folder.

The folder has `report.html` (one page that needs no other file), `report.md` with `figures/`,
`report.tex` (the tables), `results.csv` and, from runs, `differences.csv`. All depends on the
results only, not on when or where it was made.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metriclt_jax.errors import InputError
from metriclt_jax.files import make_folder, write_atomically
from metriclt_jax.paths import to_path
from metriclt_jax.progress import track
from metriclt_jax.reports import figures, published, sections, tables
from metriclt_jax.reports.folds import pool_folds
from metriclt_jax.reports.published import method_title
from metriclt_jax.reports.render import render
from metriclt_jax.reports.runs import read_features, read_runs
from metriclt_jax.reports.sections import Row, Section, default_settings
from metriclt_jax.reports.statistics import best_and_second, calibrate
from metriclt_jax.reports.tidy import differences, reference_row, results, tidy


def report_paper(output: str | os.PathLike) -> Path:
    """Writes tables 2 to 5 with the paper's own numbers, marked by value; returns the HTML page."""
    folder = make_folder(to_path(output))
    shown = [
        {
            'number': number,
            'caption': caption,
            'table': tables.published_table(number),
            'marked': any(published.table_values(number).mark),
        }
        for number, caption in published.CAPTIONS.items()
    ]
    lines = published.published_values().query('table > 1').drop(columns='text')
    lines = lines.rename(columns={'mark': 'mark_in_paper'})
    columns = lines[lines.metric == 'mcr_all'].groupby(['table', 'dataset', 'model'])['mean']
    lines['mark_by_value'] = columns.transform(lambda means: best_and_second(means.tolist()))
    render('paper.j2', folder, title='The numbers of the paper', tables=shown)
    _write_csv(folder / 'results.csv', lines)
    return folder / 'report.html'


def report_runs(
    runs: str | os.PathLike,
    output: str | os.PathLike | None = None,
    *,
    table: int | None = None,
    reference: str | None = None,
    tuned: Sequence[str] = (),
) -> Path:
    """Writes a report on all finished runs below a folder; returns the path of the HTML page.

    Args:
        runs: folder with work directories at any depth.
        output: folder to write to; `runs`/report if None.
        table: take only the methods of this table of the paper (2 to 5), and add it in its layout.
        reference: method that the others are compared with; `ce_crw` or `ce` if None.
        tuned: config fields that were chosen for each row, so that rows may differ in them.
    """
    methods = () if table is None else published.methods_of(table)
    found, problems = read_runs(runs)
    found, incomplete = pool_folds(found)
    compared, repeated = sections.make_sections(found, tuned)
    problems = sorted([*problems, *incomplete, *repeated], key=lambda problem: problem[0])
    if not compared:
        reasons = ''.join(f'; {path}: {what}' for path, what in problems[:3])
        raise InputError(f'{runs} has no finished run, with a results.json{reasons}')
    if methods:
        chosen = [section.with_methods(methods) for section in compared]
        compared = [section for section in chosen if section.main_rows]
    if not compared:
        raise InputError(f'{runs} has no run of a method of table {table}')
    names = sorted({row.method for section in compared for row in section.main_rows})
    if reference is not None and reference not in names:
        raise InputError(f'--reference is {reference}, which must be one of {", ".join(names)}')
    folder = make_folder(to_path(output or to_path(runs) / 'report'))
    drawings = make_folder(folder / 'figures')
    chapters = [
        _chapter(section, methods, reference, tuned, drawings / name)
        for section, name in track(_file_names(compared).items(), 'drawing', len(compared))
    ]
    lines = pd.concat([chapter['lines'] for chapter in chapters])
    gaps = [chapter['gaps'] for chapter in chapters if len(chapter['gaps'])]
    render(
        'report.j2',
        folder,
        title='Results' if table is None else f'Table {table}: results beside the paper',
        runs=len({t for s in compared for r in s.rows for run in r.runs for t in run.trainings}),
        problems=problems and tables.from_rows(('Directory', 'Why'), problems, words=2),
        paper=table and _as_in_paper(table, compared, lines),
        chapters=chapters,
    )
    _write_csv(folder / 'results.csv', lines.drop(columns='row'))
    # An empty table has no number types.
    _write_csv(folder / 'differences.csv', pd.concat(gaps) if gaps else chapters[0]['gaps'])
    return folder / 'report.html'


def _as_in_paper(table: int, compared: Sequence[Section], lines: pd.DataFrame) -> dict[str, Any]:
    """The table in the paper's layout; methods with several settings are not in it."""
    rows = [(section.title, row) for section in compared for row in section.main_rows]
    counts = Counter((title, row.method) for title, row in rows)
    kept = {(title, row.title): row for title, row in rows if counts[title, row.method] == 1}
    cells = lines[pd.MultiIndex.from_frame(lines[['section', 'row']]).isin(list(kept))]
    cells = cells.rename(columns={'section': 'column'})
    return {
        'number': table,
        'table': tables.arrange(table, [section.title for section in compared], cells),
        'first_stages': sorted({method_title(r.method) for r in kept.values() if r.stage == '1'}),
        'several': [f'{title}, {method_title(m)}' for (title, m), n in counts.items() if n > 1],
    }


def _chapter(section: Section, methods, reference, tuned, stem: Path) -> dict[str, Any]:
    """What the report shows of a section; draws its figures to `stem`_NAME.png."""

    def file(name: str) -> Path:
        return stem.with_name(f'{stem.name}_{name}.png')

    rows, table = section.main_rows, tidy(section)
    lines = results(section, table)
    gaps = differences(section, table, reference)
    settings = dict(section.settings or {})
    for row in rows:
        varied = (*row.variant_fields, *tuned)
        settings |= {field: v for field, v in row.settings.items() if field not in varied}
    chapter = {
        'section': section,
        'folds': len(rows[0].runs[0].folds),
        'tuned': tables.tuned_table(section, tuned),
        'lines': lines,
        'gaps': gaps,
        'unlike': sections.unlike_default(settings),
        'results': tables.results_table(section, lines, methods),
        'uneven': len({row.seeds for row in rows}) > 1,
        'published': lines.paper_mean.notna().any(),
        'stages': tables.stages_table(section, table),
        'differences': _differences(section, gaps, reference_row(rows, reference), file),
        'recall': tables.recall_table(section, lines),
        'confusion': _draw_confusion(section, file('confusion')),
        'further': tables.further_table(section, lines),
        'files': tables.files_table(section),
    }
    ends = {row.title: row.runs if row.stage == 'last' else () for row in rows}
    chapter |= _draw_predictions(ends, section.results['class_names'], file)
    trainings = {title: [t for run in runs for t in run.trainings] for title, runs in ends.items()}
    epochs = {title: [t.epochs for t in ts if t.epochs] for title, ts in trainings.items()}
    chapter['without_curves'] = [title for title in ends if ends[title] and not epochs[title]]
    for name, kinds, ylabel in (
        ('recall_curves', figures.RECALLS, 'validation MCR, per cent'),
        ('loss_curves', figures.LOSSES, 'training loss'),
    ):
        drawn = {title: (runs, kinds) for title, runs in epochs.items() if runs}
        sharey = name == 'recall_curves'  # losses differ in scale
        chapter[name] = figures.curves(drawn, ylabel, file(name), sharey=sharey)
    return chapter | _draw_studies(section, lines, file('sensitivity'))


def _differences(section: Section, gaps, base: Row | None, file) -> list[dict[str, Any]]:
    parts = []
    for metric, lines in gaps.groupby('metric', sort=False):
        words = published.METRIC_TITLES.get(metric, metric).lower()
        part = {'metric': words, 'table': tables.differences_table(section, lines)}
        to_base = lines[lines.second == (base and base.title)]
        has_interval = to_base[['trainings_low', 'low']].notna().any(axis=None)
        if metric in ('mcr_all', 'mcr_minor') and has_interval:
            part['caption'] = f'MCR {words}: difference to {base.title}, points'
            part['figure'] = file(f'differences_{metric}')
            figures.differences(to_base, part['caption'], part['figure'])
        parts.append(part)
    return parts


def _draw_confusion(section: Section, path: Path) -> Path:
    order, matrices = tables.head_to_tail(section), {}
    for row in section.main_rows:
        stages = [run.results['stages'][-1 if row.stage == 'last' else 0] for run in row.runs]
        counts = np.sum([stage['last']['test']['confusion'] for stage in stages], axis=0)
        matrices[row.title] = counts[np.ix_(order, order)]
    figures.confusion_matrices(matrices, [section.results['class_names'][c] for c in order], path)
    return path


def _draw_predictions(ends, class_names: Sequence[str], file) -> dict[str, Any]:
    """Calibration of all runs of a row together, and the features of one of them."""
    bins, maps, seeds = {}, {}, []
    for title, runs in ends.items():
        kept = [run for run in runs if run.predictions]
        if not kept:
            continue
        probabilities = np.concatenate([run.predictions.probabilities for run in kept])
        labels = np.concatenate([run.predictions.labels for run in kept])
        bins[title] = calibrate(probabilities, labels)
        shown = kept[0].trainings[0]
        features = read_features(shown.directory, len(shown.predictions.labels))
        if features is not None:
            maps[title] = (features, shown.predictions.labels)
            seeds.append(kept[0].results['seed'])
    if bins:
        figures.reliability_diagrams(bins, file('reliability'))
    if maps:
        figures.feature_maps(maps, class_names, file('features'))
    return {
        'reliability': bins and file('reliability'),
        'uncalibrated': [title for title in ends if title not in bins],
        'features': maps and file('features'),
        'feature_seeds': seeds,
        'without_features': [title for title in ends if title not in maps],
    }


def _draw_studies(section: Section, lines: pd.DataFrame, path: Path) -> dict[str, Any]:
    drawn, shown = {}, []
    found = lines[lines.metric == 'mcr_all'].set_index('row')[['mean', 'deviation']]
    for study in sections.studies(section.rows):
        name, field = method_title(study[0].method), sections.coefficient_field(study[0].method)
        loss = field.split('.')[1]
        title = f'{name} ({published.METRIC_LOSS_TITLES.get(loss, loss)})'
        while title in drawn:  # studies of one method under several other settings
            title += '*'
        recalls = found.loc[[row.title for row in study]]
        recalls = recalls.set_axis([row.coefficient for row in study])
        recalls['validation'] = [100 * row.validation_recall for row in study]
        default = default_settings().get(field)
        drawn[title] = (recalls, default, published.STABLE_COEFFICIENTS.get(loss))
        shown.append((name, tables.sensitivity_table(section, lines, study)))
    if drawn:
        figures.sensitivity(drawn, path)
    return {'sensitivity': drawn and path, 'studies': shown}


def _file_names(compared: Sequence[Section]) -> dict[Section, str]:
    """A name for the figures of each section."""
    names = {}
    for section in compared:
        stem = re.sub(r'[^a-zA-Z0-9_-]', '_', f'{section.dataset}_{section.model}')
        numbered = (f'{stem}_{number}' for number in range(2, len(compared) + 1))
        names[section] = next(n for n in (stem, *numbered) if n not in names.values())
    return names


def _write_csv(path: Path, lines: pd.DataFrame) -> None:
    write_atomically(path, lines.to_csv(index=False, float_format='%.6g', lineterminator='\n'))
