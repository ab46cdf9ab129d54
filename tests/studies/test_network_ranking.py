"""Who is first, how sure that is, and what is said of it: by scores that are made up."""

import math
from dataclasses import replace

import numpy as np
import pytest

from medseg.metrics.intervals import LEAST_GROUPS, RESAMPLES, SEED
from medseg.studies.network_ranking import Place, places, ranking, verdict
from medseg.studies.study import Study, StudyRow
from medseg.studies.study_scores import MEAN, Case, Scores
from medseg.studies.study_table import StudyTable

RNG = np.random.default_rng(1)
BASE = RNG.uniform(0.5, 0.8, 20)


def table(groups: int = 20, **rows: object) -> StudyTable:
    """Return the table of networks with one value a case, in so many groups."""
    values = {(row, "dice", MEAN): np.asarray(each, np.float64)[None] for row, each in rows.items()}
    number = next(iter(values.values())).shape[1]
    cases = [Case(case % 2, case // 2, f"case {case}", f"g{case % groups}") for case in range(number)]
    scores = Scores(list(rows), (0,), {"dice": "dice"}, ("a",), cases, number, values, {}, frozenset())
    return StudyTable(Study("s", "Made up", tuple(StudyRow(row, "b") for row in rows)), scores)


def test_the_order_is_that_of_the_means() -> None:
    found = places(table(low=BASE - 0.2, high=BASE, middle=BASE - 0.1))
    assert [(each.rank, each.network) for each in found] == [(1, "high"), (2, "middle"), (3, "low")]
    assert [each.mean for each in found] == pytest.approx([BASE.mean(), BASE.mean() - 0.1, BASE.mean() - 0.2])
    assert [each.ranks for each in found] == [(1, 1), (2, 2), (3, 3)]  # by as much in every case


def test_ranks_are_those_of_draws_of_groups() -> None:
    """As drawn one by one: every case of a group is in as often as the group."""
    rows = {name: BASE + RNG.normal(0, 0.05, 20) for name in ("one", "two", "three")}
    groups = 7
    random = np.random.default_rng(SEED)
    drawn: list[dict[str, int]] = []
    for times in random.multinomial(groups, np.full(groups, 1 / groups), RESAMPLES):
        weights = times[np.arange(20) % groups]
        means = {name: np.average(each, weights=weights) for name, each in rows.items()}
        drawn.append({name: 1 + sum(other > mean for other in means.values()) for name, mean in means.items()})
    for each in places(table(groups, **rows)):
        of_draws = sorted(ranks[each.network] for ranks in drawn)
        low, high = of_draws[math.ceil(0.025 * RESAMPLES) - 1], of_draws[math.ceil(0.975 * RESAMPLES) - 1]
        assert each.ranks == (low, high)


def test_a_network_that_learned_nothing_is_named() -> None:
    made = table(high=BASE, low=BASE - 0.1)
    assert "learned nothing" not in verdict(made, places(made))
    scores = replace(made.scores, unlearned={"low": ["low-fold0-seed0: the network predicts class 'a' everywhere"]})
    told = StudyTable(made.study, scores)
    assert "But low learned nothing in a training or more: compare with more minutes. Its lead" in (
        verdict(told, places(told))
    )
    assert (
        "low has learned nothing in 1 of its 2 trainings, so that its scores say little of it: low-fold0-seed0: "
        in ("\n".join(told.main().notes))
    )


def test_cases_that_a_network_lacks_are_counted() -> None:
    less = np.where(np.arange(20) < 3, np.nan, BASE)
    made = table(high=BASE + 0.1, low=less, lower=BASE - 0.1)
    found = places(made)
    assert [each.left_out for each in found] == [3, 3, 3]
    assert "(of 17 cases; 3 that one of the two has no Dice of are left out), holds" in verdict(made, found)
    assert "ranks leave out 3 cases that some network has no Dice of" in ranking(found, [], [], "1 minute").notes
    whole = table(high=BASE + 0.1, low=BASE)
    assert "left out" not in verdict(whole, places(whole))
    assert len(ranking(places(whole), [], [], "1 minute").notes) == 1


def test_a_lead_that_the_ranks_contradict_does_not_hold() -> None:
    rows = 40
    gains = np.concatenate([np.linspace(0.005, 0.015, 34), np.linspace(-0.32, -0.25, 6)])
    made = table(rows, steady=np.full(rows, 0.9), often=0.9 + gains)
    said = verdict(made, places(made))
    assert "steady is first" in said
    assert "does not hold" in said
    assert "by their ranks most groups say the opposite of the mean" in said


def test_equal_networks_share_a_rank_and_too_few_groups_have_no_interval() -> None:
    found = places(table(LEAST_GROUPS - 1, one=BASE, two=BASE, three=BASE - 0.1))
    assert [each.rank for each in found] == [1, 1, 3]
    assert all(each.ranks is None and each.interval is None for each in found)


def test_a_network_without_a_score_is_last() -> None:
    found = places(table(none=np.full(20, np.nan), some=BASE))
    assert [(each.rank, each.network) for each in found] == [(1, "some"), (2, "none")]
    assert "nothing can be said" in verdict(table(none=np.full(20, np.nan)), places(table(none=np.full(20, np.nan))))


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_a_lead_that_holds(names: tuple[str, str]) -> None:
    """Whichever comes first in the study."""
    values = {"a": BASE + 0.1 + RNG.normal(0, 0.01, 20), "b": BASE}
    made = table(**{name: values[name] for name in names})
    said = verdict(made, places(made))
    assert said.startswith(f"a is first: mean Dice {values['a'].mean():.3f} [")
    gain = (values["a"] - BASE).mean()
    assert f"Its lead over b, {gain:.3f} [0.0" in said
    assert said.endswith("holds (p < 0.001).")
    assert "not hold" not in said


def test_a_lead_that_does_not_hold_is_said_plainly() -> None:
    made = table(a=BASE + 0.001 + RNG.normal(0, 0.05, 20), b=BASE)
    first = places(made)[0].network
    said = verdict(made, places(made))
    assert said.startswith(f"{first} is first")
    assert "does not hold (p = " in said
    assert "do not tell the two apart" in said
    few = table(3, a=BASE + 0.1, b=BASE)
    assert "does not hold (there are too few groups for an interval)" in verdict(few, places(few))
    alone = table(a=BASE)
    assert "there is nothing to hold it against" in verdict(alone, places(alone))


def test_the_ranking_has_every_network_once() -> None:
    found = places(table(a=BASE, b=BASE - 0.1))
    out = [([Place(3, "c", 0.9)], "rung 2: 4 minutes, fold 1"), ([Place(4, "d", 0.5), Place(5, "e", 0.4)], "rung 1")]
    made = ranking(found, out, [("f", "takes 9 GiB")], "3 folds, 8 minutes each")
    rows = [dict(zip(made.columns, row, strict=True)) for row in made.rows]
    assert [(row["rank"], row["network"]) for row in rows] == [
        ("1 [1, 1]", "a"), ("2 [2, 2]", "b"), ("3", "c"), ("4", "d"), ("5", "e"), (None, "f"),
    ]  # fmt: skip
    assert rows[2]["mean Dice"] == "0.900"  # of its rung, whatever others reached in another
    assert rows[-1]["from"] == "takes 9 GiB"
    assert any("no other length compares" in note for note in made.notes)
