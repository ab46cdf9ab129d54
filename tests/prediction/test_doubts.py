"""What is told of cases that a mask is written for all the same: unlike the training's, or read in one of two ways."""

import csv
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tiny_models import write_model

from medseg.bundle.description import DescriptionError
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.model import load
from medseg.prediction.predict import Outcome, predict

GREY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)
USUAL: dict[str, Any] = {
    "cases": 50,
    "unit": "mm",
    "extent": [[30, 40, 20], [45, 60, 50]],
    "spacing": [[1, 1, 1], [1, 1, 1]],
    "found": {"1": [0.1, 60.0], "2": [0.2, 0.001]},
}


def run(model: Path, images: Path) -> Outcome:
    return predict(model, images, images.parent / "out", overrides={"device": "cpu"})


def pictures(folder: Path, *names: str) -> Path:
    (folder / "in").mkdir()
    for name in names:
        Image.fromarray(GREY).save(folder / "in" / f"{name}.png")
    return folder / "in"


def test_a_wild_voxel_that_makes_the_scale_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    values = np.random.default_rng(0).normal(100, 10, (20, 18, 16)).astype(np.float32)
    values[3, 4, 5] = 1e9
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(tmp_path / "hot.nii.gz")
    done = run(write_model(tmp_path / "m.pt", "mr"), tmp_path / "hot.nii.gz")
    assert done.written == 1
    (said,) = (each for each in caplog.messages if "hot.nii.gz" in each and "alone" in each)
    assert "1 voxel of 1e+09 alone makes most of its deviation" in said


def test_images_of_another_kind_are_told_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images = pictures(tmp_path, "a", "b")
    seen = {"low": [[0, 0.1, 0.3, 0.6, 0.9]], "high": [[0.1, 0.4, 0.7, 0.9, 1]], "values": [0, 255], "images": 50}
    model = write_model(tmp_path / "m.pt", "grey", intensities=seen)
    run(model, images)
    assert "unlike" not in caplog.text
    for name in ("dark", "darker"):
        Image.fromarray(GREY // 50).save(images / f"{name}.png")
    done = run(model, images)
    assert (done.written, done.skipped, done.failures) == (2, 2, [])
    (said, other) = (each for each in caplog.messages if "unlike" in each)
    assert said == (
        "dark.png is unlike what the model was trained on, is it the model for it? its values go from 0 to 5 "
        "(median 2), those of the 50 images that the model was trained on from 0 to 255"
    )
    assert other == said.replace("dark", "darker")
    records = [json.loads(path.read_text()) for path in (tmp_path / "out").glob(RUN_RECORD)]
    assert sum("unlike" in case for record in records for case in record["cases"]) == 2
    caplog.clear()
    load(model, device="cpu").predict(images / "dark.png")
    assert caplog.messages[-1] == said


def test_a_case_of_another_size_is_told_with_its_measurements(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).normal(size=(40, 50, 36)).astype(np.float32)
    for name, edges in (("crop", (1, 1, 1)), ("head", (0.9, 1, 6.4))):
        nibabel.save(nibabel.Nifti1Image(values, np.diag([*edges, 1])), tmp_path / "in" / f"{name}.nii")
    with pytest.raises(DescriptionError, match="usual is not what a training writes; leave it out"):
        write_model(tmp_path / "m.pt", "mr", usual=USUAL)
    usual = {**USUAL, "found": {"1": [0.1, 60.0], "2": [0.0, 0.001]}}
    model = write_model(tmp_path / "m.pt", "mr", usual=usual)
    wanted = {"device": "cpu"}
    predict(model, tmp_path / "in", tmp_path / "out", outputs=["measurements"], overrides=wanted)
    with (tmp_path / "out" / "measurements.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "all"]
    doubts = {row["case"]: row["unlike_training"] for row in rows}
    millilitres = {(row["case"], row["class"]): float(row["volume_ml"]) for row in rows}
    assert millilitres["head.nii", "2"] > 0.003 < millilitres["crop.nii", "2"]
    assert max(millilitres["head.nii", "1"], millilitres["crop.nii", "1"]) < 180
    voxels = {row["case"]: int(row["voxels"]) for row in rows if row["class"] == "2"}
    shown = {"crop": f"{voxels['crop.nii'] / 1000:.4g}", "head": f"{voxels['head.nii'] * 0.9 * 6.4 / 1000:.4g}"}
    of_c = "ml of its mask are c, in the labels of the 50 images that the model was trained on at most 0.001 ml"
    assert doubts["crop.nii"] == f"{shown['crop']} {of_c}"
    assert doubts["head.nii"] == (
        "its size is 36 x 50 x 230 mm, those of the 50 images that the model was trained on from 30 x 40 x 20 to "
        "45 x 60 x 50; its voxels are 0.9 x 1 x 6.4 mm, those of the 50 images that the model was trained on from "
        f"1 x 1 x 1 to 1 x 1 x 1; {shown['head']} {of_c}"
    )
    told = [each for each in caplog.messages if "unlike" in each]
    begins = "is unlike what the model was trained on, is it the model for it?"
    assert told == [f"{name} {begins} {doubts[name]}" for name in ("crop.nii", "head.nii")]
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob(RUN_RECORD))
    assert {case["name"]: "; ".join(case["unlike"]) for case in record["cases"]} == doubts


def test_which_of_two_places_counts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Other programs may show such an image elsewhere than its mask."""
    (tmp_path / "in").mkdir()
    values = np.random.default_rng(0).normal(size=(20, 24, 16)).astype(np.float32)
    for name in "abc":
        nifti = nibabel.Nifti1Image(values, np.eye(4))
        nifti.set_sform(np.eye(4), code=1)
        nifti.set_qform(np.diag([-1.0, 1, 1, 1]) if name != "c" else np.eye(4), code=1)
        nibabel.save(nifti, tmp_path / "in" / f"{name}.nii")
    run(write_model(tmp_path / "m.pt", "mr"), tmp_path / "in")
    said = "qform and sform disagree by up to 38 mm; the sform counts"
    assert [each for each in caplog.messages if "sform" in each] == [f"{name}.nii: {said}" for name in "ab"]
    (record,) = (json.loads(path.read_text()) for path in (tmp_path / "out").glob(RUN_RECORD))
    assert {case["name"]: case.get("notes") for case in record["cases"]} == {
        "a.nii": said,
        "b.nii": said,
        "c.nii": None,
    }
    assert not any("unlike" in case for case in record["cases"])


def test_of_many_the_first_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    usual = {"cases": 8, "unit": "px", "extent": [[500, 500], [600, 600]], "found": {}}
    model = write_model(tmp_path / "m.pt", "grey", usual=usual)
    done = run(model, pictures(tmp_path, *"abcdefgh"))
    told = [each for each in caplog.messages if "unlike" in each]
    assert len(told) == 6
    assert told[-1].startswith(f"{done.written} of {done.written} images are unlike")
