"""Writes a report as HTML, Markdown and LaTeX from one template.

`templates/report.j2` and `paper.j2` hold the words and the order of a report and call four macros
(`heading`, `text`, `table`, `figure`), which `html.j2`, `markdown.j2` and `latex.j2` define.
"""

import base64
import re
from pathlib import Path

import jinja2
import pandas as pd

from metriclt_jax.files import write_atomically
from metriclt_jax.reports.tables import Table

_LATEX = {
    '\\': r'\textbackslash{}',
    '→': r'$\rightarrow$',
    '±': r'$\pm$',
    '−': '$-$',
    '✓': r'$\checkmark$',
    '×': r'$\times$',
    'τ': r'$\tau$',
    '~': r'\textasciitilde{}',
    '^': r'\textasciicircum{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    **{character: f'\\{character}' for character in '&%$#_{}'},
}


def render(template: str, folder: Path, **values) -> None:
    """Writes report.html, report.md and report.tex to a folder.

    Args:
        template: 'report.j2' or 'paper.j2'.
        folder: where the report and its figures are.
        values: of the template.
    """
    for name, library in (('md', 'markdown.j2'), ('tex', 'latex.j2'), ('html', 'html.j2')):
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader('metriclt_jax.reports'),
            autoescape=name == 'html',
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        headings: list[tuple[str, int]] = []
        environment.globals |= {
            'headings': headings,
            'data_uri': _data_uri,
            'width': _width,
            'latex_table': latex_table,
            'link': lambda path: path.relative_to(folder).as_posix(),
        }
        environment.filters |= {'flow': _flow, 'markdown': escape_markdown, 'latex': escape_latex}
        text = environment.get_template(template).render(library=library, **values)
        if name == 'html':
            page = environment.get_template('page.html.j2')
            text = page.render(title=values['title'], headings=headings, body=text)
        text = re.sub(r'\n{3,}', '\n\n', text.strip()) + '\n'
        write_atomically(folder / f'report.{name}', text)


def escape_markdown(text: str) -> str:
    """A text whose characters have no meaning in GitHub's Markdown."""
    return re.sub(r'([\\`*_{}\[\]<>|#~&$])', r'\\\1', text)


def escape_latex(text: str) -> str:
    """A text whose characters have no meaning in LaTeX, with symbols as commands."""
    return re.sub('"([^"]*)"', r"``\1''", text.translate(str.maketrans(_LATEX)))


def latex_table(caption: str, table: Table, label: str = '') -> str:
    """A `table` environment with the rules of booktabs."""
    columns = dict(enumerate(table.columns))
    names = [
        (escape_latex(column.group), escape_latex(column.heading), place)
        for place, column in columns.items()  # the last makes them unique
    ]
    frame = pd.DataFrame({place: column.cells for place, column in columns.items()}, dtype=str)
    frame = frame.set_axis(pd.MultiIndex.from_tuples(names), axis='columns')
    styler = frame.style.format(escape_latex).hide(axis='index')
    styler = styler.hide(axis='columns', level=[2] if table.groups else [0, 2])
    commands = {'bold': 'textbf:--rwrap', 'underline': 'underline:--rwrap', '': ''}
    marks = [[commands[mark] for _, mark in row] for row in table.rows]
    styler = styler.apply(lambda _: pd.DataFrame(marks, frame.index, frame.columns), axis=None)
    return styler.to_latex(
        column_format=''.join('l' if column.words else 'r' for column in table.columns),
        position_float='centering',
        hrules=True,
        multicol_align='c',
        caption=escape_latex(caption),
        label=f'tab:{label}' if label else None,
    )


def _flow(text: str) -> str:
    return ' '.join(text.split())


def _data_uri(path: Path) -> str:
    return f'data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'


def _width(path: Path) -> int:
    """Width of a PNG file on the page: 0.6 of its pixels, so that all figures have one scale."""
    return int.from_bytes(path.read_bytes()[16:20], 'big') * 3 // 5
