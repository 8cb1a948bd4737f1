"""Differences between two rows of a section, and what can be said for them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from metriclt_jax.reports.sections import Row, Section, unlike_default
from metriclt_jax.reports.statistics import Interval, images_interval, seeds_interval


@dataclass(frozen=True, eq=False)
class Comparison:
    """A difference in mean class recall, `first - second`, as a fraction.

    Attributes:
        metric: 'mcr_all' or that of a group.
        seeds: those that both rows have; all of each row's where there is none in common.
        difference: of the means over these seeds.
        over_seeds: see `statistics.seeds_interval`; None below two common seeds, or where they do
            not vary.
        over_images: see `statistics.images_interval`; None where a run kept no predictions.
    """

    first: Row
    second: Row
    metric: str
    seeds: tuple[int, ...]
    difference: float
    over_seeds: Interval | None
    over_images: Interval | None

    @property
    def verdict(self) -> str:
        """What may be claimed: a sign only where every interval that there is excludes zero."""
        intervals = [i for i in (self.over_seeds, self.over_images) if i is not None]
        if not intervals:
            return 'no interval'
        if not all(i.excludes_zero and (i.low > 0) == (self.difference > 0) for i in intervals):
            return 'no difference shown'
        sign = 'higher' if self.difference > 0 else 'lower'
        if self.over_seeds is None:
            return f'{sign}, for these trained networks'
        if self.over_images is None:
            return f'{sign}, on these images'
        return sign if len(self.seeds) > 2 else f'{sign}, two seeds only'


def compare(first: Row, second: Row, metric: str, classes: Sequence[int]) -> Comparison:
    """Compares two rows of a section.

    Args:
        first: its values are the minuend.
        second: the subtrahend.
        metric: 'mcr_all' or that of a group.
        classes: those that the metric is the mean recall of.
    """
    a, b = first.values(metric), second.values(metric)
    common = tuple(sorted(a.keys() & b.keys()))
    over_images = _over_images(first, second, common or (*a, *b), classes)
    if not common:
        difference = float(np.mean(list(a.values())) - np.mean(list(b.values())))
        return Comparison(first, second, metric, (), difference, None, over_images)
    pairs = [a[seed] for seed in common], [b[seed] for seed in common]
    difference = float(np.mean(np.subtract(*pairs)))
    return Comparison(
        first, second, metric, common, difference, seeds_interval(*pairs), over_images
    )


def _over_images(
    first: Row, second: Row, seeds: Sequence[int], classes: Sequence[int]
) -> Interval | None:
    runs = [[run for run in row.runs if run.seed in seeds] for row in (first, second)]
    outputs = [run.predictions for run in (*runs[0], *runs[1])]
    if any(row.stage != -1 for row in (first, second)) or any(one is None for one in outputs):
        return None
    ids, labels = outputs[0].ids, outputs[0].labels
    if not all(np.array_equal(o.ids, ids) and np.array_equal(o.labels, labels) for o in outputs):
        return None
    shares = [
        np.mean([run.predictions.probabilities.argmax(1) == labels for run in of_row], axis=0)
        for of_row in runs
    ]
    return images_interval(*shares, labels, classes)


def mcr_classes(section: Section) -> dict[str, list[int]]:
    """The metrics that are mean class recalls, with their classes, 'mcr_all' first."""
    results = section.results
    groups = {f'mcr_{name}': list(members) for name, members in results['groups'].items()}
    order = [name for name in ('mcr_major', 'mcr_medium', 'mcr_minor') if name in groups]
    order += [name for name in groups if name not in order]
    return {
        'mcr_all': list(range(len(results['class_names']))),
        **{name: groups[name] for name in order},
    }


def reference_row(rows: Sequence[Row], wanted: str | None = None) -> Row | None:
    """What the other rows are compared with: `wanted`, else `ce_crw`, `ce`, or none of these.

    Of several rows of that method, the one that is most like the default config.
    """
    for name in (wanted,) if wanted else ('ce_crw', 'ce'):
        likes = [row for row in rows if row.method == name]
        if likes:
            return min(likes, key=lambda row: len(unlike_default(row.settings)))
    return None


def best_rows(rows: Sequence[Row], metric: str = 'mcr_all') -> list[Row]:
    """Rows from the highest mean of a metric to the lowest."""
    return sorted(rows, key=lambda row: -np.mean(list(row.values(metric).values())))


def comparisons(
    section: Section, rows: Sequence[Row], reference: str | None = None
) -> list[Comparison]:
    """Every row against the reference, by metric; first the best against the second best row.

    The latter is left out where it is one of the former.
    """
    rows = [row for row in rows if row.summaries()]
    base = reference_row(rows, reference)
    pairs = [(row, base) for row in rows if base is not None and row is not base]
    best = best_rows(rows)[:2]
    if len(best) == 2 and base not in best:
        pairs = [tuple(best), *pairs]
    return [
        compare(first, second, metric, classes)
        for metric, classes in mcr_classes(section).items()
        for first, second in pairs
    ]
