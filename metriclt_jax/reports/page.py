"""The report as one HTML page that needs nothing else: no scripts, no links, pictures inside."""

import base64
import html
from pathlib import Path

from metriclt_jax.reports.document import Figure, Report, Table, html_table

# The policy has a browser refuse whatever would come from elsewhere.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<h1>{title}</h1>
{contents}
{body}
</body>
</html>
"""
_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff;
  max-width: 76rem; margin: 2rem auto; padding: 0 1.5rem; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 .8rem; }
h2 { border-bottom: 2px solid #0072b2; padding-bottom: .3rem; margin-top: 3rem; }
p { max-width: 52rem; overflow-wrap: anywhere; }
nav ul { columns: 20rem; padding-left: 1.2rem; }
nav a { color: #00558a; }
nav .sub { margin-left: 1.2rem; font-size: .9rem; }
.wide { overflow-x: auto; margin: 0 0 1.2rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums;
  border-top: 2px solid #333; border-bottom: 2px solid #333; }
p.caption { font-size: .9rem; margin-bottom: .5rem; }
th, td { padding: .2rem .65rem; text-align: right; white-space: nowrap; }
th.words, td.words { text-align: left; }
td.words { white-space: normal; min-width: 7rem; vertical-align: top; }
thead tr:last-child th { border-bottom: 1px solid #333; vertical-align: bottom; }
.group:not(:empty) { text-align: center; border-bottom: 1px solid #999; }
tbody th { font-weight: normal; position: sticky; left: 0; background: #fff; }
tbody tr:nth-child(even) > * { background: #f4f7fa; }
u { text-underline-offset: .2em; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { max-width: 52rem; font-size: .9rem; color: #333; }
@media print { body { max-width: none; } figure, tr { break-inside: avoid; } }"""


def html_page(report: Report) -> str:
    """The page; every text is escaped, every picture is a data URI."""
    links, body, parts = [], [], sum(chapter.level == 1 for chapter in report.chapters)
    for number, chapter in enumerate(report.chapters, start=1):
        title = html.escape(chapter.title)
        tag = f'h{chapter.level + 1}'
        body.append(f'<{tag} id="part{number}">{title}</{tag}>')
        body += map(_item, chapter.items)
        kind = ' class="sub"' if chapter.level > 1 else ''
        links.append(f'<li{kind}><a href="#part{number}">{title}</a></li>')
    contents = f'<nav><ul>{"".join(links)}</ul></nav>' if parts > 1 else ''
    return _PAGE.format(
        title=html.escape(report.title), style=_STYLE, contents=contents, body='\n'.join(body)
    )


def _item(item: str | Table | Figure) -> str:
    match item:
        case Table():
            return html_table(item)
        case Figure():
            caption, alternative = html.escape(item.caption), html.escape(item.alternative)
            return (
                f'<figure><img alt="{alternative}" width="{_width(item.path)}" '
                f'src="{data_uri(item.path)}">'
                f'<figcaption>{caption}</figcaption></figure>'
            )
        case _:
            return f'<p>{html.escape(item)}</p>'


def data_uri(path: Path) -> str:
    """A PNG file as text that an `img` element shows."""
    return f'data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}'


def _width(path: Path) -> int:
    """Width of a PNG file on the page: 0.6 of its pixels, so that all pictures have one scale."""
    return int.from_bytes(path.read_bytes()[16:20], 'big') * 3 // 5
