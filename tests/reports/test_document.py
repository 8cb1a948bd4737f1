"""Markdown, LaTeX and HTML of a report: marks, spans, and texts that try to break out."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from metriclt_jax.reports.document import (
    Cell,
    Chapter,
    Figure,
    Report,
    Table,
    html_table,
    latex,
    latex_table,
    markdown,
    markdown_table,
)
from metriclt_jax.reports.page import html_page

NASTY = r'<script>alert("x")</script> | & % $ # _ { } ~ ^ \ * ` [a](b)'
TABLE = Table(
    'Recall.',
    ('Method', 'All', 'Minor'),
    (
        ('CE → cRW', Cell('84.11 ± 0.70', 'underline'), '82.67'),
        ('CE+SC → cRW', Cell('86.43 ± 0.44', 'bold'), '−1.00'),
    ),
    (('', 1), ('Skin7', 2)),
    'recall',
)
PNG = bytes.fromhex(  # one transparent pixel
    '89504e470d0a1a0a0000000d4948445200000001000000010804000000b51c0c02'
    '0000000b4944415478da6364f80f00010501012718e3660000000049454e44ae426082'
)


def test_markdown_marks_and_spans():
    assert markdown_table(TABLE).splitlines() == [
        'Recall.',
        '',
        '| Method | Skin7 All | Skin7 Minor |',
        '| --- | ---: | ---: |',
        '| CE → cRW | <ins>84.11 ± 0.70</ins> | 82.67 |',
        '| CE+SC → cRW | **86.43 ± 0.44** | −1.00 |',
    ]


def test_latex_marks_and_spans():
    assert latex_table(TABLE).splitlines() == [
        r'\begin{table}',
        r'\centering',
        r'\caption{Recall.}',
        r'\label{tab:recall}',
        r'\begin{tabular}{lrr}',
        r'\toprule',
        r'\multicolumn{1}{c}{} & \multicolumn{2}{c}{Skin7} \\',
        r'\cmidrule(lr){2-3}',
        r'Method & All & Minor \\',
        r'\midrule',
        r'CE $\rightarrow$ cRW & \underline{84.11 $\pm$ 0.70} & 82.67 \\',
        r'CE+SC $\rightarrow$ cRW & \textbf{86.43 $\pm$ 0.44} & $-$1.00 \\',
        r'\bottomrule',
        r'\end{tabular}',
        r'\end{table}',
    ]


class Tags(HTMLParser):
    """The elements of a page, checked to be closed in order, and its text."""

    VOID = ('meta', 'img', 'link', 'br')

    def __init__(self, page):
        super().__init__()
        self.open, self.elements, self.text = [], [], ''
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_html_marks_and_spans():
    page = html_table(TABLE)
    assert '<u>84.11 ± 0.70</u>' in page
    assert '<b>86.43 ± 0.44</b>' in page
    assert '<th class="group" colspan="2">Skin7</th>' in page
    assert [tag for tag, _ in Tags(page).elements].count('td') == 4


@pytest.fixture
def report(tmp_path):
    (tmp_path / 'figures').mkdir()
    path = tmp_path / 'figures/a.png'
    path.write_bytes(PNG)
    table = Table(NASTY, (NASTY, NASTY), ((NASTY, Cell(NASTY, 'bold')),))
    return Report(
        NASTY,
        (
            Chapter(NASTY, (NASTY, table, Figure(f'{NASTY} Here. And more.', path))),
            Chapter('Two', ('text',), 2),
            Chapter('Three', ('text',)),
        ),
    )


def test_a_page_needs_nothing_else_and_shows_texts_as_they_are(report):
    page = html_page(report)
    tags = Tags(page)
    assert 'script' not in {tag for tag, _ in tags.elements}
    assert tags.text.count(NASTY) >= 6
    (image,) = (attributes for tag, attributes in tags.elements if tag == 'img')
    assert image['src'].startswith('data:image/png;base64,iVBORw0KGgo')
    assert NASTY in image['alt']
    links = [a['href'] for tag, a in tags.elements if tag == 'a']
    assert links == ['#part1', '#part2', '#part3']
    assert {a['id'] for tag, a in tags.elements if 'id' in a} == {'part1', 'part2', 'part3'}
    for _, attributes in tags.elements:
        assert not {'onclick', 'onerror', 'style'} & set(attributes)
    assert 'http:' not in page.replace(NASTY, '')
    assert 'https:' not in page


def test_markdown_escapes_and_links_figures(report, tmp_path):
    text = markdown(report, tmp_path)
    assert '<script>' not in text.replace(r'\<script\>', '')
    (row,) = (line for line in text.splitlines() if line.startswith('| ') and '**' in line)
    assert len(row.replace(r'\|', '').split('|')) == 4  # two cells
    assert '](figures/a.png)' in text
    assert text.splitlines()[0].startswith('# ')
    assert '### Two' in text


def test_latex_escapes(report):
    text = latex(report)
    assert r'\textless{}script\textgreater{}' in text
    for line in text.splitlines():
        if not line.startswith('%'):
            bare = line.replace(r'\{', '').replace(r'\}', '')
            assert bare.count('{') == bare.count('}')
    assert r'\& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{} \textbackslash{}' in text


def test_latex_quotation_marks():
    table = Table('The "first" and the "last".', ('A',), (('5"',),))
    assert "The ``first'' and the ``last''." in latex_table(table)
    assert '5"' in latex_table(table)


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='there is no pdflatex')
def test_latex_compiles(report, tmp_path):
    names = [*r'\→±−✓×τ~^<>&%$#_{}', '"a"', '5"']
    every = Chapter('All', (Table(NASTY, ('A',) * len(names), (tuple(names),)),))
    (tmp_path / 'tables.tex').write_text(latex(Report('R', (*report.chapters, every))))
    (packages,) = re.findall(r'^% (\\usepackage\S*);', (tmp_path / 'tables.tex').read_text())
    document = '\n'.join(
        [
            r'\documentclass{article}',
            packages,
            r'\begin{document}',
            r'\input{tables}',
            r'\end{document}',
        ]
    )
    (tmp_path / 'paper.tex').write_text(document)
    subprocess.run(
        ['pdflatex', '-halt-on-error', 'paper.tex'], cwd=tmp_path, check=True, capture_output=True
    )


def test_tables_of_words_go_to_the_left():
    table = Table('Files.', ('File', 'Why'), (('a', 'b'),), words=(0, 1))
    assert '| --- | --- |' in markdown_table(table)
    assert '{ll}' in latex_table(table)
    assert '<td class="words">b</td>' in html_table(table)
    assert '<td>82.67</td>' in html_table(TABLE)


def test_alternative_text_is_the_first_sentence():
    assert Figure('Recalls by epoch. Bands are ranges.', Path('a.png')).alternative == (
        'Recalls by epoch'
    )
