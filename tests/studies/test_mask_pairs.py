"""Masks against the labels of a datalist: called as images, valued as it says, and never guessed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medseg.cli import main
from medseg.errors import MedsegError
from medseg.studies.mask_pairs import pair_masks, truths_of


def mask(row: int, value: int = 1) -> Any:
    array = np.zeros((12, 10), np.uint8)
    array[row : row + 4, 2:7] = value
    return array


def save(path: Path, array: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def datalist(folder: Path, names: Sequence[str], more: Mapping[str, Any] | None = None) -> Path:
    """An import's: images below ``photos``, labels of other names below ``truths`` that hold 0 and 255."""
    entries = []
    for number, name in enumerate(names):
        save(folder / f"photos/{name}.jpg", mask(0, 200))
        save(folder / f"truths/{name}_segmentation.png", mask(number % 5, 255))
        entries.append(
            {
                "image": f"../photos/{name}.jpg",
                "label": f"../truths/{name}_segmentation.png",
                "group": f"g{number // 2}",
                "fold": number % 2,
            }
        )
    content = {
        **{"name": "photos", "version": 1, "modality": ["RGB"], "licence": "CC0", "source": "here"},
        **{"labels": {"0": "background", "1": "lesion"}, "ignore_index": None, "values": {"0": 0, "255": 1}},
        **{"training": entries[:-2], "validation": [], "test": entries[-2:], **(more or {})},
    }
    path = folder / "isic" / "datalist.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_images_that_have_a_channel_in_common_are_called_by_their_own(tmp_path: Path) -> None:
    """As their masks are, by `medseg predict`."""
    listed = datalist(tmp_path, ["a", "b", "c"])
    content = json.loads(listed.read_text())
    for entry in (entries := [*content["training"], *content["test"]]):
        entry["image"] = ["../photos/atlas.jpg", entry["image"]]
    listed.write_text(json.dumps({**content, "training": entries, "test": [], "modality": ["x", "y"]}))
    for name in "abc":
        save(tmp_path / "masks" / f"{name}.png", mask(0))
    pairs = pair_masks(tmp_path / "masks", truths_of(listed))
    truths = {name: f"{name}_segmentation.png" for name in "abc"}
    assert {name: pairs.truths[name].name for name in pairs.names} == truths


@pytest.mark.parametrize("named", ["isic", "isic/datalist.json"])
@pytest.mark.parametrize("labels", [[], ["--labels", "background", "lesion"]])
@pytest.mark.parametrize("value", [1, 255])
def test_a_datalist_is_the_truth(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], named: str, labels: list[str], value: int
) -> None:
    names = [f"p{number}" for number in range(8)]
    datalist(tmp_path, names)
    for number, name in enumerate(names):
        save(tmp_path / f"masks/{name}.png", mask(number % 5 + (name == "p1"), value))
    status = main(["score", str(tmp_path / "masks"), str(tmp_path / named), "--json", *labels])
    said = capsys.readouterr()
    assert (status, said.err) == (0, "")
    table = json.loads(said.out)
    assert [row["name"] for row in table["per_case"]["classes"]] == ["background", "lesion"]
    overlap = 2 * 15 / 40  # one of eight is a row too low
    assert table["per_case"]["classes"][1]["dice"] == pytest.approx((7 + overlap) / 8)
    assert table["per_case"]["bootstrap"]["by"] == "group"


def test_truths_without_prediction_are_one_line_and_records_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"p{number:02}" for number in range(20)]
    datalist(tmp_path, names)
    for number in (0, 3):
        save(tmp_path / f"masks/{names[number]}.png", mask(number % 5))
    for record in ("measurements.csv", "medseg_run_20260101T000000Z.json", "uncertainty.csv", "medseg_masks.json"):
        (tmp_path / "masks" / record).write_text("x")
    (tmp_path / "masks" / "notes.csv").write_text("x")
    status = main(["score", str(tmp_path / "masks"), str(tmp_path / "isic"), "--json"])
    said = capsys.readouterr()
    first, second = said.err.splitlines()
    assert status == 1
    assert first == "medseg: 18 of 20 truths have no prediction: p01, p02, p04 and 15 more"
    assert "left out 1 of 3: notes.csv" in second
    table = json.loads(said.out)
    assert table["not_scored"]["without_prediction"] == [name for name in names if name not in ("p00", "p03")]
    assert table["per_case"]["classes"][1]["dice"] == 1


