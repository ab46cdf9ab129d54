"""Several evaluations, and a threshold, in one table."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.cli import main
from medseg.data.datalist import Datalist, DatalistError
from medseg.studies.baseline import score_otsu
from medseg.studies.comparison import (
    ComparisonError,
    Method,
    check_same_data,
    load_method,
    otsu_method,
    paired_interval,
    rows_of,
    to_csv,
)


@pytest.fixture
def data(tmp_path: Path) -> Datalist:
    """Four pictures with two bright squares each; in the label of the first, one square is missing."""
    rows = []
    for number in range(4):
        instances = np.zeros((20, 30), np.uint16)
        instances[2:8, 3:9], instances[10:18, 15:23] = 1, 2
        label = (instances > 0).astype(np.uint8)
        image = np.stack([label * 180 + 20] * 3, -1)
        if number == 0:
            label[instances == 2] = 0
            instances[instances == 2] = 0
        for key, pixels in (("image", image), ("label", label), ("instances", instances)):
            Image.fromarray(pixels).save(tmp_path / f"{key}_{number}.png")
        rows.append({k: f"{k}_{number}.png" for k in ("image", "label", "instances")})
        rows[-1] |= {"group": str(number), "fold": number}  # type: ignore[dict-item]
    content: dict[str, Any] = {
        "name": "squares", "version": 1, "modality": ["none"], "licence": "CC0-1.0", "source": "drawn by the tests",
        "labels": {"0": "none", "1": "square"}, "ignore_index": None, "training": rows, "validation": [], "test": [],
    }  # fmt: skip
    (tmp_path / "datalist.json").write_text(json.dumps(content))
    return Datalist.load(tmp_path / "datalist.json")


def evaluation(folder: Path, data: Datalist, **record: Any) -> Path:
    scores = score_otsu(data, data.split(0)[2], instances={"method": "components", "min_size": 0})
    folder.mkdir()
    (folder / "scores.json").write_text(json.dumps(scores))
    held = {
        "fingerprint": data.fingerprint(),
        "split": "test",
        "fold_key": "fold",
        "fold": 0,
        "validation_fold": "next",
    }
    (folder / "data.json").write_text(json.dumps({**held, **record}))
    return folder


def test_otsu_by_hand(data: Datalist) -> None:
    """Of 36 + 64 bright pixels 36 are labelled: IoU 0.36; one of two found squares is there: AP 1 / 2."""
    scores = score_otsu(data, data.split(0)[2], instances={"method": "components", "min_size": 0})
    assert scores["classes"][1]["iou"] == pytest.approx(0.36)
    assert scores["classes"][1]["recall"] == 1
    assert scores["classes"][0]["iou"] == pytest.approx(500 / 564)
    assert scores["instances"]["per_image"]["average_precision"] == 0.5
    clean = score_otsu(data, data.split(1)[2])
    assert clean["mean_iou"] == 1
    assert "instances" not in clean
    assert score_otsu(data, data.split(1)[2], foreground="dark")["mean_iou"] == 0


def test_otsu_needs_two_classes_and_images(data: Datalist) -> None:
    with pytest.raises(DatalistError, match="the split holds no images"):
        score_otsu(data, [])
    three = Datalist(**{**vars(data), "labels": {0: "a", 1: "b", 2: "c"}})
    with pytest.raises(DatalistError, match="has 3 classes, but a threshold tells two apart"):
        score_otsu(three, three.split(0)[2])


def test_table(data: Datalist, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = evaluation(tmp_path / "mine", data)
    assert main(["compare", str(folder), "--otsu", str(data.path), "--format", "csv"]) == 0
    otsu, mine = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert (otsu.pop("method"), mine.pop("method")) == ("Otsu's threshold (minority)", "mine")
    assert otsu.pop("AP above the first (95 %)") == "-"
    assert mine.pop("AP above the first (95 %)") == "+0.000 (+0.000 to +0.000)"
    assert otsu == mine
    assert float(mine["IoU square"]) == pytest.approx(0.36)
    assert float(mine["AP 0.5"]) == 0.5
    assert main(["compare", str(folder)]) == 0
    assert "0.360" in capsys.readouterr().out
    assert main(["compare", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["F1 0.5"] == pytest.approx(2 / 3)
    assert main(["compare", str(folder), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| method | IoU none |")


def test_paired_interval() -> None:
    """Against the normal approximation of many images, and where every image says the same."""
    generator = np.random.default_rng(3)
    first = generator.uniform(0, 1, 400)
    gains = generator.normal(0.05, 0.2, 400)
    mean, low, high = paired_interval(first, first + gains)
    error = gains.std() / 20
    assert mean == pytest.approx(gains.mean())
    assert (low, high) == pytest.approx((mean - 1.96 * error, mean + 1.96 * error), abs=error / 10)
    assert paired_interval([0.1, 0.5], [0.2, 0.6]) == pytest.approx((0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="2 and 3 images cannot be paired"):
        paired_interval([0.1, 0.2], [0.1, 0.2, 0.3])


def test_only_the_same_data_stand_in_one_table(data: Datalist, tmp_path: Path) -> None:
    one, other = evaluation(tmp_path / "one", data), evaluation(tmp_path / "other", data, fold=1)
    with pytest.raises(ComparisonError, match="one and other were scored on different data: fold is 0 and 1"):
        check_same_data([load_method(one), load_method(other)])
    (tmp_path / "image_3.png").write_bytes(b"0")
    with pytest.raises(ComparisonError, match="is not the data that one was scored on"):
        otsu_method([load_method(one)], data.path)


def test_no_evaluation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path)]) == 2
    assert "holds no evaluation" in capsys.readouterr().err


def test_undefined_is_a_dash_in_text_and_methods_may_differ_in_columns() -> None:
    row = {"name": "a", "iou": None, "dice": None, "precision": None, "recall": None}
    three = Method("m", {"classes": [row] * 3, "mean_iou": 0.5, "pixel_accuracy": 0.25, "mean_accuracy": None}, {})
    expected = ["method,IoU a,mean IoU,pixel accuracy,mean accuracy", "m,-,0.5,0.25,-"]
    assert to_csv(rows_of([three])).splitlines() == expected
