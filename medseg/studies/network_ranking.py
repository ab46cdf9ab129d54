"""Which network comes first, how sure its place is, and whether the first is better than the second at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.errors import counted, few
from medseg.metrics.intervals import LEVEL, ClusterBootstrap, Interval
from medseg.reports.score_tables import heading, mean_text
from medseg.reports.tables import Cell, Table
from medseg.studies.study_scores import MEAN, Scores
from medseg.studies.study_table import StudyTable

__all__ = ["Place", "places", "ranking", "verdict"]

Values = NDArray[np.float64]

NOTE = (
    "rank [95 % interval]: of the means in 2,000 draws of whole groups with replacement; it says how far these cases "
    "decide the order, not how another training would"
)


@dataclass(frozen=True)
class Place:
    """A network's place.

    Args:
        rank: from 1; equal means share one.
        network: its name.
        mean: over the cases of the mean over the classes; NaN where no case has one.
        interval: of the mean.
        ranks: 95 % interval of the rank; ``None`` for too few groups.
        left_out: cases that do not count for ``ranks``, since some of the networks have no value of them.
    """

    rank: int
    network: str
    mean: float
    interval: Interval | None = None
    ranks: tuple[int, int] | None = None
    left_out: int = 0


def places(table: StudyTable, column: str = "dice") -> list[Place]:
    """Return the networks of a study from the first to the last.

    The order is that of the means. Its interval is a bootstrap of the ranking (M. Wiesenfarth et al., "Methods and
    open-source toolkit for analyzing and visualizing challenge results", Scientific Reports 11, 2021,
    https://doi.org/10.1038/s41598-021-82017-6, "ranking variability"), which draws whole groups here.

    Args:
        table: of the study.
        column: by which they are ranked; more is better.
    """
    scores = table.scores
    values = np.stack([scores.of_cases(row, column, MEAN) for row in scores.rows], axis=1)
    means = [float(np.nanmean(each)) if (~np.isnan(each)).any() else math.nan for each in values.T]
    drawn = _ranks_of_draws(scores, values)
    missing = np.isnan(values)
    left_out = int((missing.any(axis=1) & ~missing.all(axis=1)).sum())
    found = []
    for number, row in enumerate(scores.rows):
        rank = 1 + sum(other > means[number] or math.isnan(means[number]) > math.isnan(other) for other in means)
        ranks = None if drawn is None else (int(drawn[0][number]), int(drawn[1][number]))
        found.append(Place(rank, row, means[number], table.interval(row, column, MEAN), ranks, left_out))
    return sorted(found, key=lambda place: place.rank)


def _ranks_of_draws(scores: Scores, values: Values) -> Values | None:
    """Return the lower and the upper rank of each column; of cases that all of them have a value of."""
    from scipy.stats import rankdata

    whole = np.flatnonzero((~np.isnan(values)).all(axis=1))
    groups = [scores.groups[case] for case in whole]
    means = ClusterBootstrap(groups).resampled(values[whole]) if groups else None
    if means is None:
        return None
    ranks = rankdata(-means, method="min", axis=1)
    shares = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found: Values = np.quantile(ranks, shares, axis=0, method="inverted_cdf")
    return found


def _unlearned(table: StudyTable, found: Sequence[Place]) -> str:
    names = [each.network for each in found if table.scores.unlearned.get(each.network)]
    return f" But {few(names)} learned nothing in a training or more: compare with more minutes." if names else ""


def verdict(table: StudyTable, found: Sequence[Place], column: str = "dice") -> str:
    """Say which network is first, and plainly whether its lead over the second holds.

    Args:
        table: of the study.
        found: its networks from the first to the last.
        column: by which they are ranked.
    """
    name, first = heading(column), found[0]
    if math.isnan(first.mean):
        return f"No case has a {name}: nothing can be said of the networks."
    said = f"{first.network} is first: mean {name} {mean_text(first.mean, first.interval)}.{_unlearned(table, found)}"
    if len(found) < 2:
        return f"{said} No other network was cross-validated: there is nothing to hold it against."
    second = found[1]
    pair = table.pairs.get((second.network, first.network, column, MEAN))
    sign = 1.0
    if pair is None:
        pair, sign = table.pairs[first.network, second.network, column, MEAN], -1.0
    interval = pair.interval
    if interval is not None and sign < 0:
        interval = (0.0 - interval[1], 0.0 - interval[0])
    lead = f"Its lead over {second.network}, {mean_text(sign * pair.difference + 0.0, interval)}"
    if pair.left_out:
        lead += (
            f" (of {counted(pair.cases, 'case')}; {pair.left_out} that one of the two has no {name} of are left out)"
        )
    if pair.holds:
        return f"{said} {lead}, holds ({_p(pair.corrected)})."
    why = f"{_p(pair.corrected)}, but its interval, which draws whole groups, reaches 0"
    if interval is not None and interval[0] * interval[1] > 0:
        why = f"{_p(pair.corrected)}, but by their ranks most groups say the opposite of the mean"
    if interval is None:
        why = "there are too few groups for an interval"
    elif not pair.corrected < 1 - LEVEL:
        why = _p(pair.corrected)
    return (
        f"{said} {lead}, does not hold ({why}): these cases do not tell the two apart. Take the one that suits you "
        "better, such as the smaller, or compare with more minutes or more cases."
    )


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def ranking(
    found: Sequence[Place],
    out: Sequence[tuple[Sequence[Place], str]],
    failed: Sequence[tuple[str, str]],
    minutes: str,
    column: str = "dice",
) -> Table:
    """Return the ranking of all networks: those that were cross-validated, that went out in a rung, that failed.

    Args:
        found: cross-validated, from the first.
        out: those that went out in each rung, the last rung first, and what it was.
        failed: the others, and why.
        minutes: what the cross-validation was.
        column: by which they are ranked.
    """
    name = f"mean {heading(column)}"
    rows: list[dict[str, Cell]] = []
    for held, trained in [(found, minutes), *out]:
        place = len(rows)
        for each in held:
            rank = str(each.rank + place - (held[0].rank - 1))
            if each.ranks is not None and held is found:
                rank += f" [{each.ranks[0]}, {each.ranks[1]}]"
            score = None if math.isnan(each.mean) else mean_text(each.mean, each.interval)
            rows.append({"rank": rank, "network": each.network, name: score, "from": trained})
    rows += [{"rank": None, "network": network, name: None, "from": why} for network, why in failed]
    notes = [NOTE] if any(place.ranks is not None for place in found) else []
    if notes and found[0].left_out:
        notes.append(
            f"ranks leave out {counted(found[0].left_out, 'case')} that some network has no {heading(column)} of"
        )
    if out:
        notes.append("who went out in a rung has the score of that rung, which that of no other length compares with")
    return Table.of(rows, title="ranking", notes=notes)
