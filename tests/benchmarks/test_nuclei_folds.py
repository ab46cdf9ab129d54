"""Nuclei: every image in one fold, means by kind over what all sides have, images drawn like the whole release."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import nuclei_folds, nuclei_release
from medseg.bundle.data import load_data, split
from medseg.data.datalist import Datalist
from medseg.metrics.intervals import ClusterBootstrap


def data_of(folder: Path) -> Path:
    label = np.zeros((8, 8), np.uint8)
    label[2:5] = 1
    entries = []
    for number in range(15):
        name = f"{number}.png"
        Image.fromarray((label * 100 + number).astype(np.uint8)).save(folder / name)
        Image.fromarray(label).save(folder / f"label_{name}")
        entries.append(
            {"image": name, "label": f"label_{name}", "group": name, "stratum": "rare" if number < 5 else "x"}
        )
    Datalist(
        name="nuclei", version=1, modality=("microscopy",), licence="CC0-1.0", source="drawn",
        labels={0: "background", 1: "nucleus"}, training=[{**each, "fold": 0} for each in entries[:9]],
        validation=entries[9:], path=folder / "datalist.json",
    ).save()  # fmt: skip
    return folder


def test_every_image_is_left_out_once_and_kinds_are_spread(tmp_path: Path) -> None:
    target = nuclei_folds.whole(data_of(tmp_path))
    before = target.read_bytes()
    assert nuclei_folds.whole(tmp_path) == target
    assert target.read_bytes() == before
    data = load_data(target)
    parts = [split(data, {"fold": fold, "validation_fold": None}) for fold in range(nuclei_folds.FOLDS)]
    tested = [entry["image"] for _, _, test in parts for entry in test]
    assert len(tested) == len(set(tested)) == 15
    for training, validation, test in parts:
        assert not validation
        assert len(training) + len(test) == 15
        assert [entry["stratum"] for entry in test].count("rare") == 1


def image(kind: str, dice: float, otsu: float, pixels: tuple[int, int, int]) -> dict[str, Any]:
    scores = {"dice": dice, "iou": dice / (2 - dice), "pixels": list(pixels)}
    return {"kind": kind, "network": scores, "otsu": {**scores, "dice": otsu, "pixels": [10, 10, 5]}}


def test_sides_are_compared_on_the_same_images() -> None:
    first = [image("grey", 0.5 + 0.05 * n, 0.5, (10, 8, 6)) for n in range(6)] + [image("colour", 0.2, 0.4, (4, 4, 1))]
    other = [{**each, "network": {**each["network"], "dice": each["network"]["dice"] + 0.1}} for each in first]
    rows = [
        {"variant": "images_alike", "fold": 0, "each": first}, {"variant": "square_roots", "fold": 0, "each": other},
        {"variant": "square_roots", "fold": 1, "each": [image("grey", 0.0, 0.0, (9, 9, 0))]},  # the other has it not
        {"variant": "images_alike", "fold": 1, "error": "late"},
    ]  # fmt: skip
    every, grey, colour = nuclei_folds.pooled(rows)
    assert [(line["kind"], line["images"], line["folds"]) for line in (every, grey, colour)] == [
        (None, 7, 1), ("grey", 6, 1), ("colour", 1, 1),
    ]  # fmt: skip
    dice = np.array([each["network"]["dice"] for each in first])
    assert every["dice"]["images_alike"]["mean"] == pytest.approx(dice.mean())
    assert grey["dice_above_otsu"]["images_alike"]["mean"] == pytest.approx(dice[:6].mean() - 0.5)
    wanted = ClusterBootstrap([""] * 6).intervals((dice[:6] - 0.5)[:, None])[1]
    assert grey["dice_above_otsu"]["images_alike"]["interval"] == pytest.approx(wanted)
    assert every["dice_above_images_alike"]["square_roots"]["mean"] == pytest.approx(0.1)
    assert colour["dice_above_otsu"]["images_alike"] == {"mean": pytest.approx(-0.2), "interval": None}
    assert every["pooled_iou"]["images_alike"] == pytest.approx(37 / (64 + 52 - 37))
    assert colour["pooled_iou"]["otsu"] == pytest.approx(5 / 15)
    assert nuclei_folds.pooled([{"variant": "images_alike", "fold": 0, "error": "late"}]) == []


def test_what_is_kept_apart_is_like_the_release_and_trained_on_by_none(tmp_path: Path) -> None:
    folder = data_of(tmp_path)
    at_hand = {"0", "1", "5", "6", "7", "8"}
    lists = {name: load_data(path) for name, path in nuclei_release.datalists(folder, at_hand, 6).items()}
    parts = {name: split(data, {"fold": 0, "validation_fold": None}) for name, data in lists.items()}
    scored = {name: [Path(entry["image"]).name for entry in test] for name, (_, _, test) in parts.items()}
    assert scored["at_hand"] == scored["release"] == ["2.png", "3.png", "9.png", "10.png", "11.png", "12.png"]
    trained = {name: {Path(entry["image"]).stem for entry in training} for name, (training, _, _) in parts.items()}
    assert trained["at_hand"] == at_hand
    assert trained["release"] == {str(n) for n in range(15)} - {Path(name).stem for name in scored["release"]}


def test_a_kind_with_too_few_images_that_are_not_at_hand_is_said(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="rare: 2 images are to be kept apart, 1 are not at hand"):
        nuclei_release.datalists(data_of(tmp_path), {"0", "1", "2", "3"}, 6)
