"""Results as tables for the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

_COLUMNS = {
    'mcr_all': 'MCR\nall',
    'mcr_major': 'MCR\nmajor',
    'mcr_medium': 'MCR\nmedium',
    'mcr_minor': 'MCR\nminor',
    'accuracy': '\nacc.',
    'macro_f1': 'macro\nF1',
    'macro_auroc': 'macro\nAUROC',
}


def stage_table(results: Mapping[str, Any]) -> Table:
    """Stage 1 against stage 2 on the test part, in per cent; the run's result is bold.

    `results` is the content of `results.json`. The table fits a terminal of 80 columns.
    """
    shown = ('all', *results['groups'])
    metrics = [m for m in _COLUMNS if not m.startswith('mcr_') or m.removeprefix('mcr_') in shown]
    title = '{method} on {dataset} ({model}, seed {seed}): test part, per cent'
    caption = 'MCR: mean class recall; best: the epoch with the highest validation MCR.'
    if missing := (results.get('final') or {}).get('classes_without_images'):
        caption += f'\nPartial: there is no image of {", ".join(missing)}.'
    table = new_table(title.format_map(results), caption)
    table.add_column('', no_wrap=True)
    for metric in metrics:
        table.add_column(_COLUMNS[metric], justify='right', no_wrap=True, min_width=6)
    rows = [(stage, end) for stage in results['stages'] for end in ('last', 'best') if stage[end]]
    for stage, end in rows:
        test = stage[end]['test'] or {}
        is_result = stage is results['stages'][-1] and end == 'last'
        cells = [_per_cent(test.get(metric)) for metric in metrics]
        table.add_row(f'{stage["name"]} {end}', *cells, style='bold' if is_result else '')
    return table


def summary_table(
    summary: Mapping[str, Any], class_names: Sequence[str], groups: Mapping, title: str
) -> Table:
    """The metrics and recalls of one evaluated part, in per cent; see `metrics.summarize`."""
    sizes = [sum(row) for row in summary['confusion']]
    missing = summary.get('classes_without_images', ())
    caption = f'Partial: the means are over the classes with images, {len(sizes) - len(missing)} '
    caption += f'of {len(sizes)}; there is no image of {", ".join(missing)}.'
    table = new_table(title, caption if missing else None)
    table.add_column('')
    table.add_column('per cent', justify='right', no_wrap=True)
    table.add_column('images', justify='right', no_wrap=True)
    for metric, heading in _COLUMNS.items():
        if metric in summary:
            name, members = ' '.join(heading.split()), range(len(sizes))
            if (group := metric.removeprefix('mcr_')) in groups:
                members = groups[group]
                name += f' ({", ".join(class_names[c] for c in members)})'
            images = sum(sizes[c] for c in members)
            table.add_row(Text(name), _per_cent(summary[metric]), str(images))
    table.add_section()
    for index, name in enumerate(class_names):
        recall = summary['confusion'][index][index] / sizes[index] if sizes[index] else None
        table.add_row(Text(f'recall of {name}'), _per_cent(recall), str(sizes[index]))
    return table


def new_table(title: str, caption: str | None = None, **options: Any) -> Table:
    """An empty table in the style of all; `options` are those of `rich.table.Table`.

    Names are `Text` in its cells: in a plain str, rich would take [red] and :x: for something else.
    """
    style = {'box': box.SIMPLE_HEAD, 'title_style': '', 'title_justify': 'left'}
    style |= {'caption': caption and Text(caption, 'table.caption'), 'caption_justify': 'left'}
    return Table(title=Text(title), **style, **options)


def _per_cent(fraction: float | None) -> str:
    return '-' if fraction is None else f'{100 * fraction:.2f}'
