"""A report as plain values, and how its tables are written in Markdown, LaTeX and HTML."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """A text, and its mark: 'bold', 'underline' or none."""

    text: str
    mark: str = ''


@dataclass(frozen=True)
class Table:
    """A table with one heading, or with groups of columns above it.

    Attributes:
        caption: what it shows.
        header: one text a column.
        rows: as many texts or cells as columns, each.
        groups: (text, columns) from left to right over all columns; empty if there are none.
        label: name for references, unique in a report.
        words: the columns that hold words, which go to the left; numbers go to the right.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[Cell | str, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()
    label: str = ''
    words: tuple[int, ...] = (0,)

    @property
    def alignments(self) -> list[str]:
        """'l' or 'r' for each column."""
        return ['l' if column in self.words else 'r' for column in range(len(self.header))]


@dataclass(frozen=True)
class Figure:
    """A picture.

    Attributes:
        caption: what it shows, as the first sentence, and how to read it.
        path: its PNG file.
    """

    caption: str
    path: Path

    @property
    def alternative(self) -> str:
        """The text for those who do not see it."""
        return self.caption.partition('. ')[0].removesuffix('.')


@dataclass(frozen=True)
class Chapter:
    """A heading of a level (1 or 2), and paragraphs (texts), tables and figures under it."""

    title: str
    items: tuple[str | Table | Figure, ...]
    level: int = 1


@dataclass(frozen=True)
class Report:
    """A title and chapters."""

    title: str
    chapters: tuple[Chapter, ...]


def markdown(report: Report, folder: Path) -> str:
    """The report in Markdown; figures are linked by their path from `folder`, where it will lie."""
    parts = [f'# {_escape_markdown(report.title)}']
    for chapter in report.chapters:
        parts.append(f'{"#" * (chapter.level + 1)} {_escape_markdown(chapter.title)}')
        for item in chapter.items:
            match item:
                case Table():
                    parts.append(markdown_table(item))
                case Figure():
                    link = item.path.relative_to(folder).as_posix()
                    parts.append(f'![{_escape_markdown(item.alternative)}]({link})')
                    parts.append(_escape_markdown(item.caption))
                case _:
                    parts.append(_escape_markdown(item))
    return '\n\n'.join(parts) + '\n'


def markdown_table(table: Table) -> str:
    """A table as GitHub's Markdown; a group's text goes before the headings of its columns."""
    over = [text for text, columns in table.groups for _ in range(columns)]
    header = [' '.join(pair).strip() for pair in zip(over or [''] * 99, table.header, strict=False)]
    lines = [
        f'{_escape_markdown(table.caption)}\n',
        _markdown_row([_escape_markdown(text) for text in header]),
        _markdown_row(['---' if side == 'l' else '---:' for side in table.alignments]),
    ]
    tags = {'bold': '**{}**', 'underline': '<ins>{}</ins>', '': '{}'}
    for row in table.rows:
        cells = map(_cell, row)
        texts = [tags[c.mark].format(_escape_markdown(c.text)) for c in cells]
        lines.append(_markdown_row(texts))
    return '\n'.join(lines)


def _markdown_row(texts: Sequence[str]) -> str:
    return f'| {" | ".join(texts)} |'


def _escape_markdown(text: str) -> str:
    return re.sub(r'([\\`*_{}\[\]<>|#~])', r'\\\1', text)


def latex(report: Report) -> str:
    """The tables of the report in LaTeX, for a document that uses booktabs and amssymb."""
    parts = [
        r'% \usepackage{booktabs,amssymb}; best values bold, second best underlined.',
        *(
            f'% {" ".join(chapter.title.split())}\n{latex_table(item)}'
            for chapter in report.chapters
            for item in chapter.items
            if isinstance(item, Table)
        ),
    ]
    return '\n\n'.join(parts) + '\n'


def latex_table(table: Table) -> str:
    """A `table` environment with rules of booktabs."""
    tags = {'bold': r'\textbf{%s}', 'underline': r'\underline{%s}', '': '%s'}
    lines = [
        r'\begin{table}',
        r'\centering',
        rf'\caption{{{_escape_latex(table.caption)}}}',
        *([rf'\label{{tab:{table.label}}}'] if table.label else []),
        rf'\begin{{tabular}}{{{"".join(table.alignments)}}}',
        r'\toprule',
    ]
    if table.groups:
        spans = [rf'\multicolumn{{{n}}}{{c}}{{{_escape_latex(t)}}}' for t, n in table.groups]
        lines.append(' & '.join(spans) + r' \\')
        first = 1
        for text, columns in table.groups:
            if text:
                lines.append(rf'\cmidrule(lr){{{first}-{first + columns - 1}}}')
            first += columns
    lines += [' & '.join(_escape_latex(text) for text in table.header) + r' \\', r'\midrule']
    for row in table.rows:
        cells = [tags[cell.mark] % _escape_latex(cell.text) for cell in map(_cell, row)]
        lines.append(' & '.join(cells) + r' \\')
    return '\n'.join([*lines, r'\bottomrule', r'\end{tabular}', r'\end{table}'])


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


def _escape_latex(text: str) -> str:
    escaped = ''.join(_LATEX.get(character, character) for character in text)
    return re.sub('"([^"]*)"', r"``\1''", escaped)


def html_table(table: Table) -> str:
    """A caption and a `table` element; their texts are escaped."""
    tags = {'bold': '<b>{}</b>', 'underline': '<u>{}</u>', '': '{}'}
    # Not a <caption>, which would be as narrow as the table.
    lines = [
        f'<p class="caption">{html.escape(table.caption)}</p>',
        '<div class="wide"><table><thead>',
    ]
    if table.groups:
        spans = (
            f'<th class="group" colspan="{columns}">{html.escape(text)}</th>'
            for text, columns in table.groups
        )
        lines.append(f'<tr>{"".join(spans)}</tr>')
    kinds = [' class="words"' if side == 'l' else '' for side in table.alignments]
    headings = ''.join(
        f'<th scope="col"{kind}>{html.escape(text)}</th>'
        for kind, text in zip(kinds, table.header, strict=True)
    )
    lines.append(f'<tr>{headings}</tr></thead><tbody>')
    for row in table.rows:
        first, *others = (tags[c.mark].format(html.escape(c.text)) for c in map(_cell, row))
        pairs = zip(kinds[1:], others, strict=True)
        cells = ''.join(f'<td{kind}>{text}</td>' for kind, text in pairs)
        lines.append(f'<tr><th scope="row"{kinds[0]}>{first}</th>{cells}</tr>')
    return '\n'.join([*lines, '</tbody></table></div>'])


def _cell(value: Cell | str) -> Cell:
    return value if isinstance(value, Cell) else Cell(value)
