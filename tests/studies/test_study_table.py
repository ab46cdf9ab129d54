"""The table of a study from scores that are made up: means, spreads, bold, notes, and every format."""

import csv
import io
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wilcoxon

from medseg.metrics.intervals import ClusterBootstrap
from medseg.reports.page import Text
from medseg.reports.tables import Strong
from medseg.studies import study_pictures
from medseg.studies.study import Cell, Study, StudyError, StudyRow
from medseg.studies.study_cell import Made
from medseg.studies.study_scores import MEAN, Case, Scores, footnotes
from medseg.studies.study_table import StudyTable

CASES = 24
ROWS = ("weak", "strong", "strong again")
RNG = np.random.default_rng(0)
BASE = RNG.uniform(0.5, 0.8, (2, CASES))
GAINS = {"weak": 0.0, "strong": 0.08, "strong again": 0.081}


def values_of(row: str, sign: float = 1.0) -> np.ndarray[Any, np.dtype[np.float64]]:
    return BASE + sign * GAINS[row] + np.random.default_rng(len(row)).normal(0, 0.02, BASE.shape)


def scores(rows: tuple[str, ...] = ROWS, *, sign: float = 1.0, column: str = "dice", unit: str = "") -> Scores:
    """Two seeds, three folds, a class ``a`` that is the mean less 0.1 and is missing in the first case, and ``b``."""
    values = {}
    for row in rows:
        found = values_of(row, sign)
        values[row, column, MEAN] = found
        values[row, column, "a"] = np.where(np.arange(CASES) == 0, np.nan, found - 0.1)
        values[row, column, "b"] = found + 0.1
    cases = [Case(number % 3, number // 3, f"case {number}", f"g{number}") for number in range(CASES)]
    pooled = {(row, column, MEAN): [0.7, 0.72, 0.74] for row in rows}
    scored: dict[str, dict[str, Any]] = {"hd95": {"distances": {}}, "volume_difference": {"volumes": {}}}.get(
        column, {}
    )
    return Scores(
        rows, (0, 1), {column: f"{column}{unit}"}, ("a", "b"), cases, 30, values, pooled, frozenset({column}), scored
    )  # fmt: skip


def study(rows: tuple[str, ...] = ROWS, **more: Any) -> Study:
    return Study("s", "Made up", tuple(StudyRow(row, bundle="b") for row in rows), seeds=(0, 1), **more)


def test_means_intervals_and_spreads() -> None:
    table = StudyTable(study(), scores())
    (line,) = [
        row
        for row in csv.DictReader(io.StringIO(table.long().to_csv()))
        if (row["row"], row["class"]) == ("strong", "(mean)")
    ]
    both = values_of("strong")
    mean = both.mean(0)
    assert float(line["mean"]) == pytest.approx(mean.mean())
    assert (float(line["low"]), float(line["high"])) == pytest.approx(ClusterBootstrap([""] * CASES).bca(mean))
    folds = [mean[np.arange(CASES) % 3 == fold].mean() for fold in range(3)]
    assert float(line["sd_folds"]) == pytest.approx(np.std(folds, ddof=1))
    assert float(line["sd_seeds"]) == pytest.approx(np.std(both.mean(1), ddof=1))
    assert float(line["pooled"]) == pytest.approx(0.72)
    of_a = next(row for row in csv.DictReader(io.StringIO(table.long().to_csv())) if row["class"] == "a")
    assert of_a["cases"] == str(CASES - 1)


def test_bold_only_where_every_difference_holds() -> None:
    """Two rows that are as good as each other beat the third, and neither is bold; without its twin one is."""
    table = StudyTable(study(), scores())
    assert not any(isinstance(cell, Strong) for row in table.main().rows for cell in row)
    assert table.pairs["weak", "strong", "dice", MEAN].holds
    assert not table.pairs["strong", "strong again", "dice", MEAN].holds
    two = StudyTable(study(ROWS[:2]), scores(ROWS[:2])).main()
    bold = {
        (row[0], column)
        for row in two.rows
        for column, cell in zip(two.columns, row, strict=True)
        if isinstance(cell, Strong)
    }
    assert bold == {("strong", "Dice"), ("strong", "Dice a"), ("strong", "Dice b")}


def test_pictures_show_each_pair_and_those_that_are_not_there_any_more_go(tmp_path: Path) -> None:
    table = StudyTable(study(), scores())
    pictured: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(study_pictures, "differences", lambda panels: pictured.append(panels))
        study_pictures.pictures(table.scores, table.pairs, {"dice": "Dice"}, {})
    (panels,) = pictured
    (pairs,) = panels.values()
    assert [name for name, *_ in pairs] == [f"{b} less {a}" for a, b in combinations(ROWS, 2)]
    np.testing.assert_allclose(pairs[0][1], values_of("strong").mean(0) - values_of("weak").mean(0))
    assert [pair[3] for pair in pairs] == [table.pairs[a, b, "dice", MEAN].holds for a, b in combinations(ROWS, 2)]
    table.write(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["boxes.png", "differences.png"]
    StudyTable(study(ROWS[:1]), scores(ROWS[:1])).write(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["boxes.png"]


def test_a_bar_is_spoken_of_where_one_is_drawn() -> None:
    """Two groups are too few for an interval."""
    whole = scores(ROWS[:2])
    few = replace(whole, cases=[replace(case, group=f"g{number % 2}") for number, case in enumerate(whole.cases)])
    for made, said in ((whole, "the bar its 95 % interval"), (few, "too few groups for an interval")):
        table = StudyTable(study(ROWS[:2]), made)
        drawn = study_pictures.pictures(table.scores, table.pairs, {"dice": "Dice"}, {})
        texts = [item.text for item in study_pictures.items(drawn, table.pairs) if isinstance(item, Text)]
        assert said in texts[1]


def test_of_errors_less_is_better() -> None:
    chosen = study(ROWS[:2], show=("hd95",))
    found = StudyTable(chosen, scores(ROWS[:2], sign=-1, column="hd95", unit="_mm"))
    assert found.stands_out("strong", "hd95", MEAN)
    assert "HD95 a, mm" in found.main().columns
    signed = study(ROWS[:2], show=("volume_difference",))
    table = StudyTable(signed, scores(ROWS[:2], column="volume_difference"))
    assert not table.stands_out("strong", "volume_difference", "a")
    assert table.main().columns == ["", "volume error a", "volume error b"]  # a mean over them would cancel
    assert {line["class"] for line in csv.DictReader(io.StringIO(table.long().to_csv()))} == {"a", "b"}
    assert study_pictures.pictures(table.scores, table.pairs, {}, {}) == {}


def test_tests_are_corrected_together() -> None:
    """Nine tests, of three pairs in three columns: the smallest p is multiplied by nine."""
    table = StudyTable(study(), scores())
    assert len(table.pairs) == 9
    smallest = min(table.pairs.values(), key=lambda pair: pair.p)
    assert smallest.corrected == pytest.approx(9 * smallest.p)
    own = wilcoxon(values_of("strong").mean(0) - values_of("weak").mean(0)).pvalue
    assert table.pairs["weak", "strong", "dice", MEAN].p == pytest.approx(own)


def test_paper_stands_in_columns_of_its_own() -> None:
    rows = (StudyRow("U-Net", bundle="b", paper="3"), StudyRow("mine", bundle="b"))
    made = scores(ROWS[:2], column="iou")
    values = {({"weak": "U-Net", "strong": "mine"}[row], *rest): found for (row, *rest), found in made.values.items()}
    pooled = {(name, "iou", MEAN): [0.5] for name in ("U-Net", "mine")}
    named = Scores(("U-Net", "mine"), (0, 1), {"iou": "iou"}, ("a", "b"), made.cases, 30, values, pooled, made.by_class)
    named = replace(named, data="covid_ct")
    table = StudyTable(Study("s", "t", rows, seeds=(0, 1), paper="lfa_unet_3"), named)
    line = dict(zip(table.main().columns, table.main().rows[0], strict=True))
    assert line["LFA U-Net, table 3: IoU"] == "0.4662"
    assert line["pooled IoU"] == 0.5
    assert dict(zip(table.main().columns, table.main().rows[1], strict=True))["LFA U-Net, table 3: IoU"] is None
    assert json.loads(table.long().to_json())["rows"][0]["printed"] == "0.4662"
    notes = table.main().notes
    assert "LFA U-Net, table 3: printed in per cent, pooled over all pixels; here shares of 1" in notes
    assert not any("of other data" in note for note in notes)
    other = StudyTable(table.study, replace(named, data="my_lungs")).main().notes
    assert any("the printed figures are of covid, ours of 'my_lungs'; they do not compare" in note for note in other)


def test_groups_on_both_sides_of_a_split_are_said() -> None:
    whole = scores(ROWS[:2])
    assert not any("several folds" in note for note in StudyTable(study(ROWS[:2]), whole).main().notes)
    cases = [replace(case, group=f"g{number // 2}") for number, case in enumerate(whole.cases)]
    torn = StudyTable(study(ROWS[:2], fold_key="fold_random"), replace(whole, cases=cases))
    assert "test on the means of 12 groups, two-sided" in torn.tests().notes[0]
    assert "test on the cases, two-sided" in StudyTable(study(ROWS[:2]), whole).tests().notes[0]
    assert "12 groups of fold_random lie in several folds, such as g0: networks saw cases" in "".join(torn.main().notes)
    said = replace(torn, study=replace(torn.study, divides_groups="the paper's protocol"))
    assert "which flatters them (why: the paper's protocol)" in "".join(said.main().notes)


def test_cases_that_one_row_lacks_are_counted() -> None:
    """Of class a the first case has no score anywhere; four more are missing of one row, and one of each is shared."""
    whole = scores()
    assert not any("left out" in each for each in StudyTable(study(), whole).tests().columns)
    assert not any("not of the same cases" in note for note in StudyTable(study(), whole).main().notes)
    values = {key: found.copy() for key, found in whole.values.items()}
    values["weak", "dice", "a"][:, 1:5] = np.nan
    values["strong", "dice", "a"][:, 4:6] = np.nan
    values["strong", "dice", "a"][0, 10] = np.nan  # the other seed has it
    table = StudyTable(study(), replace(whole, values=values))
    pair = table.pairs["weak", "strong", "dice", "a"]
    assert (pair.cases, pair.left_out) == (18, 4)  # 1, 2, 3 and 5; what neither has, 0 and 4, is none
    tests = table.tests()
    lines = [dict(zip(tests.columns, row, strict=True)) for row in tests.rows]
    of_a = {str(line["difference"]): line["left out"] for line in lines if line["of"] == "Dice a"}
    assert of_a == {"strong less weak": 4, "strong again less weak": 4, "strong again less strong": 2}
    assert all(line["left out"] == 0 for line in lines if line["of"] != "Dice a")
    assert any(note.startswith("left out: cases of which one of the two rows has no score") for note in tests.notes)
    said = "Dice a is not of the same cases: of 24 have one weak 19, strong 21, strong again 23; a mean leaves out"
    assert sum(said in note for note in table.main().notes) == 1
    long = list(csv.DictReader(io.StringIO(table.long_tests().to_csv())))
    assert [line["left_out"] for line in long if line["class"] == "a"] == ["4", "4", "2"]


def test_few_groups_are_said_to_decide_little() -> None:
    whole = scores(ROWS[:2])

    def of(number: int) -> StudyTable:
        cases = [replace(case, group=f"g{place % number}") for place, case in enumerate(whole.cases)]
        return StudyTable(study(ROWS[:2]), replace(whole, cases=cases))

    tests = len(of(8).tests().rows)
    assert "of so few it is narrower than it says" in of(8).main().notes[0]
    assert "narrower" not in "".join(StudyTable(study(ROWS[:2]), whole).main().notes)  # 24 cases, each a group
    assert f"of 5 groups no p is below 0.0625, so that none of {tests} tests can hold" in of(5).tests().notes[-1]
    assert all(pair.p >= 0.0625 for pair in of(5).pairs.values())
    assert "can hold" not in "".join(of(12).tests().notes)


def test_every_format_is_written(tmp_path: Path) -> None:
    table = StudyTable(study(ROWS[:2], about="Which & why?"), scores(ROWS[:2]), ["a note"])
    files = table.write(tmp_path)
    written = {path.name: path.read_text(encoding="utf-8") for path in files if path.suffix != ".png"}
    assert written["table.md"].count("**0.") == 4 + 3 - 1  # three means and three differences
    assert "\\textbf{0." in written["table.tex"]
    assert "<strong>0." in written["table.html"]
    assert "Which &amp; why?" in written["table.html"]
    main, tests = json.loads(written["table.json"])
    assert (len(main["rows"]), len(tests["rows"])) == (6, 3)
    assert main["notes"][-1] == "a note"
    assert main["notes"][0].startswith("mean over 24 cases of 30, each scored once, in the fold that held it out")
    lines = list(csv.DictReader(io.StringIO(written["out_of_fold.csv"])))
    assert len(lines) == 2 * 2 * CASES * 3
    assert {(line["case"], line["fold"]) for line in lines} == {(f"case {n}", str(n % 3)) for n in range(CASES)}
    assert len(list(csv.DictReader(io.StringIO(written["tests.csv"])))) == 3


# ---------------------------------------------------------------------------------------------- cells that differ


def made(row: str, **record: Any) -> Made:
    held = {
        "code": {"commit": "c" * 40, "changed": False},
        "recipe": row,
        "data": "d",
        "budget": {"epochs": 3},
        **record,
    }
    return Made(Cell(StudyRow(row, bundle="b"), 0, 0), Path("x"), held)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (
            {"code": {"commit": "e" * 40, "changed": False}},
            "different code .*cccccccccccc .x-fold0.*eeeeeeeeeeee .y-fold0",
        ),
        (
            {"code": {"commit": "c" * 40, "changed": "a" * 64}},
            "different code .*cccccccccccc .x-fold0.*c with uncommitted changes aaaaaaaaaaaa .y-fold0",
        ),
        ({"data": "other"}, "different data .*d .x-fold0-seed0.; other .y-fold0"),
        ({"budget": {"epochs": 4}}, "different budgets .*3 epochs .x-.*4 epochs .y-"),
        ({"budget": {"minutes": 3.0, "on": "a GPU"}}, "different budgets .*3 minutes on a GPU"),
    ],
)
def test_cells_that_differ_are_refused_or_said(other: dict[str, Any], said: str) -> None:
    assert footnotes([made("x"), made("y")], False) == []
    with pytest.raises(StudyError, match=f"cells of {said}.*say --mixed"):
        footnotes([made("x"), made("y", **other)], False)
    note, *_ = footnotes([made("x"), made("y", **other)], True)
    assert note.startswith("cells of different")
    assert "as --mixed allowed" in note


def test_cells_to_come_are_asked_too() -> None:
    now = {**made("x").record, "data": "new"}
    with pytest.raises(StudyError, match=r"different data .*new .the cells to come"):
        footnotes([made("x")], False, now)


def test_recipes_may_differ_between_rows_alone() -> None:
    with pytest.raises(StudyError, match="those of row x were changed between its cells"):
        footnotes([made("x"), made("x", recipe="edited")], False)


def test_changed_code_is_said() -> None:
    changed = {"commit": "c" * 40, "changed": "a" * 64}
    (note,) = footnotes([made("x", code=changed), made("y", code=changed)], False)
    assert "not committed" in note


def test_cells_of_the_same_commit_with_other_changes_are_refused() -> None:
    cells = [made(row, code={"commit": "c" * 40, "changed": row * 64}) for row in "ab"]
    with pytest.raises(StudyError, match=r"different code .*changes aaaaaaaaaaaa \(a-.*changes bbbbbbbbbbbb \(b-"):
        footnotes(cells, False)
