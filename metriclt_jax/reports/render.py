"""Writes a report as HTML, Markdown and LaTeX from one template.

`templates/report.j2` and `paper.j2` hold the words; `html.j2`, `markdown.j2` and `latex.j2` define
the macros that they call.
"""

import re
from base64 import b64encode
from itertools import groupby, zip_longest
from pathlib import Path

import jinja2

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
    '|': r'\textbar{}',
    **{character: f'{{{character}}}' for character in '[]*'},  # after a line break, an argument
    **{character: f'\\{character}' for character in '&%$#_{}'},
}


def render(template: str, folder: Path, **values) -> None:
    """Writes report.html, report.md and report.tex to the folder that holds the figures."""
    options = {'undefined': jinja2.StrictUndefined, 'trim_blocks': True, 'lstrip_blocks': True}
    loader = jinja2.PackageLoader('metriclt_jax.reports')
    for name, library in (('md', 'markdown.j2'), ('tex', 'latex.j2'), ('html', 'html.j2')):
        environment = jinja2.Environment(loader=loader, autoescape=name == 'html', **options)
        headings: list[tuple[str, int]] = []
        environment.globals |= {
            'headings': headings,
            'png': lambda path: b64encode(path.read_bytes()).decode(),
            # 0.6 of the pixels of a PNG file, so that all figures have one scale.
            'width': lambda path: int.from_bytes(path.read_bytes()[16:20], 'big') * 3 // 5,
            'link': lambda path: path.relative_to(folder).as_posix(),
        }
        environment.filters |= {
            'flow': lambda text: ' '.join(text.split()),
            'markdown': lambda text: re.sub(r'([\\`*_{}\[\]<>|#~&$])', r'\\\1', text),
            'latex': escape_latex,
            'rows': _rows,
            'groups': _groups,
        }
        text = environment.get_template(template).render(library=library, **values)
        if name == 'html':
            page = environment.get_template('page.html.j2')
            text = page.render(title=values['title'], headings=headings, body=text)
        text = re.sub(r'\n{3,}', '\n\n', text.strip()) + '\n'
        write_atomically(folder / f'report.{name}', text)


def escape_latex(text: str) -> str:
    """A text whose characters have no meaning in LaTeX, with symbols as commands."""
    return re.sub('"([^"]*)"', r"``\1''", text.translate(str.maketrans(_LATEX)))


def _rows(table: Table) -> zip:
    """(text, mark) of each cell, row by row."""
    return zip(*(zip_longest(c.cells, c.marks, fillvalue='') for c in table), strict=True)


def _groups(table: Table) -> list[tuple[str, int]]:
    """(text, number of columns) of each group; empty without groups."""
    spans = [(name, len(list(some))) for name, some in groupby(table, lambda c: c.group)]
    return spans if any(name for name, _ in spans) else []
