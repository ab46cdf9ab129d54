"""How far a mean over cases is decided by the cases at hand: 95 % bootstrap intervals, clustered by group.

Cases of one patient resemble each other, so whole groups are drawn anew with replacement, with all of their cases
(C. A. Field, A. H. Welsh, "Bootstrapping clustered data", https://doi.org/10.1111/j.1467-9868.2007.00593.x; percentile
interval of B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993). A case whose group is not known is a
group of its own. The interval says nothing of how far another training would differ. Of few groups it is too narrow:
where their means are normal, that of 5 holds the true mean 85 times in 100, of 10 90 times, of 20 93 times.

`ClusterBootstrap.intervals` are the many percentile intervals of one evaluation, all from the same draws;
`ClusterBootstrap.bca` is one interval of a study's table, corrected for bias and skewness (BCa, same book, chapter 14)
by ``scipy.stats.bootstrap``, which is handed the groups to draw from.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import counted

__all__ = ["LEAST_GROUPS", "MANY_GROUPS", "ClusterBootstrap", "Interval"]

LEAST_GROUPS = 5
"""Below it there is no interval: the draws would be of too few things to say how others differ."""
MANY_GROUPS = 20
"""Below it an interval holds the true mean clearly less often than it says, see docs/how-to/scores.md."""
LEVEL = 0.95
RESAMPLES = 2000
SEED = 0
_AT_ONCE = 2**22  # numbers drawn at once

Values = NDArray[np.float64]
Interval = tuple[float, float]


class ClusterBootstrap:
    """Intervals of means over the same cases.

    Args:
        groups: of each case; ``""`` where it is not known.
    """

    def __init__(self, groups: Sequence[str]) -> None:
        named = [group or (number,) for number, group in enumerate(groups)]  # no name is equal to a tuple
        places = {key: place for place, key in enumerate(dict.fromkeys(named))}
        self.places = np.array([places[key] for key in named], np.int64)
        self.number = len(places)
        self.by = "group" if all(groups) else "group, or case without one" if any(groups) else "case"

    def record(self) -> dict[str, Any]:
        """Return how the intervals were made, as plain values."""
        held = {"level": LEVEL, "method": "percentile", "resamples": RESAMPLES, "seed": SEED}
        return {**held, "by": self.by, "groups": self.number, "least_groups": LEAST_GROUPS}

    def note(self) -> str:
        """Say it in a sentence."""
        if self.number < LEAST_GROUPS:
            return f"No intervals: {self.counted()}, {LEAST_GROUPS} are the least."
        return (
            f"[low, high]: {LEVEL:.0%} bootstrap interval of the mean, by {self.counted()}; there is none where "
            f"fewer than {LEAST_GROUPS} count."
        )

    def counted(self) -> str:
        """Return how many of what is drawn there are."""
        if self.by in ("group", "case"):
            return counted(self.number, self.by)
        return counted(self.number, "group or single case", "groups and single cases")

    def means(self, values: Values) -> Values:
        """Return the mean of each group's cases.

        Args:
            values: of each case, finite.

        Shape:
            values ``(cases,)`` to ``(groups,)``.
        """
        found: Values = np.bincount(self.places, values, self.number) / np.bincount(self.places, minlength=self.number)
        return found

    def intervals(self, values: Values) -> tuple[list[Interval | None], Interval | None]:
        """Return the interval of each column's mean over the cases, and that of the mean of these means.

        Args:
            values: NaN is not counted.

        Shape:
            values ``(cases, columns)``.
        """
        sums, counts = self._sums(values)
        means = self._means(sums, counts) if (counts > 0).any(1).sum() >= LEAST_GROUPS else None
        if means is None:
            return [None] * values.shape[1], None
        enough = (counts > 0).sum(0) >= LEAST_GROUPS
        each = [_interval(means[:, index]) if enough[index] else None for index in range(values.shape[1])]
        defined = ~np.isnan(means)
        number = defined.sum(1)
        overall = np.where(defined, means, 0.0).sum(1)[number > 0] / number[number > 0]
        return each, _interval(overall)

    def bca(self, values: Values) -> Interval | None:
        """Return the BCa interval of the mean over the cases; ``None`` where fewer than `LEAST_GROUPS` groups count.

        Where all groups have one mean, both ends are that mean.

        Args:
            values: NaN is not counted.

        Shape:
            values ``(cases,)``.
        """
        from scipy.stats import bootstrap

        there = ~np.isnan(values)
        sums = np.bincount(self.places[there], values[there], self.number)
        counts = np.bincount(self.places[there], minlength=self.number).astype(np.float64)
        sums, counts = sums[counts > 0], counts[counts > 0]
        if len(counts) < LEAST_GROUPS:
            return None
        means = sums / counts
        if np.ptp(means) <= 1e-12 * np.abs(means).max():  # nothing to draw: scipy would give NaN
            return float(means[0]), float(means[0])

        def mean(drawn: NDArray[np.int64], axis: int = -1) -> Values:
            found: Values = sums[drawn].sum(axis) / counts[drawn].sum(axis)
            return found

        found = bootstrap(
            (np.arange(len(counts)),), mean, vectorized=True, n_resamples=RESAMPLES, confidence_level=LEVEL,
            batch=max(1, _AT_ONCE // len(counts)), method="BCa", random_state=np.random.default_rng(SEED),
        ).confidence_interval  # fmt: skip
        return float(found.low), float(found.high)

    def resampled(self, values: Values) -> Values | None:
        """Return the columns' means in each draw of the groups; ``None`` where there are fewer than `LEAST_GROUPS`.

        Args:
            values: NaN is not counted.

        Shape:
            values ``(cases, columns)`` to ``(resamples, columns)``.
        """
        return self._means(*self._sums(values)) if self.number >= LEAST_GROUPS else None

    def _sums(self, values: Values) -> tuple[Values, Values]:
        """Return the sum of each group's values, and of how many it is, by column."""
        there = ~np.isnan(values)
        sums, counts = np.zeros((self.number, values.shape[1])), np.zeros((self.number, values.shape[1]))
        np.add.at(sums, self.places, np.where(there, values, 0.0))
        np.add.at(counts, self.places, there.astype(np.float64))
        return sums, counts

    def _means(self, sums: Values, counts: Values) -> Values:
        """Return the columns' means in each resample ``(resamples, columns)``; NaN where none is counted."""
        random = np.random.default_rng(SEED)
        shares = np.full(self.number, 1 / self.number)
        step = max(1, _AT_ONCE // self.number)
        parts = []
        for start in range(0, RESAMPLES, step):
            times = random.multinomial(self.number, shares, min(step, RESAMPLES - start)).astype(np.float64)
            number = times @ counts
            parts.append(np.divide(times @ sums, number, out=np.full(number.shape, np.nan), where=number > 0))
        return np.concatenate(parts)


def _interval(means: Values) -> Interval:
    low, high = np.nanquantile(means, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return float(low), float(high)
