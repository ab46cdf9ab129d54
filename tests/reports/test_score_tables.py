"""The tables of an evaluation."""

import csv
import io

import pytest

from medseg.reports.score_tables import long_table, meanings, per_case_tables, pooled_table, score_tables


def row(name, iou, dice, precision, recall, support):
    return {"name": name, "iou": iou, "dice": dice, "precision": precision, "recall": recall, "support": support}


def of_cases(name, iou, dice, n):
    within = {"iou": None, "dice": None if dice is None or n < 5 else [dice - 0.05, dice + 0.04]}
    return {"name": name, "iou": iou, "dice": dice, "n": {"iou": n, "dice": n}, "interval": within}


@pytest.fixture
def scores():
    return {
        "averaging": "pooled over all pixels",
        "classes": [
            row("membrane", 0.5123, 0.6775, 0.7, 0.65, 1_234_567),
            row("glia|extra", 0.0, 0.0, 0.0, 0.0, 42),
            row("void", None, None, None, None, 0),
        ],
        "mean_iou": 0.25615,
        "mean_dice": 0.33875,
        "mean_precision": 0.35,
        "mean_recall": 0.325,
        "accuracy": 0.9,
        "mean_accuracy": 0.325,
        "frequency_weighted_iou": 0.5,
        "absent": ["void"],
        "notes": ["glia|extra: never predicted (precision 0)"],
        "per_case": {
            "averaging": "mean over 8 cases",
            "cases": 8,
            "rule": "the rule",
            "columns": {"overlap": ["iou", "dice"], "loss": []},
            "units": {},
            "notes": {"overlap": [], "loss": []},
            "bootstrap": {"note": "the draws"},
            "mean_interval": {"iou": None, "dice": [0.4, 0.5]},
            "classes": [
                of_cases("membrane", 0.6, 0.7, 8), of_cases("glia|extra", 0.1, 0.2, 3), of_cases("void", None, None, 0)
            ],
            "mean_iou": 0.35,
            "mean_dice": 0.45,
            "whole": {"accuracy": {"mean": 0.85, "n": 8, "interval": [0.8, 0.9]}},
        },
    }  # fmt: skip


def test_pooled(scores):
    assert pooled_table(scores).to_text().splitlines() == [
        "pooled over all pixels",
        "class                      IoU    Dice  precision  recall    support",
        "----------------------  ------  ------  ---------  ------  ---------",
        "membrane                 0.512   0.677      0.700   0.650  1,234,567",
        "glia|extra               0.000   0.000      0.000   0.000         42",
        "void                    absent  absent     absent  absent          0",
        "----------------------  ------  ------  ---------  ------  ---------",
        "mean of 2 classes        0.256   0.339      0.350   0.325  1,234,609",
        "pixel accuracy                                      0.900",
        "frequency-weighted IoU   0.500",
        "glia|extra: never predicted (precision 0)",
    ]


def test_means_over_cases_say_how_many_and_by_which_rule(scores):
    scores["beside_paper"] = "per_case"
    (table,) = per_case_tables(scores)
    assert table.to_text().splitlines() == [
        "mean over 8 cases, as the paper's figures are",
        "class               IoU                   Dice                  n",
        "------------------  --------------------  --------------------  -",
        "membrane            0.600                 0.700 [0.650, 0.740]  8",
        "glia|extra          0.100                 0.200                 3",
        "void                absent                absent                0",
        "------------------  --------------------  --------------------  -",
        "mean of 2 classes   0.350                 0.450 [0.400, 0.500]  8",
        "accuracy of a case  0.850 [0.800, 0.900]                        8",
        "the rule",
        "the draws",
    ]
    assert pooled_table(scores).title == "pooled over all pixels"
    scores["beside_paper"] = "pooled"
    assert pooled_table(scores).title == "pooled over all pixels, as the paper's figures are"
    assert len(score_tables(scores)) == 2


