"""How often the reports' 95 % interval over images covers the true difference, by simulation.

    python scripts/simulate_coverage.py [--draws=1000]

Two methods with known recalls classify images of known lesions, in the class sizes of Skin7:
lesions are easy or hard for both methods and for each of them, and so are single images. Prints the
share of simulated test sets whose interval covers the true difference in mean class recall, for a
bootstrap that draws lesions, as the reports do, and for one that draws images.
"""

import numpy as np
from absl import app, flags
from scipy.stats import norm

from metriclt_jax.reports.statistics import bootstrap

_DRAWS = flags.DEFINE_integer('draws', 1000, 'simulated test sets per setting')

# Skin7's classes: lesions, images of a lesion on average; ease, and how much easier for method A.
CLASSES = (
    (614, 1.8, 0.8, 0.2),
    (5403, 1.24, 2.0, -0.1),
    (327, 1.57, 0.7, 0.3),
    (228, 1.43, 0.3, 0.3),
    (727, 1.5, 0.5, 0.2),
    (73, 1.57, 0.3, 0.4),
    (98, 1.45, 1.2, 0.1),
)
PARTS = {'all images, as five folds test them': 1.0, 'a fifth of them, as one split does': 0.2}
SPREADS = (0.0, 1.0, 2.0)  # deviation between lesions; that between images of a lesion is 1


def simulate(share: float, spread: float, rng: np.random.Generator):
    """Whether methods A and B are right about each image `[N]`, the labels and the lesions."""
    columns, lesions = [], 0
    for label, (number, size, ease, gain) in enumerate(CLASSES):
        number = round(number * share)
        images = 1 + rng.poisson(size - 1, number)
        lesion = np.repeat(np.arange(number), images)
        both, one = rng.normal(scale=[[spread], [spread / 2]], size=(2, number))[:, lesion]
        noise = rng.normal(size=len(lesion))
        chances = norm.cdf([ease + gain + both + one + noise, ease + both - one + noise])
        right = rng.random(chances.shape) < chances
        columns.append((*right, np.full(len(lesion), label), lesions + lesion))
        lesions += number
    first, second, labels, groups = (
        np.concatenate(column) for column in zip(*columns, strict=True)
    )
    return first, second, labels, groups.astype(str)


def true_difference(spread: float) -> float:
    """The difference in mean class recall: E[cdf(x + z)] = cdf(x / sqrt(1 + var z))."""
    scale = np.sqrt(1 + spread**2 * (1 + 1 / 4) + 1)
    return float(np.mean([norm.cdf((e + g) / scale) - norm.cdf(e / scale) for *_, e, g in CLASSES]))


def main(argv) -> None:
    """Prints a Markdown table."""
    print('| images | spread of lesions | width, points | covers | if images are drawn |')
    print('|---|---|---|---|---|')
    for title, share in PARTS.items():
        for spread in SPREADS:
            rng = np.random.default_rng(0)
            truth, widths, hits = true_difference(spread), [], np.zeros(2)
            for _ in range(_DRAWS.value):
                *outputs, labels, groups = simulate(share, spread, rng)
                for kind, drawn in enumerate((groups, None)):
                    low, high = bootstrap(*outputs, labels, range(len(CLASSES)), drawn).interval
                    hits[kind] += low <= truth <= high
                    if kind == 0:
                        widths.append(high - low)
            covered = ' | '.join(f'{100 * hit / _DRAWS.value:.1f} %' for hit in hits)
            print(f'| {title} | {spread:g} | {100 * np.mean(widths):.1f} | {covered} |', flush=True)


if __name__ == '__main__':
    app.run(main)
