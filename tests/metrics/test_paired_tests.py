"""Tests between rows: against published and hand-worked figures, and scipy's own bootstrap."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from medseg.errors import MedsegError
from medseg.metrics.intervals import ClusterBootstrap
from medseg.metrics.paired_tests import compare, holm, signed_rank, signed_rank_side


def test_signed_rank_of_darwins_maize() -> None:
    """Heights of cross- less self-fertilised plants in eighths of an inch (C. Darwin, 1876, in R. A. Fisher, "Design
    of Experiments", 1935); the exact two-sided p of T = 24 and n = 15 is 0.0413 in Wilcoxon's tables."""
    darwin = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert signed_rank(darwin) == pytest.approx(0.041259765625)


def test_signed_rank_by_counting_signs() -> None:
    """Of all signs of the ranks, the share whose sum of positive ranks is as far from the middle, or farther."""
    differences = [0.31, -0.11, 0.42, 0.53, 0.24, -0.05]
    ranks = np.argsort(np.argsort(np.abs(differences))) + 1
    middle = ranks.sum() / 2
    seen = abs(ranks[np.array(differences) > 0].sum() - middle)
    sums = [
        sum(rank for rank, up in zip(ranks, signs, strict=True) if up) for signs in itertools.product((0, 1), repeat=6)
    ]
    expected = np.mean([abs(each - middle) >= seen for each in sums])
    assert signed_rank(differences) == pytest.approx(expected)
    assert signed_rank([*differences, 0.0, 0.0]) == pytest.approx(expected)


def test_signed_rank_of_nothing() -> None:
    assert signed_rank([0.0, 0.0, 0.0]) == 1
    assert signed_rank([]) == 1


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1: 0.02, 0.03, 0.06, 0.04; the last not below the one before."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_rejects_as_the_sequence_of_tests_does() -> None:
    """In his own words: the smallest against 0.05 / m, the next against 0.05 / (m - 1), until one is above."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = list(rng.uniform(0, 0.06, 6))
        rejected, order = set(), np.argsort(values)
        for step, place in enumerate(order):
            if values[place] > 0.05 / (6 - step):
                break
            rejected.add(int(place))
        assert {place for place, p in enumerate(holm(values)) if p <= 0.05} == rejected


def test_holm_leaves_out_what_was_not_tested() -> None:
    corrected = holm([0.02, math.nan, 0.03])
    assert corrected[::2] == pytest.approx([0.04, 0.04])
    assert math.isnan(corrected[1])
    with pytest.raises(MedsegError, match="are no p-values; they lie between 0 and 1"):
        holm([0.2, 1.2])


def test_a_difference_holds_by_the_test_and_by_the_interval() -> None:
    """Two of six patients gain and hold 20 of 24 cases: the cases say yes, patients do not."""
    gains = np.array([0.1 + 0.001 * n for n in range(20)] + [-0.05, -0.06, -0.07, -0.08])
    patients = ["a"] * 10 + ["b"] * 10 + ["c", "d", "e", "f"]
    first = np.linspace(0.4, 0.6, 24)
    clustered = compare(first, first + gains, patients)
    assert clustered.p == pytest.approx(1)  # positive ranks 5 and 6, negative 1 to 4
    assert clustered.interval is not None
    assert clustered.interval[0] < 0
    assert not replace(clustered, corrected=0.01).holds
    alone = compare(first, first + gains, [""] * 24)
    assert alone.p < 0.01
    assert replace(alone, corrected=alone.p).holds
    assert not replace(alone, corrected=0.2).holds


def test_the_test_is_of_the_means_of_groups() -> None:
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(3)
    sizes = (1, 7, 2, 5, 3, 4, 6)
    groups = [name for name, size in zip("abcdefg", sizes, strict=True) for _ in range(size)]
    order = rng.permutation(len(groups))
    first, second = rng.uniform(size=(2, len(groups)))
    named = np.array(groups)
    means = [(second - first)[named == name].mean() for name in "abcdefg"]
    found = compare(first[order], second[order], [groups[place] for place in order])
    assert found.p == pytest.approx(wilcoxon(means).pvalue)
    assert found.difference == pytest.approx((second - first).mean())


def test_networks_that_are_alike_differ_no_more_often_than_the_level_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twelve sections of sixteen crops, of which each network finds some sections easier than others do: a twentieth
    of the pairs may have a p below 0.05. Of single crops half of them have, so that Holm's correction of many tests
    would correct nothing."""
    monkeypatch.setattr(ClusterBootstrap, "bca", lambda *_: None)  # slow, and not asked here
    rng = np.random.default_rng(0)
    sections = np.repeat(np.arange(12), 16)
    names, seen = [str(each) for each in sections], []
    for _ in range(200):
        first, second = (rng.normal(0, 0.02, 12)[sections] + rng.normal(0, 0.03, 192) for _ in range(2))
        seen.append((compare(first, second, names).p, signed_rank(second - first)))
    of_sections, of_crops = (np.array(seen) < 0.05).mean(0)
    assert of_sections < 0.09
    assert of_crops > 0.3


def test_cases_without_a_value_are_not_compared() -> None:
    first = np.array([0.1, np.nan, 0.3, 0.4])
    second = np.array([0.2, 0.5, np.nan, 0.6])
    pair = compare(first, second, ["a", "b", "c", "d"])
    assert (pair.cases, pair.difference, pair.interval) == (2, pytest.approx(0.15), None)
    assert not pair.holds
    nothing = compare(first, np.full(4, np.nan), ["a", "b", "c", "d"])
    assert nothing.cases == 0
    assert math.isnan(nothing.p)
    assert (pair.left_out, nothing.left_out) == (2, 3)
    both = np.array([np.nan, 0.5, 0.6])
    assert compare(both, both + 0.1, ["", "", ""]).left_out == 0  # what neither has is no loss of a pair


def test_ranks_and_mean_that_contradict_do_not_hold() -> None:
    """A little better on 34 patients and a failure on 6: the ranks say better, the mean says worse."""
    gains = np.concatenate([np.linspace(0.005, 0.015, 34), np.linspace(-0.32, -0.25, 6)])
    first = np.full(40, 0.9)
    found = compare(first, first + gains, [""] * 40)
    assert found.p < 0.05
    assert found.interval is not None
    assert found.interval[1] < 0
    assert (found.side, np.sign(found.difference)) == (1, -1)
    assert not replace(found, corrected=found.p).holds
    turned = compare(first + gains, first, [""] * 40)
    assert (turned.side, replace(turned, corrected=turned.p).holds) == (-1, False)


def test_the_side_is_that_of_scipys_ranks() -> None:
    from scipy.stats import wilcoxon

    rng = np.random.default_rng(7)
    for _ in range(50):
        values = np.round(rng.normal(0, 0.02, 9), 2)  # with ties and zeros
        values = values[values != 0]
        above, below = (wilcoxon(values, alternative=side).statistic for side in ("greater", "less"))
        assert above == below  # both are the ranks of the positive
        total = len(values) * (len(values) + 1) / 2
        assert signed_rank_side([*values, 0.0]) == np.sign(2 * above - total)
    assert signed_rank_side([0.0]) == 0
