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
from metriclt_jax.reports.runs import Run, read_features, read_runs
from metriclt_jax.reports.sections import (
    Row,
    Section,
    coefficient_field,
    default_settings,
    make_sections,
    unlike_default,
)
from metriclt_jax.reports.statistics import best_and_second, calibrate
from metriclt_jax.reports.tidy import differences, estimates, reference_row, results, tidy, trained

Progress = Callable[[str], object]


def report_paper(output: str | os.PathLike) -> Path:
    """Writes tables 2 to 5 with the paper's own numbers, marked by value.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: `output` cannot be made.
    """
    folder = _make_folder(output)
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
    lines = (
        published.published_values().query('table > 1').rename(columns={'mark': 'mark_in_paper'})
    )
    columns = lines[lines.metric == 'mcr_all'].groupby(['table', 'dataset', 'model'])['mean']
    lines['mark_by_value'] = columns.transform(lambda means: best_and_second(means.tolist()))
    render('paper.j2', folder, title='The numbers of the paper', tables=shown)
    _write_csv(folder / 'results.csv', lines.drop(columns='text'))
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
        reference: method that the others are compared with; None takes `ce_crw` or, without it,
            `ce`.
        progress: gets a sentence about each longer step.

    Returns:
        The path of the HTML page.

    Raises:
        InputError: there is nothing to report, or `output` cannot be made; nothing was written.
    """
    methods = () if table is None else published.methods_of(table)
    found, problems = read_runs(runs)
    sections, repeated = make_sections(found)
    problems = sorted([*problems, *repeated], key=lambda problem: problem.path)
    if not sections:
        reasons = ''.join(f'; {problem.path}: {problem.what}' for problem in problems[:3])
        raise InputError(f'{runs} has no finished run, with a results.json{reasons}')
    if methods:
        sections = [section.with_methods(methods) for section in sections]
        sections = [section for section in sections if section.main_rows]
    if not sections:
        raise InputError(f'{runs} has no run of a method of table {table}')
    names = {row.method for section in sections for row in section.main_rows}
    if reference is not None and reference not in names:
        raise InputError(f'--reference is {reference}, which must be one of {", ".join(names)}')
    folder = _make_folder(Path(runs) / 'report' if output is None else output)
    (folder / 'figures').mkdir(exist_ok=True)

    parts, lines, gaps = [], [], []
    for section, name in zip(sections, _file_names(sections), strict=True):
        progress(f'{section.title}: {len(section.main_rows)} rows')
        part = _Part(section, methods, reference, folder / 'figures' / name, progress)
        parts.append(part.content())
        lines.append(part.lines)
        gaps.append(part.gaps)
    render(
        'report.j2',
        folder,
        title='Results' if table is None else f'Table {table}: results beside the paper',
        runs=len({run.path for s in sections for row in s.rows for run in row.runs}),
        problems=problems
        and tables.from_rows(
            ('Directory', 'Why'), [(problem.path, problem.what) for problem in problems], words=2
        ),
        paper=table and _as_in_paper(table, sections, pd.concat(lines)),
        sections=parts,
    )
    _write_csv(folder / 'results.csv', pd.concat(lines).drop(columns='row'))
    gaps = [some for some in gaps if len(some)] or gaps[:1]  # an empty table has no number types
    _write_csv(folder / 'differences.csv', pd.concat(gaps))
    return folder / 'report.html'


def _as_in_paper(table: int, sections: Sequence[Section], lines: pd.DataFrame) -> dict[str, Any]:
    """The table in the paper's layout; rows with several settings are not in it."""
    rows = {
        (section.title, method): [row for row in section.main_rows if row.method == method]
        for section in sections
        for method in published.methods_of(table)
    }
    cells = lines.set_index(['section', 'row', 'metric'])[['mean', 'deviation']]

    def values(method, metric, column):
        here = rows[column, method]
        if len(here) != 1 or (column, here[0].title, metric) not in cells.index:
            return None
        return tuple(cells.loc[(column, here[0].title, metric)])

    first = {method_title(m) for (_, m), r in rows.items() if len(r) == 1 and r[0].stage == '1'}
    several = [f'{column}, {method_title(m)}' for (column, m), r in rows.items() if len(r) > 1]
    made = tables.arrange(table, [section.title for section in sections], values)
    return {'number': table, 'table': made, 'first_stages': sorted(first), 'several': several}