def test_accuracy_is_no_iou(scores):
    """It stood in the first column, under the heading of another score; over all pixels it is the recall."""
    held = scores["per_case"]
    held["columns"]["overlap"], held["mean_interval"]["recall"], held["mean_recall"] = ["iou", "recall"], None, 0.8
    for line in held["classes"]:
        line["recall"], line["n"]["recall"], line["interval"]["recall"] = 0.8, line["n"]["iou"], None
    (table,) = per_case_tables(scores)
    assert table.rows[-1] == ["accuracy of a case", "", "0.850 [0.800, 0.900]", 8]


def test_headings_are_explained_where_they_stand(scores):
    assert [text.split(":")[0] for text in meanings(scores)] == ["IoU", "Pooled"]
    scores["per_case"]["columns"]["distances"] = ["hd95"]
    assert [text.split(":")[0] for text in meanings(scores)] == ["IoU", "HD95", "Pooled"]


def test_each_score_has_a_table_with_its_unit_and_its_rule(scores):
    held = scores["per_case"]
    held["columns"]["distances"], held["units"] = ["hd95"], {"hd95": "mm"}
    held["notes"]["distances"] = ["what a miss costs"]
    held["mean_interval"]["hd95"], held["mean_hd95"] = None, 7.0
    for line, value, number, missed in zip(held["classes"], (None, 7.0, None), (0, 3, 0), (0, 2, 0), strict=True):
        line |= {"hd95": value, "missed": missed, "invented": 0}
        line["n"]["hd95"], line["interval"]["hd95"] = number, [6.0, 8.0] if value else None
    first, second = per_case_tables(scores)
    assert first.columns == ["class", "IoU", "Dice", "n", "missed", "invented"]
    assert second.to_text().splitlines()[1:] == [
        "class            HD95 (mm)             n  missed  invented",
        "---------------  --------------------  -  ------  --------",
        "membrane         -                     0       0         0",  # the score leaves it out
        "glia|extra       7.000 [6.000, 8.000]  3       2         0",
        "void             absent                0       0         0",
        "---------------  --------------------  -  ------  --------",
        "mean of 1 class  7.000                 8       2         0",
        "what a miss costs",
    ]
    line = next(csv.DictReader(io.StringIO(long_table(scores).to_csv())))
    assert {"hd95_mm", "hd95_low", "hd95_high"} <= set(line)


def test_long_table_has_both_with_all_digits(scores):
    scores["mean_iou"] = 1 / 3
    rows = list(csv.DictReader(io.StringIO(long_table(scores).to_csv())))
    keys = [(line["averaging"], line["class"]) for line in rows]
    pooled, means = "pooled over all pixels", "mean over cases"
    names = ["membrane", "glia|extra", "void", "(mean or overall)"]
    assert keys == [(pooled, name) for name in names] + [(means, name) for name in names]
    assert float(rows[3]["iou"]) == 1 / 3
    assert rows[3]["accuracy"] == "0.9"
    assert [rows[index]["n"] for index in (4, 5, 6)] == ["8", "3", "0"]
    assert rows[2]["iou"] == ""
    assert rows[0]["support"] == "1234567"


@pytest.fixture
def with_boundary(scores):
    values = [0.75, None, None]  # glia fills its images: no boundary
    for line, value in zip(scores["classes"], values, strict=True):
        support = line.pop("support")
        line |= {"support": support, "boundary_f": value}
    scores["mean_boundary_f"] = 0.75
    scores["notes"] = []
    scores["boundary"] = {"absent": ["glia|extra", "void"], "tolerance_pixels": [2.7, 5.41]}
    return scores


