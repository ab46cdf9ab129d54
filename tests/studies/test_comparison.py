"""Several evaluations, and a threshold, in one table."""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.stats import bootstrap

from medseg.cli import main
from medseg.data.datalist import Datalist, DatalistError
from medseg.reports.score_tables import WHOLE, score_tables
from medseg.studies.baseline import score_otsu
from medseg.studies.comparison import (
    ComparisonError,
    Method,
    check_same_data,
    load_method,
    otsu_method,
    rows_of,
    table_of,
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
    scores = score_otsu(data, data.split(0)[2], scores={"instances": {"method": "components", "min_size": 0}}).scores
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
    scores = score_otsu(data, data.split(0)[2], scores={"instances": {"method": "components", "min_size": 0}}).scores
    assert scores["classes"][1]["iou"] == pytest.approx(0.36)
    assert scores["classes"][1]["recall"] == 1
    assert scores["classes"][0]["iou"] == pytest.approx(500 / 564)
    assert scores["instances"]["per_image"]["average_precision"] == 0.5
    clean = score_otsu(data, data.split(1)[2]).scores
    assert clean["mean_iou"] == 1
    assert "instances" not in clean
    assert score_otsu(data, data.split(1)[2], foreground="dark").scores["mean_iou"] == 0


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
    gains = ("AP above the first", "at least (95 %)", "at most (95 %)")
    assert [otsu.pop(name) for name in gains] == ["", "", ""]
    assert [mine.pop(name) for name in gains] == ["0.0", "", ""]  # one image has no interval
    assert otsu == mine
    assert float(mine["IoU square"]) == pytest.approx(0.36)
    assert float(mine["AP 0.5"]) == 0.5
    assert main(["compare", str(folder)]) == 0
    assert "0.360" in capsys.readouterr().out
    assert main(["compare", str(folder), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["F1 0.5"] == pytest.approx(2 / 3)
    assert main(["compare", str(folder), "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| method | IoU none |")


def scored(values: Any, groups: Sequence[str] = (), name: str = "b") -> Method:
    """Return a method with nothing but the average precision of each image."""
    per_image = {"average_precision": float(np.mean(values)), "f1": 0.5}
    instances = {"thresholds": [{"threshold": 0.5, "per_image": per_image}], "per_image": per_image}
    classes = [{"name": each, "iou": 0.5} for each in "xyz"]
    scores = {"classes": classes, **dict.fromkeys(("mean_iou", "accuracy", "mean_accuracy"), 0.5)}
    scores["instances"] = {**instances, "image_average_precision": list(values)}
    return Method(name, scores, {}, groups=groups)


def test_the_interval_of_a_gain_is_a_study_s() -> None:
    """Of a skewed gain, whole groups drawn: as scipy's own BCa over the groups' means, all groups of one size."""
    random = np.random.default_rng(3)
    first = random.uniform(0, 0.5, 60)
    gains = np.repeat(random.exponential(0.1, 20), 3) + random.normal(0, 0.001, 60)
    groups = [f"patient {number // 3}" for number in range(60)]
    (_, row) = rows_of([scored(first, name="a"), scored(first + gains, groups)])
    low, high = row["at least (95 %)"], row["at most (95 %)"]
    assert row["AP above the first"] == pytest.approx(gains.mean())
    found = bootstrap((gains.reshape(20, 3).mean(1),), np.mean, n_resamples=20_000, method="BCa", rng=1)
    reference = found.confidence_interval
    assert (low, high) == pytest.approx((reference.low, reference.high), abs=0.1 * (reference.high - reference.low))
    assert high - gains.mean() > 1.1 * (gains.mean() - low)  # which a percentile interval hardly shows
    (_, alone) = rows_of([scored(first, name="a"), scored(first + gains)])
    assert alone["at most (95 %)"] - alone["at least (95 %)"] < 0.8 * (high - low)  # images for themselves
    note = table_of([row]).notes[0]
    assert "BCa bootstrap, 2,000 draws of groups (of images where none is known), none of fewer than 5" in note
    (_, few) = rows_of([scored(first[:12], name="a"), scored(first[:12], groups[:12])])
    assert (few["AP above the first"], few["at least (95 %)"]) == (0, None)
    with pytest.raises(
        ComparisonError, match="a and b have average precisions of 2 and 3 images and groups of 3, which"
    ):
        rows_of([scored(first[:2], name="a"), scored(first[:3])])


def test_images_that_one_lacks_are_counted() -> None:
    """An image without objects has an average precision where some were found there, and none where none were."""
    nan = float("nan")
    first, second = scored([0.5, nan, 0.3, nan], name="a"), scored([0.6, 0.0, nan, nan])
    (row_, row) = rows_of([first, second])
    assert row["AP above the first"] == pytest.approx(0.1)
    assert row["images that one lacks"] == 2
    (_, whole) = rows_of([first, scored([0.6, nan, 0.2, nan])])
    assert "images that one lacks" not in {*row_, *whole}


def test_groups_are_those_of_the_cases(data: Datalist, tmp_path: Path) -> None:
    folder = evaluation(tmp_path / "mine", data)
    rows = [{"case": "1", "group": "p", "class": WHOLE}, {"case": "1", "group": "p", "class": "square"}]
    rows += [{"case": "2", "group": "", "class": WHOLE}]
    with (folder / "scores_per_case.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert load_method(folder).groups == ["p", ""]
    assert otsu_method([load_method(folder)], data.path).groups == ["0"]
    assert "AP above" not in table_of(rows_of([load_method(folder)])).to_text()


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


def test_undefined_is_empty_and_methods_may_differ_in_columns() -> None:
    row = {"name": "a", "iou": None, "dice": None, "precision": None, "recall": None}
    scores = {"classes": [row] * 3, "mean_iou": 0.5, "accuracy": 0.25, "mean_accuracy": None}
    three, other = Method("m", scores, {}), Method("=n", scores, {}, {"network": {"name": "U-Net", "parameters": 1234}})
    expected = ["method,IoU a,mean IoU,accuracy,mean accuracy", "m,,0.5,0.25,"]
    assert table_of(rows_of([three])).to_csv().splitlines() == expected
    both = table_of(rows_of([three, other]))
    assert [line.split(",")[:3] for line in both.to_csv().splitlines()] == [
        ["method", "network", "parameters"],
        ["m", "", ""],
        ["'=n", "U-Net", "1234"],
    ]
    assert both.to_text().splitlines()[3].split()[:3] == ["=n", "U-Net", "1,234"]


@pytest.mark.parametrize(("names", "said"), [
    (("background", "a"), "means over classes count background; Dice, precision, recall and scores per case are of a"),
    (("background", "a", "b"), "means over classes count background"),
    (("a", "b"), None),
])  # fmt: skip
def test_a_table_says_whether_the_background_counts(names: tuple[str, ...], said: str | None) -> None:
    classes = [{"name": name, "iou": 0.5, "dice": 0.6, "precision": 0.7, "recall": 0.8} for name in names]
    per_case = {"classes": classes, "mean_iou": 0.1, "mean_dice": 0.2}
    scores = {"classes": classes, "mean_iou": 0.5, "accuracy": 0.25, "mean_accuracy": 0.4, "per_case": per_case}
    table = table_of(rows_of([Method("m", scores, {})]))
    assert list(table.notes) == ([] if said is None else [said])


def test_means_over_images_are_other_numbers(real_data: Path, tmp_path: Path) -> None:
    """Otsu's threshold on 20 skin lesions: pooled Dice / Jaccard 0.699 / 0.537, per image 0.626 / 0.509.

    FocusNet++'s table 1 can only hold means over images: from one confusion matrix J = D / (2 - D).
    """
    source = real_data / "isic2018_task1_256"
    rows = []
    for image in sorted((source / "ISIC2018_Task1-2_Training_Input").glob("*.jpg")):
        label = source / "ISIC2018_Task1_Training_GroundTruth" / f"{image.stem}_segmentation.png"
        with Image.open(label) as mask:
            Image.fromarray((np.array(mask) > 127).astype(np.uint8)).save(tmp_path / label.name)
        rows.append({"image": str(image), "label": str(tmp_path / label.name), "group": image.stem})
    assert len(rows) == 20
    data = Datalist(
        name="isic", version=1, modality=("dermoscopy",), licence="ISIC", source="", labels={0: "skin", 1: "lesion"},
        training=[{"image": "a.jpg", "label": "a.png", "group": "a"}], path=tmp_path / "datalist.json",
    )  # fmt: skip
    scores = score_otsu(data, rows).scores
    pooled, each = scores["classes"][1], scores["per_case"]["classes"][1]
    assert (pooled["dice"], pooled["iou"]) == pytest.approx((0.699, 0.537), abs=5e-4)
    assert (each["dice"], each["iou"]) == pytest.approx((0.626, 0.509), abs=5e-4)
    assert pooled["iou"] == pytest.approx(pooled["dice"] / (2 - pooled["dice"]))
    assert each["n"]["dice"] == 20
    text = "\n".join(table.to_text() for table in score_tables({**scores, "beside_paper": "per_case"}))
    assert "pooled over all pixels\n" in text
    assert "mean over 20 cases, as the paper's figures are\n" in text
