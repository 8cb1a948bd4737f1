"""What was measured, as tables for the terminal; each fits 80 columns."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table

_WHAT = {'train': 'training step', 'forward': 'forward pass'}


def time_table(results: Sequence[dict[str, Any]]) -> Table:
    """Our own figures, a row for each entry of the results (of one kind and dtype)."""
    table = _table(
        _title(results[0]),
        'min, median: milliseconds of a step. floor: what the arithmetic (a) or the traffic with '
        'the memory (m) takes at the measured rates, in ms. share: of the measured rate of matrix '
        'products. compile: seconds. MiB: memory of the compiled program.',
    )
    for heading in ('min', 'median', 'images/s', 'floor', 'share', 'compile', 'MiB'):
        table.add_column(heading, justify='right', no_wrap=True)
    for result in results:
        floors = result['floor_seconds']
        which = max(floors, key=floors.get)
        table.add_row(
            _row(result),
            _milliseconds(result['seconds']['min']),
            _milliseconds(result['seconds']['median']),
            f'{result["images_per_second"]:.1f}',
            f'{_milliseconds(floors[which])} {which[0]}',
            f'{100 * result["share_of_matrix_rate"]:.0f} %',
            f'{result["compile_seconds"]:.1f}',
            f'{result["memory_bytes"] / 2**20:.0f}',
        )
    return table


def torch_table(results: Sequence[dict[str, Any]]) -> Table:
    """The comparison with PyTorch, a row for each entry of the results and option of PyTorch."""
    caption = (
        'min, median: milliseconds of a step of PyTorch. ours / PyTorch: median of the ratios of '
        'neighbouring samples; of minima: of the fastest samples. Below 1 ours is faster.'
    )
    if results[0]['what'] == 'train' and results[0]['augment']:
        caption += ' Ours includes the augmentation, PyTorch gets images that are ready.'
    table = _table(f'{_title(results[0])}, beside PyTorch', caption)
    table.add_column('PyTorch', no_wrap=True)
    for heading in ('min', 'median', 'ours / PyTorch', 'of minima'):
        table.add_column(heading, justify='right', no_wrap=True)
    for result in results:
        row = _row(result)
        for option, torch in result['torch'].items():
            cells = ('failed', '', '', '')
            if 'error' not in torch:
                cells = (
                    _milliseconds(torch['seconds']['min']),
                    _milliseconds(torch['seconds']['median']),
                    f'{torch["median_ratio"]:.2f}',
                    f'{torch["ratio_of_minima"]:.2f}',
                )
            table.add_row(row, option, *cells)
            row = ''
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        title_style='',
        title_justify='left',
        caption_justify='left',
    )
    table.add_column('px x batch', no_wrap=True)
    return table


def _title(result: dict[str, Any]) -> str:
    words = [_WHAT[result['what']], result['dtype']]
    if result['what'] == 'train':
        words.append('with augmentation' if result['augment'] else 'without augmentation')
    if result['remat']:
        words.append('rematerialised')
    return ', '.join(words)


def _row(result: dict[str, Any]) -> str:
    return f'{result["model"]} {result["size"]} x {result["batch"]}'


def _milliseconds(seconds: float) -> str:
    return f'{1000 * seconds:.4g}' if seconds < 10 else f'{1000 * seconds:.0f}'