def test_folders_of_images_tell_equal_names_apart(tmp_path: Path) -> None:
    data = truths_of(datalist(tmp_path, ["a/1", "b/1", "b/2"]))
    save(tmp_path / "whole/photos/a/1.png", mask(0))  # with folders above those that the images differ in
    save(tmp_path / "whole/photos/b/1.png", mask(0))
    pairs = pair_masks(tmp_path / "whole", data)
    assert {name: path.parent.name for name, path in pairs.predictions.items()} == {"a/1": "a", "b/1": "b"}
    assert pairs.truths["b/1"].samefile(tmp_path / "truths/b/1_segmentation.png")
    assert pairs.groups == {"a/1": "g0", "b/1": "g0", "b/2": "g1"}
    save(tmp_path / "some/2.png", mask(0))
    assert pair_masks(tmp_path / "some", data).names == ["b/2"]
    save(tmp_path / "some/1.png", mask(0))
    with pytest.raises(
        MedsegError, match=r"some/1.png could be of .*a/1.jpg and .*b/1.jpg, which .*; keep the folders"
    ):
        pair_masks(tmp_path / "some", data)


def test_an_image_above_another_of_its_name(tmp_path: Path) -> None:
    data = truths_of(datalist(tmp_path, ["1", "b/1"]))
    save(tmp_path / "masks/1.png", mask(0))
    with pytest.raises(MedsegError, match="could be of"):  # of the folder b alone, masks are called so too
        pair_masks(tmp_path / "masks", data)
    save(tmp_path / "masks/b/1.png", mask(0))
    assert {name: path.parent.name for name, path in pair_masks(tmp_path / "masks", data).predictions.items()} == {
        "1": "masks",
        "b/1": "b",
    }


def test_two_masks_of_one_image_and_none_of_any(tmp_path: Path) -> None:
    data = truths_of(datalist(tmp_path, ["1", "2"]))
    save(tmp_path / "masks/x/9.png", mask(0))
    with pytest.raises(MedsegError, match=r"called as a labelled image of .*there are 9.png and 1.jpg, 2.jpg; call"):
        pair_masks(tmp_path / "masks", data)
    save(tmp_path / "masks/1.png", mask(0))
    save(tmp_path / "masks/1_segmentation.png", mask(0))  # called as its label
    with pytest.raises(MedsegError, match=r"1.png and .*1_segmentation.png are both called as 1 of"):
        pair_masks(tmp_path / "masks", data)
    (tmp_path / "masks/1.png").unlink()
    assert pair_masks(tmp_path / "masks", data).names == ["1"]


def test_channels_of_one_image_and_images_without_label(tmp_path: Path) -> None:
    images = [f"../photos/c_{number:04}.png" for number in range(2)]
    entry = {"image": images, "label": "../truths/1_segmentation.png", "group": "g", "fold": 0}
    data = truths_of(
        datalist(tmp_path, ["1", "2"], {"training": [entry], "test": [{"image": "../photos/only.png", "group": "g"}]})
    )
    for name in ("c", "only"):
        save(tmp_path / f"masks/{name}.png", mask(0))
    pairs = pair_masks(tmp_path / "masks", data)
    assert pairs.names == ["c"]
    assert sorted(pairs.predictions) == ["c", "only"]


def test_labels_that_do_not_fit_the_datalist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datalist(tmp_path, ["1", "2"])
    save(tmp_path / "masks/1.png", mask(0))
    assert main(["score", str(tmp_path / "masks"), str(tmp_path / "isic"), "--labels", "a", "b", "c"]) == 2
    assert "--labels names 3 classes, " in (said := capsys.readouterr().err)
    assert "has 2 (background, lesion); leave --labels out, or name each" in said
    assert main(["score", str(tmp_path / "truths"), str(tmp_path / "truths"), "--labels", "a", "b"]) == 2
    assert "the datalist that says what values mean (--labels datalist.json)" in capsys.readouterr().err


def test_a_dataset_json_without_lists_is_no_datalist(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "liver": 1}}))
    assert truths_of(tmp_path) == tmp_path