class _Part:
    """What the report shows of a section; draws its figures to `stem`_NAME.png."""

    def __init__(self, section: Section, methods, reference, stem: Path, progress) -> None:
        self.section, self.methods, self.stem, self.progress = section, methods, stem, progress
        self.rows = section.main_rows
        self.base = reference_row(self.rows, reference)
        self.table = tidy(section)
        self.lines = results(section, self.table)
        self.gaps = differences(section, self.table, reference)

    def content(self) -> dict[str, Any]:
        """The values of the template."""
        self.progress('drawing recalls, calibration and curves')
        section, table = self.section, self.table
        return {
            **self._introduction(),
            'results': tables.results_table(section, self.lines, self.methods),
            'uneven': len({tuple(r.results['seed'] for r in trained(row)) for row in self.rows})
            > 1,
            'published': self.lines.paper_mean.notna().any(),
            'stages': tables.stages_table(section, table),
            'comparisons': len(self.gaps),
            'differences': self._differences(),
            'recall': tables.recall_table(section, table),
            'confusion': self._confusion(),
            'further': tables.further_table(section, table),
            **self._calibration(),
            **self._curves(),
            **self._features(),
            **self._studies(),
            'files': tables.files_table(section),
        }

    def _file(self, name: str) -> Path:
        return self.stem.with_name(f'{self.stem.name}_{name}.png')

    def _introduction(self) -> dict[str, Any]:
        section = self.section
        names = section.results['class_names']
        settings = dict(section.settings or {})
        for row in self.rows:
            settings |= {f: v for f, v in row.settings.items() if f not in row.variant_fields}
        return {
            'title': section.title,
            'counts': section.results['train_counts'],
            'images': int(np.sum(section.results['final']['confusion'])),
            'groups': {
                group: [names[c] for c in members]
                for group, members in section.results['groups'].items()
                if len(members) <= 5
            },
            'differing': section.differing,
            'known_settings': section.settings is not None,
            'unlike': {
                f: (settings[f], default_settings().get(f)) for f in unlike_default(settings)
            },
        }

    def _differences(self) -> list[dict[str, Any]]:
        parts = []
        for metric, lines in self.gaps.groupby('metric', sort=False):
            words = METRIC_TITLES.get(metric, metric).lower()
            part = {'metric': words, 'table': tables.differences_table(self.section, lines)}
            to_base = lines[lines.second == (self.base and self.base.title)]
            has_interval = to_base[['seeds_low', 'images_low']].notna().any(axis=None)
            if metric in ('mcr_all', 'mcr_minor') and has_interval:
                part['caption'] = f'MCR {words}: difference to {self.base.title}, points'
                part['figure'] = self._file(f'differences_{metric}')
                figures.differences(to_base, part['caption'], part['figure'])
            parts.append(part)
        return parts

    def _confusion(self) -> Path:
        order = tables.head_to_tail(self.section)
        matrices = {}
        for row in self.rows:
            stage = -1 if row.stage == 'last' else 0
            ends = [run.results['stages'][stage]['last']['test'] for run in trained(row)]
            matrices[row.title] = np.sum([end['confusion'] for end in ends], axis=0)
        names = [self.section.results['class_names'][c] for c in order]
        shown = {title: counts[np.ix_(order, order)] for title, counts in matrices.items()}
        figures.confusion_matrices(shown, names, self._file('confusion'))
        return self._file('confusion')

    def _calibration(self) -> dict[str, Any]:
        bins = {}
        for row in self.rows:
            if outputs := [run.predictions for run in _with_predictions(row)]:
                bins[row.title] = calibrate(
                    np.concatenate([one.probabilities for one in outputs]),
                    np.concatenate([one.labels for one in outputs]),
                )
        if bins:
            figures.reliability_diagrams(bins, self._file('reliability'))
        left_out = [row.title for row in self.rows if row.title not in bins]
        return {'reliability': bins and self._file('reliability'), 'uncalibrated': left_out}

    def _curves(self) -> dict[str, Any]:
        rows = [row for row in self.rows if row.stage == 'last']
        epochs = {row.title: [run.epochs for run in row.runs if run.epochs] for row in rows}
        known = {title: runs for title, runs in epochs.items() if runs}
        recalls = {title: (runs, RECALLS) for title, runs in known.items()}
        losses = {title: (runs, LOSSES) for title, runs in known.items()}
        of_recalls, label = self._file('recall_curves'), 'validation MCR, per cent'
        return {
            'recall_curves': curves(recalls, label, of_recalls, sharey=True),
            'loss_curves': curves(losses, 'training loss', self._file('loss_curves')),
            'without_curves': [title for title in epochs if title not in known],
        }

    def _features(self) -> dict[str, Any]:
        known, left_out, seeds = {}, [], set()
        for row in self.rows:
            run = next(iter(_with_predictions(row)), None)
            features = run and read_features(run)
            if features is None:
                left_out.append(row.title)
            else:
                known[row.title] = (features, run.predictions.labels)
                seeds.add(run.results['seed'])
        if known:
            self.progress(f't-SNE of {len(known)} methods')
            names = self.section.results['class_names']
            figures.feature_maps(known, names, self._file('features'))
        return {
            'features': known and self._file('features'),
            'feature_seeds': sorted(seeds),
            'without_features': left_out,
        }

    def _studies(self) -> dict[str, Any]:
        drawn, shown = {}, []
        found = estimates(self.table).xs('mcr_all', level='metric')
        for study in self.section.studies:
            field = coefficient_field(study[0].method)
            loss = field.split('.')[1]
            name = method_title(study[0].method)
            title = f'{name} ({METRIC_LOSS_TITLES.get(loss, loss)})'
            while title in drawn:  # studies of one method under several other settings
                title += '*'
            recalls = found.loc[[row.title for row in study]]
            recalls.index = [row.coefficient for row in study]
            stable = published.STABLE_COEFFICIENTS.get(loss)
            drawn[title] = figures.Study(recalls, default_settings().get(field), stable)
            shown.append((name, tables.sensitivity_table(self.section, self.table, study)))
        if drawn:
            figures.sensitivity(drawn, self._file('sensitivity'))
        return {'sensitivity': drawn and self._file('sensitivity'), 'studies': shown}


def _with_predictions(row: Row) -> list[Run]:
    return [run for run in row.runs if row.stage == 'last' and run.predictions is not None]


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


def _make_folder(path: str | os.PathLike) -> Path:
    folder = Path(path).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f'output folder {folder} cannot be made: {error.strerror}') from None
    if not os.access(folder, os.W_OK):
        raise InputError(f'output folder {folder} cannot be written to')
    return folder
