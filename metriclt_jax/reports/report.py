"""Puts a report together, from runs or from the paper's own numbers, and writes it.

A report is a folder: `report.html` (one page that needs no other file), `report.md` with
`figures/`, `report.tex` (the tables), `results.csv` and, from runs, `differences.csv`. It depends
on the results only, not on when or where it was made. Its words are in `templates/report.j2`.
"""

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from metriclt_jax.errors import InputError
from metriclt_jax.files import write_atomically
from metriclt_jax.reports import figures, published, tables
from metriclt_jax.reports.curves import LOSSES, RECALLS, curves
from metriclt_jax.reports.published import METRIC_LOSS_TITLES, METRIC_TITLES, method_title
from metriclt_jax.reports.render import render
from metriclt_jax.reports.runs import read_features, read_runs
from metriclt_jax.reports.sections import (
    Section,
    coefficient_field,
    default_settings,
    make_sections,
    unlike_default,
)
from metriclt_jax.reports.statistics import best_and_second, calibrate
from metriclt_jax.reports.tidy import differences, estimates, reference_row, results, tidy


def report_paper(output: str | os.PathLike) -> Path:
    """Writes tables 2 to 5 with the paper's own numbers, marked by value; returns the HTML page."""
    folder = Path(output).expanduser()
    _make_folder(folder)
    shown = [
        {
            'number': number,
            'caption': caption,
            'table': tables.published_table(number),
            'contradictions': tables.contradictions(number),
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
    progress: Callable[[str], object] = print,
) -> Path:
    """Writes a report on all finished runs below a folder.

    Args:
        runs: folder with work directories at any depth.
        output: folder to write to; `runs`/report if None.
        table: take only the methods of this table of the paper (2 to 5), and add it in its layout.
        reference: method that the others are compared with; `ce_crw` or `ce` if None.
        progress: gets a sentence about each longer step.

    Returns the path of the HTML page. Raises `InputError` before anything is written.
    """
    methods = () if table is None else published.methods_of(table)
    found, problems = read_runs(runs)
    sections, repeated = make_sections(found)
    problems = sorted([*problems, *repeated], key=lambda problem: problem.path)
    if not sections:
        reasons = ''.join(f'; {path}: {what}' for path, what in problems[:3])
        raise InputError(f'{runs} has no finished run, with a results.json{reasons}')
    if methods:
        sections = [section.with_methods(methods) for section in sections]
        sections = [section for section in sections if section.main_rows]
    if not sections:
        raise InputError(f'{runs} has no run of a method of table {table}')
    names = {row.method for section in sections for row in section.main_rows}
    if reference is not None and reference not in names:
        raise InputError(f'--reference is {reference}, which must be one of {", ".join(names)}')
    folder = Path(runs) / 'report' if output is None else Path(output).expanduser()
    _make_folder(folder / 'figures')
    chapters = []
    for section, name in zip(sections, _file_names(sections), strict=True):
        progress(f'{section.title}: {len(section.main_rows)} rows')
        stem = folder / 'figures' / name
        chapters.append(_chapter(section, methods, reference, stem, progress))
    lines = pd.concat([chapter['lines'] for chapter in chapters])
    gaps = [chapter['gaps'] for chapter in chapters if len(chapter['gaps'])]
    render(
        'report.j2',
        folder,
        title='Results' if table is None else f'Table {table}: results beside the paper',
        runs=len({run.path for s in sections for row in s.rows for run in row.runs}),
        problems=problems and tables.from_rows(('Directory', 'Why'), problems, words=2),
        paper=table and _as_in_paper(table, sections, lines),
        chapters=chapters,
    )
    _write_csv(folder / 'results.csv', lines.drop(columns='row'))
    # An empty table has no number types.
    _write_csv(folder / 'differences.csv', pd.concat(gaps) if gaps else chapters[0]['gaps'])
    return folder / 'report.html'


def _as_in_paper(table: int, sections: Sequence[Section], lines: pd.DataFrame) -> dict[str, Any]:
    """The table in the paper's layout; methods with several settings are not in it."""
    rows = {
        (section.title, method): [row for row in section.main_rows if row.method == method]
        for section in sections
        for method in published.methods_of(table)
    }
    kept = [(title, row[0].title) for (title, _), row in rows.items() if len(row) == 1]
    cells = lines[pd.MultiIndex.from_frame(lines[['section', 'row']]).isin(kept)]
    cells = cells.rename(columns={'section': 'column'})
    first = {method_title(m) for (_, m), r in rows.items() if len(r) == 1 and r[0].stage == '1'}
    several = [f'{title}, {method_title(m)}' for (title, m), r in rows.items() if len(r) > 1]
    made = tables.arrange(table, [section.title for section in sections], cells)
    return {'number': table, 'table': made, 'first_stages': sorted(first), 'several': several}


def _chapter(section: Section, methods, reference, stem: Path, progress) -> dict[str, Any]:
    """What the report shows of a section; draws its figures to `stem`_NAME.png."""

    def file(name: str) -> Path:
        return stem.with_name(f'{stem.name}_{name}.png')

    progress('drawing recalls, calibration and curves')
    rows, table = section.main_rows, tidy(section)
    lines = results(section, table)
    gaps = differences(section, table, reference)
    base = reference_row(rows, reference)
    settings = dict(section.settings or {})
    for row in rows:
        settings |= {f: v for f, v in row.settings.items() if f not in row.variant_fields}
    chapter = {
        'section': section,
        'lines': lines,
        'gaps': gaps,
        'unlike': {f: (settings[f], default_settings().get(f)) for f in unlike_default(settings)},
        'results': tables.results_table(section, lines, methods),
        'uneven': len({row.seeds for row in rows}) > 1,
        'published': lines.paper_mean.notna().any(),
        'stages': tables.stages_table(section, table),
        'differences': _differences(section, gaps, base and base.title, file),
        'recall': tables.recall_table(section, table),
        'confusion': _draw_confusion(section, file('confusion')),
        'further': tables.further_table(section, table),
        'files': tables.files_table(section),
    }
    ends = {row.title: row.runs if row.stage == 'last' else () for row in rows}
    kept = {title: [run for run in runs if run.predictions] for title, runs in ends.items()}
    chapter |= _draw_calibration(kept, file('reliability'))
    epochs = {title: [run.epochs for run in runs if run.epochs] for title, runs in ends.items()}
    chapter['without_curves'] = [title for title in ends if ends[title] and not epochs[title]]
    for name, kinds, ylabel in (
        ('recall_curves', RECALLS, 'validation MCR, per cent'),
        ('loss_curves', LOSSES, 'training loss'),
    ):
        drawn = {title: (runs, kinds) for title, runs in epochs.items() if runs}
        chapter[name] = curves(drawn, ylabel, file(name), sharey=kinds is RECALLS)
    progress('t-SNE of the features')
    chapter |= _draw_features(kept, section.results['class_names'], file('features'))
    return chapter | _draw_studies(section, table, file('sensitivity'))


def _differences(section: Section, gaps, base: str | None, file) -> list[dict[str, Any]]:
    parts = []
    for metric, lines in gaps.groupby('metric', sort=False):
        words = METRIC_TITLES.get(metric, metric).lower()
        part = {'metric': words, 'table': tables.differences_table(section, lines)}
        to_base = lines[lines.second == base]
        has_interval = to_base[['seeds_low', 'images_low']].notna().any(axis=None)
        if metric in ('mcr_all', 'mcr_minor') and has_interval:
            part['caption'] = f'MCR {words}: difference to {base}, points'
            part['figure'] = file(f'differences_{metric}')
            figures.differences(to_base, part['caption'], part['figure'])
        parts.append(part)
    return parts


def _draw_confusion(section: Section, path: Path) -> Path:
    order = tables.head_to_tail(section)
    matrices = {}
    for row in section.main_rows:
        stage = -1 if row.stage == 'last' else 0
        tests = [run.results['stages'][stage]['last']['test'] for run in row.runs]
        counts = np.sum([test['confusion'] for test in tests], axis=0)
        matrices[row.title] = counts[np.ix_(order, order)]
    names = [section.results['class_names'][c] for c in order]
    figures.confusion_matrices(matrices, names, path)
    return path


def _draw_calibration(kept, path: Path) -> dict[str, Any]:
    bins = {}
    for title, runs in kept.items():
        if runs:
            _, labels, probabilities = zip(*(run.predictions for run in runs), strict=True)
            bins[title] = calibrate(np.concatenate(probabilities), np.concatenate(labels))
    if bins:
        figures.reliability_diagrams(bins, path)
    left_out = [title for title in kept if title not in bins]
    return {'reliability': bins and path, 'uncalibrated': left_out}


def _draw_features(kept, class_names: Sequence[str], path: Path) -> dict[str, Any]:
    """Of one run of each method."""
    maps, seeds = {}, []
    for title, runs in kept.items():
        features = read_features(runs[0]) if runs else None
        if features is not None:
            maps[title] = (features, runs[0].predictions.labels)
            seeds.append(runs[0].results['seed'])
    if maps:
        figures.feature_maps(maps, class_names, path)
    left_out = [title for title in kept if title not in maps]
    return {'features': maps and path, 'feature_seeds': seeds, 'without_features': left_out}


def _draw_studies(section: Section, table: pd.DataFrame, path: Path) -> dict[str, Any]:
    drawn, shown = {}, []
    found = estimates(table).xs('mcr_all', level='metric')
    for study in section.studies:
        field = coefficient_field(study[0].method)
        loss = field.split('.')[1]
        name = method_title(study[0].method)
        title = f'{name} ({METRIC_LOSS_TITLES.get(loss, loss)})'
        while title in drawn:  # studies of one method under several other settings
            title += '*'
        recalls = found.loc[[row.title for row in study]]
        recalls = recalls.set_axis([row.coefficient for row in study])
        stable = published.STABLE_COEFFICIENTS.get(loss)
        drawn[title] = figures.Study(recalls, default_settings().get(field), stable)
        shown.append((name, tables.sensitivity_table(section, table, study)))
    if drawn:
        figures.sensitivity(drawn, path)
    return {'sensitivity': drawn and path, 'studies': shown}


def _file_names(sections: Sequence[Section]) -> list[str]:
    """A name for the figures of each section."""
    names = []
    for section in sections:
        name = re.sub(r'[^a-zA-Z0-9_-]', '_', f'{section.dataset}_{section.model}')
        likes = sum(re.fullmatch(rf'{name}(_\d+)?', other) is not None for other in names)
        names.append(f'{name}_{likes + 1}' if likes else name)
    return names


def _write_csv(path: Path, lines: pd.DataFrame) -> None:
    write_atomically(path, lines.to_csv(index=False, float_format='%.6g', lineterminator='\n'))


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'output folder {folder} cannot be made: {error.strerror}') from None
