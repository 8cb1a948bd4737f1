"""HTML, Markdown and LaTeX: marks, groups, and texts that try to break out."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from metriclt_jax.reports.render import escape_latex, render
from metriclt_jax.reports.tables import Column

NASTY = r'<script>alert("x")</script> | & % $ # _ { } ~ ^ \ * ` [a](b) 痣'
TABLE = [
    Column('Method', ['CE → cRW', 'CE+SC → cRW'], words=True),
    Column('All', ['84.11 ± 0.70', '86.43 ± 0.44'], 'Skin7', marks=['underline', 'bold']),
    Column('All', ['82.67', '−1.00'], 'Skin7'),
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


def rendered(folder, table, caption='Recall.') -> dict[str, str]:
    """The report of the paper with another table in it, by format."""
    paper = {'number': 2, 'caption': caption, 'table': table, 'marked': True}
    render('paper.j2', folder, title=caption, tables=[paper, paper])
    return {path.suffix: path.read_text() for path in folder.glob('report.*')}


def test_marks_and_groups(tmp_path):
    found = rendered(tmp_path, TABLE)
    rows = [line for line in found['.md'].splitlines() if line.startswith('|')]
    assert rows[:4] == [
        '| Method | Skin7 All | Skin7 All |',
        '| --- | ---: | ---: |',
        '| CE → cRW | <ins>84.11 ± 0.70</ins> | 82.67 |',
        '| CE+SC → cRW | **86.43 ± 0.44** | −1.00 |',
    ]
    assert '<u>84.11 ± 0.70</u>' in found['.html']
    assert '<b>86.43 ± 0.44</b>' in found['.html']
    assert '<th class="group" colspan="2">Skin7</th>' in found['.html']
    assert '<th scope="row" class="words">CE → cRW</th>' in found['.html']
    tex = found['.tex']
    assert r'\begin{tabular}{lrr}' in tex
    assert r'\multicolumn{2}{c}{Skin7}' in tex
    assert r'CE $\rightarrow$ cRW & \underline{84.11 $\pm$ 0.70} & 82.67 \\' in tex
    assert r'CE+SC $\rightarrow$ cRW & \textbf{86.43 $\pm$ 0.44} & $-$1.00 \\' in tex
    assert tex.count(r'\label{tab:paper2}') == 2


def test_texts_are_shown_as_they_are(tmp_path):
    columns = [Column(NASTY, [NASTY], words=True), Column(NASTY, [NASTY], NASTY, marks=['bold'])]
    found = rendered(tmp_path, columns, NASTY)
    tags = Tags(found['.html'])
    assert 'script' not in {tag for tag, _ in tags.elements}
    assert tags.text.count(NASTY) >= 7
    links = [attributes['href'] for tag, attributes in tags.elements if tag == 'a']
    assert links == ['#part1', '#part2']
    assert {a['id'] for tag, a in tags.elements if 'id' in a} == {'part1', 'part2'}
    assert not re.search('https?:', found['.html'])

    assert '<script>' not in found['.md'].replace(r'\<script\>', '')
    row = next(line for line in found['.md'].splitlines() if line.startswith('| ') and '**' in line)
    assert len(row.replace(r'\|', '').split('|')) == 4  # two cells

    for line in found['.tex'].splitlines():
        if not line.startswith('%'):
            bare = line.replace(r'\{', '').replace(r'\}', '')
            assert bare.count('{') == bare.count('}')
            assert not re.search(r'(?<!\\)[%#]', line)
    assert r'\& \% \$ \# \_ \{ \} \textasciitilde{} \textasciicircum{}' in found['.tex']
    assert r'\textbar{} \& \%' in found['.tex']
    assert escape_latex('[a] *') == '{[}a{]} {*}'  # after a line break, an argument of it
    assert escape_latex('The "first" and the "last", 5".') == "The ``first'' and the ``last'', 5\"."


@pytest.mark.skipif(shutil.which('pdflatex') is None, reason='there is no pdflatex')
def test_latex_compiles(tmp_path):
    names = [*r'\→±−✓×τ~^<>&%$#_{}|', '"a"', '5"', '[red]', '* a', 'two\n\nlines']
    rendered(tmp_path, [Column(name, [name], 'all') for name in names])
    text = (tmp_path / 'report.tex').read_text()
    (packages,) = re.findall(r'(\\usepackage\S*);', text)
    document = rf'\documentclass{{article}}{packages}\begin{{document}}{text}\end{{document}}'
    (tmp_path / 'paper.tex').write_text(document.replace('% ', '\n% '))
    command = ['pdflatex', '-halt-on-error', 'paper.tex']
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
