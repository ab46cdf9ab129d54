"""Whether one method is better than another on the same cases: Wilcoxon's signed-rank test, corrected after Holm.

The test takes what it is given for independent, which cases of one patient or section are not: it is given one value a
group, the mean of its cases. Of single cases it says far too often yes, and no correction for the number of tests makes
up for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.metrics.intervals import LEVEL, ClusterBootstrap, Interval

__all__ = ["Pair", "compare", "holm", "least", "signed_rank", "signed_rank_side"]

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Two methods on the cases that both have a value of.

    Args:
        cases: how many.
        difference: mean of the second less the first; NaN of no case.
        interval: of it, clustered by group; ``None`` for too few groups.
        p: of the signed-rank test on the groups' means, two-sided, by itself.
        corrected: the same after `holm`.
        side: where the test finds the second: above the first (1), below (-1), or neither (0).
        left_out: cases of which one method has a value and the other has none, so that they do not count.
    """

    cases: int
    difference: float
    interval: Interval | None
    p: float
    corrected: float = float("nan")
    side: int = 0
    left_out: int = 0

    @property
    def holds(self) -> bool:
        """Whether the difference holds: by the corrected test and by the interval of the mean, on the same side.

        A method that gains a little on most cases and fails on a few is above by its ranks and below by its mean.
        """
        if self.interval is None or not self.corrected < 1 - LEVEL:
            return False
        low, high = self.interval
        return (low > 0 and self.side > 0) or (high < 0 and self.side < 0)


def signed_rank(differences: Sequence[float] | Values) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test.

    F. Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1(6), 1945, by
    ``scipy.stats.wilcoxon``; cases without a difference are left out (his own way).

    Args:
        differences: of each case or group, finite.

    Returns:
        1 where none differs.
    """
    from scipy.stats import wilcoxon

    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    return float(wilcoxon(values).pvalue) if len(values) else 1.0


def signed_rank_side(differences: Sequence[float] | Values) -> int:
    """Return the sign of what `signed_rank` finds: of the ranks of the positive less those of the negative.

    Args:
        differences: as there.
    """
    from scipy.stats import rankdata

    values = np.asarray(differences, dtype=np.float64)
    values = values[values != 0]
    return int(np.sign((rankdata(np.abs(values)) * np.sign(values)).sum())) if len(values) else 0


def least(number: int) -> float:
    """Return the smallest p that `signed_rank` can give: that of differences which all have one sign.

    Args:
        number: of cases or groups.
    """
    return min(1.0, 2.0 ** (1 - number))


def holm(values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number by the step-down method of Holm.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979: the
    k-th smallest of m, k from 0, times m - k, and never below the one before it.

    Args:
        values: p-values; NaN stands for no test, and counts as none.

    Raises:
        MedsegError: if one is no probability.
    """
    found = np.asarray(values, dtype=np.float64)
    there = np.flatnonzero(~np.isnan(found))
    if ((found[there] < 0) | (found[there] > 1)).any():
        raise MedsegError(f"{list(values)} are no p-values; they lie between 0 and 1")
    order = there[np.argsort(found[there], kind="stable")]
    steps = found[order] * np.arange(len(order), 0, -1)
    found[order] = np.minimum(1.0, np.maximum.accumulate(steps))
    return [float(value) for value in found]


def compare(first: Values, second: Values, groups: Sequence[str]) -> Pair:
    """Compare two methods on the cases that both have a value of.

    Args:
        first: of each case; NaN where there is none, and what one alone has is counted as left out.
        second: of the same cases.
        groups: of each case, see `ClusterBootstrap`.

    Shape:
        first, second ``(cases,)``.
    """
    differences = second - first
    there = ~np.isnan(differences)
    left_out = int((np.isnan(first) != np.isnan(second)).sum())
    if not there.any():
        return Pair(0, float("nan"), None, float("nan"), left_out=left_out)
    kept = [group for group, counts in zip(groups, there, strict=True) if counts]
    clusters, found = ClusterBootstrap(kept), differences[there]
    means = clusters.means(found)
    side = signed_rank_side(means)
    return Pair(len(found), float(found.mean()), clusters.bca(found), signed_rank(means), side=side, left_out=left_out)
