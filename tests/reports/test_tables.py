import csv
import io
import json
import math

import pytest

from medseg.reports.tables import to_csv, to_json, to_markdown, to_text


@pytest.fixture
def scores():
    def row(name, iou, dice, precision, recall, support):
        values = {"iou": iou, "dice": dice, "precision": precision, "recall": recall}
        return {"name": name, **values, "support": support}

    return {
        "classes": [
            row("membrane", 0.5123, 0.6775, 0.7, 0.65, 1_234_567),
            row("glia|extra", 0.0, 0.0, None, 0.0, 42),
            row("void", None, None, None, None, 0),
        ],
        "mean_iou": 0.25615,
        "mean_dice": 0.33875,
        "pixel_accuracy": 0.9,
        "mean_accuracy": 0.325,
        "frequency_weighted_iou": 0.5,
        "absent": ["void"],
    }


def test_text(scores):
    assert to_text(scores).splitlines() == [
        "class                      IoU    Dice  precision  recall    support",
        "----------------------  ------  ------  ---------  ------  ---------",
        "membrane                 0.512   0.677      0.700   0.650  1,234,567",
        "glia|extra               0.000   0.000          -   0.000         42",
        "void                    absent  absent     absent  absent          0",
        "----------------------  ------  ------  ---------  ------  ---------",
        "mean of 2 classes        0.256   0.339              0.325  1,234,609",
        "pixel accuracy                                      0.900",
        "mean accuracy                                       0.325",
        "frequency-weighted IoU   0.500",
    ]


def test_markdown(scores):
    lines = to_markdown(scores, digits=2).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[3] == "| glia\\|extra | 0.00 | 0.00 | - | 0.00 | 42 |"
    assert lines[4] == "| void | absent | absent | absent | absent | 0 |"
    assert lines[5] == "| **mean of 2 classes** | **0.26** | **0.34** |  | **0.33** | **1,234,609** |"
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_csv_keeps_all_digits(scores):
    scores["mean_iou"] = 1 / 3
    rows = list(csv.DictReader(io.StringIO(to_csv(scores))))
    assert [row["class"] for row in rows] == [
        "membrane",
        "glia|extra",
        "void",
        "mean",
        "pixel accuracy",
        "mean accuracy",
        "frequency-weighted IoU",
    ]
    assert float(rows[3]["iou"]) == 1 / 3
    assert rows[2]["iou"] == "absent"
    assert rows[0]["support"] == "1234567"


@pytest.fixture
def with_boundary(scores):
    rows = [("membrane", 0.75, 1), ("glia|extra", None, 0), ("void", None, 0)]  # glia fills its images: no boundary
    scores["boundary"] = {
        "classes": [{"name": name, "f_score": f_score, "support": support} for name, f_score, support in rows],
        "mean_f_score": 0.75,
        "absent": ["glia|extra", "void"],
        "tolerance": 0.0075,
        "tolerance_pixels": [2.7, 5.41],
    }
    return scores


def test_boundary_scores_are_a_column_and_name_their_tolerance(with_boundary):
    lines = to_text(with_boundary).splitlines()
    assert lines[0].split()[-3:] == ["boundary", "F", "support"]
    assert lines[2].split() == ["membrane", "0.512", "0.677", "0.700", "0.650", "0.750", "1,234,567"]
    assert lines[3].split() == ["glia|extra", "0.000", "0.000", "-", "0.000", "absent", "42"]
    assert lines[-1].split("  ", 1)[0] == "boundary F within 2.7 to 5.4 px"
    assert lines[-1].split()[-1] == "0.750"
    column = lines[0].index("boundary F") + len("boundary F")
    assert [line[:column].split()[-1] for line in (lines[2], lines[4], lines[-1])] == ["0.750", "absent", "0.750"]
    rows = to_markdown(with_boundary, digits=2).splitlines()
    assert rows[-1] == "| **boundary F within 2.7 to 5.4 px** |  |  |  |  | **0.75** |  |"
    assert len({row.replace("\\|", "").count("|") for row in rows}) == 1
    table = list(csv.DictReader(io.StringIO(to_csv(with_boundary))))
    assert [row["boundary_f"] for row in table] == ["0.75", "absent", "absent", "", "", "", "", "0.75"]
    assert table[0]["support"] == "1234567"


def test_one_tolerance_and_none(with_boundary):
    with_boundary["boundary"] |= {"tolerance_pixels": [5.41, 5.44], "mean_f_score": None}
    assert to_text(with_boundary).splitlines()[-1].split() == ["boundary", "F", "within", "5.4", "px", "-"]
    with_boundary["boundary"]["tolerance_pixels"] = None
    assert to_text(with_boundary).splitlines()[-1].split() == ["boundary", "F", "-"]


def test_json(scores):
    scores["mean_dice"] = math.nan
    assert json.loads(to_json(scores)) == {**scores, "mean_dice": None}


def test_absent_is_never_a_number(scores):
    scores["classes"][2].update(iou=1.0, dice=1.0, precision=0.0, recall=0.0)
    for table in (to_text(scores), to_markdown(scores), to_csv(scores)):
        (line,) = [line for line in table.splitlines() if "void" in line]
        assert line.count("absent") == 4


def test_all_absent(scores):
    scores["classes"] = scores["classes"][2:]
    scores |= dict.fromkeys(("mean_iou", "mean_dice", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"))
    assert "mean of 0 classes            -" in to_text(scores)
