"""How often a study's table says that a difference holds where there is none, and how often where there is one.

    python -m benchmarks.paired_tests --json docs/results/paired_tests_cpu.json

Made-up scores of networks on the same cases, through the functions of `medseg.metrics.paired_tests`: Wilcoxon's test on
the groups' means, Holm's correction over all pairs, the BCa interval that draws whole groups. Scores are either normal,
or skewed as Dice is: near 1, with a tail of failures; groups have one case each, or 1 to 40. A case is as hard for all
networks, a group has its own ease for each of them.

``alike``: networks draw from one distribution; a table should have a false difference in 5 of 100 at most.
``equal means``: the second network of two gains a little on most groups and fails on a few more, so that the true means
are equal: what a signed-rank test alone calls a difference, since it asks another question.
``better``: the last network's scores are higher by `GAIN`; what is counted is how often that is said of a pair of it.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report
from medseg.metrics.intervals import LEVEL, ClusterBootstrap
from medseg.metrics.paired_tests import Pair, holm, signed_rank, signed_rank_side

Values = NDArray[np.float64]
GAIN = 0.02
FAILS, DEEP = 0.05, 0.6  # share of failures, and their mean depth
GROUPS = (12, 40)
ROWS = (2, 6)


def sizes_of(groups: int, unequal: bool, random: np.random.Generator) -> NDArray[np.int64]:
    """Return how many cases each group has: one, or 1 to 40, few of them large."""
    return np.minimum(40, random.geometric(0.15, groups)) if unequal else np.ones(groups, np.int64)


def scores(rows: int, sizes: NDArray[np.int64], skewed: bool, random: np.random.Generator) -> Values:
    """Return scores of networks that are alike.

    Args:
        rows: networks.
        sizes: cases of each group.
        skewed: near 1 with failures, or normal.
        random: where they are drawn from.

    Shape:
        ``(rows, cases)``.
    """
    groups, cases = np.repeat(np.arange(len(sizes)), sizes), int(sizes.sum())
    hard = random.normal(0, 0.03, cases) + random.normal(0, 0.03, len(sizes))[groups]
    own = random.normal(0, 0.02, (rows, len(sizes)))[:, groups] + random.normal(0, 0.02, (rows, cases))
    if not skewed:
        return 0.8 + hard + own
    found = 1 - 0.08 * np.exp(-10 * (hard + own))
    failed = random.random((rows, cases)) < FAILS
    return np.clip(np.where(failed, found - random.uniform(0, 2 * DEEP, (rows, cases)), found), 0, 1)


def with_other_failures(values: Values, sizes: NDArray[np.int64], random: np.random.Generator) -> Values:
    """Let the second network gain on all cases what it loses on a tenth of the groups: its true mean stays.

    Args:
        values: of networks that are alike ``(rows, cases)``, changed in place.
        sizes: cases of each group.
        random: where the groups are drawn from.
    """
    share, loss = 0.1, 0.2
    failed = np.repeat(random.random(len(sizes)) < share, sizes)
    values[1] += share * loss - np.where(failed, loss, 0.0)
    return values


def held(values: Values, sizes: NDArray[np.int64]) -> tuple[dict[tuple[int, int], Pair], list[bool]]:
    """Return each pair of rows as a table tests it, and whether the corrected test alone would say yes."""
    groups = [f"g{number}" for number, size in enumerate(sizes) for _ in range(size)]
    clusters = ClusterBootstrap(groups)
    keys = list(itertools.combinations(range(len(values)), 2))
    means = [clusters.means(values[second] - values[first]) for first, second in keys]
    p = [signed_rank(each) for each in means]
    found = {}
    for key, each, single, corrected in zip(keys, means, p, holm(p), strict=True):
        gains = values[key[1]] - values[key[0]]
        # an interval is drawn where the test says yes: elsewhere nothing holds, whatever it is
        interval = clusters.bca(gains) if corrected < 1 - LEVEL else None
        found[key] = Pair(len(gains), float(gains.mean()), interval, single, corrected, signed_rank_side(each))
    return found, [pair.corrected < 1 - LEVEL for pair in found.values()]


def measured(
    rows: int, groups: int, *, skewed: bool, unequal: bool, draws: int, change: Callable[..., Values] | None = None
) -> dict[str, float]:
    """Return the share of tables with a difference that holds, by the test alone, and by test and interval.

    Args:
        rows: networks.
        groups: of cases.
        skewed: see `scores`.
        unequal: see `sizes_of`.
        draws: tables.
        change: of the scores of networks that are alike.
    """
    random = np.random.default_rng([rows, groups, skewed, unequal])
    tests, both, last = 0, 0, 0
    for _ in range(draws):
        sizes = sizes_of(groups, unequal, random)
        values = scores(rows, sizes, skewed, random)
        if change is not None:
            values = change(values, sizes, random)
        pairs, by_test = held(values, sizes)
        tests += any(by_test)
        both += any(pair.holds for pair in pairs.values())
        last += any(pair.holds and pair.difference > 0 for key, pair in pairs.items() if key[1] == rows - 1)
    return {"test": tests / draws, "holds": both / draws, "last_better": last / draws}


def better(values: Values, sizes: NDArray[np.int64], random: np.random.Generator) -> Values:
    """Let the last network be better by `GAIN` in every case."""
    del sizes, random
    values[-1] += GAIN
    return values


_CHANGES: dict[str, Callable[..., Values] | None] = {
    "alike": None,
    "equal means": with_other_failures,
    "better": better,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--draws",
        type=int,
        default=1000,
        help="tables of networks that are alike; a quarter of others (default: %(default)s)",
    )
    parser.add_argument("--groups", type=int, nargs="+", default=list(GROUPS))
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    found: list[dict[str, Any]] = []
    for kind, change in _CHANGES.items():
        for rows, groups in itertools.product(ROWS, options.groups):
            if kind == "equal means" and rows > 2:
                continue
            for skewed, unequal in itertools.product((False, True), repeat=2):
                setting: dict[str, Any] = {"kind": kind, "rows": rows, "groups": groups}
                setting |= {"skewed": skewed, "unequal": unequal}
                setting["draws"] = options.draws if change is None else options.draws // 4
                share = measured(rows, groups, skewed=skewed, unequal=unequal, draws=setting["draws"], change=change)
                found.append({**setting, **share})
    report("paired_tests", {"gain": GAIN, "rows": found}, options.json)


if __name__ == "__main__":
    main()