def test_boundary_scores_are_a_column_and_name_their_tolerance(with_boundary):
    lines = pooled_table(with_boundary).to_text().splitlines()
    assert lines[1].split()[-3:] == ["boundary", "F", "support"]
    assert lines[3].split() == ["membrane", "0.512", "0.677", "0.700", "0.650", "0.750", "1,234,567"]
    assert lines[4].split() == ["glia|extra", "0.000", "0.000", "0.000", "0.000", "absent", "42"]
    assert lines[7].split()[-2:] == ["0.750", "1,234,609"]
    assert lines[-1] == "boundary F within 2.7 to 5.4 px"
    with_boundary["boundary"]["tolerance_pixels"] = [5.41, 5.44]
    assert pooled_table(with_boundary).notes == ("boundary F within 5.4 px",)
    with_boundary["boundary"]["tolerance_pixels"] = None
    assert pooled_table(with_boundary).notes == ()


def test_absent_is_never_a_number(scores):
    scores["classes"][2].update(iou=1.0, dice=1.0, precision=0.0, recall=0.0)
    table = pooled_table(scores)
    for text in (table.to_text(), table.to_markdown()):
        (line,) = [line for line in text.splitlines() if "void" in line]
        assert line.count("absent") == 4


def test_all_absent(scores):
    scores["classes"] = scores["classes"][2:]
    scores |= dict.fromkeys(("mean_iou", "mean_dice", "mean_precision", "mean_recall", "accuracy"))
    assert "mean of 0 classes            -" in pooled_table(scores).to_text()


@pytest.fixture
def with_background(scores):
    """The first class is the background; the others have 0.0 pooled and 0.2 over the cases."""
    for held in (scores, scores["per_case"]):
        held["classes"][0]["name"] = "background"
    scores["without_background"] = dict.fromkeys(("mean_iou", "mean_dice", "mean_precision", "mean_recall"), 0.0)
    scores["per_case"]["without_background"] = {
        "mean_iou": 0.1, "mean_dice": 0.2, "mean_interval": {"iou": None, "dice": [0.15, 0.24]},
    }  # fmt: skip
    return scores


def test_each_mean_says_whether_the_background_counts(with_background):
    """First the mean that a background cannot flatter; beside a paper's pooled figures, which count it, the other."""
    pooled, cases = score_tables(with_background)
    assert [row[:3] for row in pooled.rows[3:5]] == [
        ["mean of 1 class, without background", 0.0, 0.0],
        ["mean of 2 classes, background included", 0.25615, 0.33875],
    ]
    assert [row[-1] for row in pooled.rows[3:5]] == [42, 1_234_609]
    assert [row[0] for row in cases.rows[3:5]] == [row[0] for row in pooled.rows[3:5]]
    assert [row[2] for row in cases.rows[3:5]] == ["0.200 [0.150, 0.240]", "0.450 [0.400, 0.500]"]
    lines = list(csv.DictReader(io.StringIO(long_table(with_background).to_csv())))
    assert [line["dice"] for line in lines if line["class"] == "(mean without background)"] == ["0.0", "0.2"]
    with_background["beside_paper"] = "pooled"
    assert pooled_table(with_background).rows[3][0] == "mean of 2 classes, background included"
    with_background["beside_paper"] = "per_case"
    assert pooled_table(with_background).rows[3][0] == "mean of 1 class, without background"


def test_a_score_that_leaves_the_background_out_has_one_mean_and_signed_errors_none(with_background):
    held = with_background["per_case"]
    held["columns"]["volumes"], held["units"] = ["volume_difference", "absolute_volume_difference"], {}
    held["notes"]["volumes"], held["signed"] = [], ["volume_difference"]
    for means in (held, held["without_background"]):
        means["mean_interval"]["absolute_volume_difference"] = None
        means["mean_absolute_volume_difference"] = 2.0
    for line, value, number in zip(held["classes"], (None, -2.0, None), (0, 3, 0), strict=True):
        line |= {"volume_difference": value, "absolute_volume_difference": None if value is None else -value}
        for column in ("volume_difference", "absolute_volume_difference"):
            line["n"][column], line["interval"][column] = number, None
    table = per_case_tables(with_background)[1]
    assert table.rows[3:] == [["mean of 1 class, without background", "", 2.0, 8]]
