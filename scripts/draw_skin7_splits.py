"""Draws the README's picture: results on Skin7, image-level split beside lesion-disjoint split.

    python scripts/draw_skin7_splits.py

It reads docs/results/skin7 and writes docs/figures/skin7_splits.png.
"""

import json
from pathlib import Path

import matplotlib.pyplot as plt

DOCS = Path(__file__).parents[1] / 'docs'
METHODS = {
    'ce_sc_crw': 'CE + supervised\ncontrastive',
    'ce_tp_crw': 'CE + triplet',
    'ce_ct_crw': 'CE + center',
    'ce_crw': 'cross-entropy (CE)',
}
SPLITS = {'paper': 'Image-level split', 'grouped': 'Lesion-disjoint split'}
STAGE_1, STAGE_2 = '#E69F00', '#0072B2'  # the colour-blind safe palette of Okabe and Ito


def recalls(split: str, method: str) -> tuple[list[float], list[float]]:
    """The test MCR after stage 1 and after stage 2, per cent, of every seed."""
    stages = [
        json.loads(path.read_text())['stages']
        for path in sorted((DOCS / 'results' / 'skin7' / split / method).glob('*/results.json'))
    ]
    first, second = (
        [100 * run[stage]['last']['test']['mcr_all'] for run in stages] for stage in (0, 1)
    )
    return first, second


def main() -> None:
    """Draws a dot for each run and a bar from the mean of stage 1 to that of stage 2."""
    plt.rcParams.update({'font.size': 10, 'axes.spines.top': False, 'axes.spines.right': False})
    figure, axes = plt.subplots(
        1, 2, figsize=(7, 3), sharex=True, sharey=True, layout='constrained', facecolor='white'
    )
    for axis, (split, title) in zip(axes, SPLITS.items(), strict=True):
        for row, method in enumerate(METHODS):
            stages = recalls(split, method)
            means = [sum(values) / len(values) for values in stages]
            axis.plot(means, [row, row], color='#BBBBBB', linewidth=3, zorder=1)
            for values, mean, color, name in zip(
                stages, means, (STAGE_1, STAGE_2), ('after stage 1', 'after stage 2'), strict=True
            ):
                label = name if row == 0 else None
                axis.scatter(values, [row - 0.24] * len(values), s=14, color=color, alpha=0.7)
                axis.scatter(mean, row, s=75, color=color, label=label, zorder=2)
            axis.annotate(
                f'{means[1]:.1f}', (means[1], row), (0, 7), textcoords='offset points', ha='center'
            )
        axis.set_title(f'{title}, {len(stages[0])} seeds', fontsize=11)
        axis.set_xlabel('mean class recall, test (%)')
        axis.grid(axis='x', color='#E5E5E5')
        axis.set_axisbelow(True)
    axes[0].set_yticks(range(len(METHODS)), METHODS.values())
    axes[0].set_ylim(-0.5, len(METHODS) - 0.4)
    figure.legend(
        *axes[0].get_legend_handles_labels(), loc='outside lower center', ncols=2, frameon=False
    )
    figure.savefig(DOCS / 'figures' / 'skin7_splits.png', dpi=200, metadata={'Software': None})


if __name__ == '__main__':
    main()
