"""Masks of another image never pass for done: cases are known by what their images are, not by their names."""

import json
import logging
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from dicom_predictions import series, weights
from PIL import Image
from prediction.test_killed import kill
from prediction.test_shared import in_this_process
from tiny_models import write_model

from medseg.cli import main
from medseg.io.folder import MASK_RECORD
from medseg.prediction import mask_record
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.predict import Outcome, predict
from medseg.prediction.shared import Shared
from medseg.studies.report_predictions import Predictions

NAMES = ("a.png", "b.png", "c.png")


def draw(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24)).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "m.pt", "grey")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(NAMES):
        draw(tmp_path / "in" / name, number)
    return tmp_path


def run(folder: Path, images: str = "in", **options: Any) -> Outcome:
    return predict(folder / "m.pt", folder / images, folder / "out", overrides={"device": "cpu"}, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Return what lies in the output beside the records."""
    kept = (path for path in sorted((folder / "out").iterdir()) if path.suffix != ".json")
    return {path.name: path.read_bytes() for path in kept}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the images whose bytes are read to see whether they are those of their masks."""
    counted: Counter[str] = Counter()
    whole: Callable[[list[Path]], str] = mask_record.content_hash

    def counting(image: list[Path]) -> str:
        counted[image[0].name] += 1
        return whole(image)

    monkeypatch.setattr(mask_record, "content_hash", counting)
    return counted


def test_another_folder_of_the_same_names(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(folder, outputs=("measurements", "uncertainty"))
    before = files(folder)
    (folder / "others").mkdir()
    for number, name in enumerate((*NAMES, "d.png")):
        draw(folder / "others" / name, 10 + number)
    made = run(folder, "others", outputs=("measurements", "uncertainty"))
    assert (made.written, made.skipped, [name for name, _ in made.failures]) == (1, 0, list(NAMES))
    for name, reason in made.failures:
        assert f"its mask {folder / 'out' / name} was made of another image (" in reason
        assert reason.endswith("take it away, name another folder for the masks, or do all again with overwrite")
    after = files(folder)
    assert {name: after[name] for name in NAMES} == {name: before[name] for name in NAMES}
    for table in ("measurements.csv", "uncertainty.csv"):  # d.png is added behind the others
        assert after[table].startswith(before[table])
    last = json.loads(max((folder / "out").glob(RUN_RECORD), key=lambda path: path.stat().st_mtime_ns).read_text())
    assert {case["name"]: "failure" in case for case in last["cases"]} == dict.fromkeys(NAMES, True) | {"d.png": False}
    assert last["skipped"] == []
    assert run(folder, outputs=("measurements", "uncertainty")).skipped == 3, "the first folder is still theirs"

    made = run(folder, "others", outputs=("measurements", "uncertainty"), overwrite=True)
    assert (made.written, made.failures) == (4, [])
    assert len(run(folder).failures) == 3, "now they are the other folder's"


def test_a_picture_that_is_replaced(folder: Path, hashed: Counter[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Its time is kept, as by an unpacked archive; the others' bytes are not read."""
    run(folder)
    image, before = folder / "in" / "b.png", files(folder)
    time = image.stat().st_mtime_ns
    draw(image, 7)
    os.utime(image, ns=(time, time))
    status = main(["predict", *(str(folder / name) for name in ("m.pt", "in", "out")), "device=cpu"])
    said = capsys.readouterr().err
    assert status == 1
    assert said.startswith(f"medseg: error: b.png: its mask {folder / 'out' / 'b.png'} was made of another image (")
    assert said.rstrip().endswith("or do all again with --overwrite")
    assert files(folder) == before
    assert hashed == {"b.png": 1}
    (folder / "out" / "b.png").unlink()
    assert (run(folder).written, run(folder).skipped) == (1, 3), "that is what the message says"


def test_another_output_of_a_picture_that_is_replaced(folder: Path) -> None:
    """What is asked for later is not made of another image than the mask, which is not made anew either."""
    run(folder)
    before = files(folder)
    draw(folder / "in" / "b.png", 7)
    made = run(folder, outputs=("geojson", "measurements"))
    assert (made.written, [name for name, _ in made.failures]) == (2, ["b.png"])
    after = files(folder)
    assert after.keys() - before.keys() == {"a.geojson", "c.geojson", "measurements.csv"}
    assert {name: after[name] for name in before} == before
    assert b"b.png" not in after["measurements.csv"]


def test_copies_are_the_same_images(folder: Path, hashed: Counter[str]) -> None:
    """They are read once; once the record is written again, their stamps are known."""
    run(folder)
    shutil.copytree(folder / "in", folder / "copy")
    assert (run(folder, "copy").skipped, dict(hashed)) == (3, dict.fromkeys(NAMES, 1))
    draw(folder / "copy" / "d.png", 3)
    assert run(folder, "copy").written == 1
    hashed.clear()
    assert (run(folder, "copy").skipped, dict(hashed)) == (4, {})
    (folder / "copy").rename(folder / "moved")
    assert (run(folder, "moved").skipped, dict(hashed)) == (4, {})


def test_a_nifti_of_another_grid(tmp_path: Path) -> None:
    model = write_model(tmp_path / "m.pt", "mr")
    (tmp_path / "in").mkdir()

    def volume(seed: int, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Outcome:
        values = np.random.default_rng(seed).integers(0, 500, shape).astype(np.int16)
        nibabel.Nifti1Image(values, np.diag([*spacing, 1.0])).to_filename(tmp_path / "in" / "a.nii.gz")
        return predict(model, tmp_path / "in", tmp_path / "out", overrides={"device": "cpu"})

    assert volume(0, (32, 32, 16), (1, 1, 1)).written == 1
    made = volume(1, (40, 24, 12), (2, 2, 3))
    assert [(name, "was made of another image" in reason) for name, reason in made.failures] == [("a.nii.gz", True)]
    assert nibabel.load(tmp_path / "out" / "a.nii.gz").shape == (32, 32, 16)


@pytest.mark.parametrize("change", ["another patient", "a slice more"])
def test_a_series_of_another_patient(tmp_path: Path, change: str) -> None:
    """A DICOM segmentation names the patient and the slices of the series that it was made of."""
    codes = {"2": {"value": "T1", "scheme": "99LOCAL", "meaning": "Thing"}}
    model = weights(tmp_path / "m.pt", codes=codes)
    scan = tmp_path / "in" / "scan"

    def noisy(number: int, data: pydicom.Dataset) -> None:
        data.PixelData = np.random.default_rng(number).integers(0, 1000, (16, 24)).astype(np.int16).tobytes()

    def other(number: int, data: pydicom.Dataset) -> None:
        noisy(number, data)
        data.PatientID = "OTHER"

    def done() -> Outcome:
        options = {"outputs": ["dicom-seg"], "overrides": {"device": "cpu"}}
        return predict(model, tmp_path / "in", tmp_path / "out", **options)

    series(scan, change=noisy)
    assert done().written == 1
    (found,) = (tmp_path / "out").glob("*.seg.dcm")
    shutil.copy(found, scan / "0.dcm")  # an object about the series is no part of it
    assert done().skipped == 1
    before = found.read_bytes()
    shutil.rmtree(scan)
    if change == "another patient":
        series(scan, change=other)
    else:
        series(scan, change=noisy, distances=(6, 0, 4, 2, 10, 8, 12))
    made = done()
    assert [("was made of another image" in reason) for _, reason in made.failures] == [True]
    assert found.read_bytes() == before


def test_a_run_that_was_killed(folder: Path, hashed: Counter[str]) -> None:
    """Of its masks the record of the run says of which images they are."""
    kill(folder, "before its mask", "c.png")
    shutil.copytree(folder / "in", folder / "copy")
    draw(folder / "copy" / "b.png", 9)
    made = run(folder, "copy")
    assert (made.written, made.skipped, [name for name, _ in made.failures]) == (1, 1, ["b.png"])
    hashed.clear()
    assert [name for name, _ in run(folder, "copy").failures] == ["b.png"]
    assert hashed == {"b.png": 1}, "what was read is known"
    assert run(folder).skipped == 3


def test_masks_that_a_killed_run_replaced(folder: Path) -> None:
    """Some are of the new images, some of the old: each is known for what it is."""
    run(folder)
    shutil.copytree(folder / "in", folder / "old")
    for number, name in enumerate(NAMES):
        draw(folder / "in" / name, 20 + number)
    kill(folder, "before its mask", "c.png", overwrite=True)
    assert [name for name, _ in run(folder, "old").failures] == ["a.png", "b.png"]
    assert [name for name, _ in run(folder).failures] == ["c.png"]


def test_what_failed_in_the_middle_is_nobody_s(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outline of the new image lies beside the mask of the old one."""
    run(folder, outputs=("geojson",))
    shutil.copy(folder / "in" / "b.png", folder / "b.png")
    draw(folder / "in" / "b.png", 9)

    def fails(*_given: Any, **_options: Any) -> None:
        raise ValueError("no room in the test")

    with monkeypatch.context() as patch:
        patch.setattr("medseg.prediction.masks.write_mask", fails)
        assert len(run(folder, outputs=("geojson",), overwrite=True).failures) == 3
    shutil.move(folder / "b.png", folder / "in" / "b.png")
    reasons = [reason for _, reason in run(folder, outputs=("geojson",)).failures]
    assert len(reasons) == 3
    assert all("no record says of which image it was made" in reason for reason in reasons)


def test_a_record_without_its_images(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(folder)
    path = folder / "out" / MASK_RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "images": {}}))
    assert run(folder).skipped == 3, "the record of the run knows them"
    (run_record,) = (folder / "out").glob(RUN_RECORD)
    run_record.write_text("{")
    with caplog.at_level(logging.WARNING):
        made = run(folder)
    assert "a record of a run beside the masks cannot be read" in caplog.text
    assert all("no record says of which image it was made" in reason for _, reason in made.failures)
    assert len(made.failures) == 3


BESIDE = ("geojson", "measurements", "uncertainty")


@pytest.mark.parametrize("how", ["overwrite", "taken away", "in parts"])
def test_what_lies_beside_is_of_another_image_than_the_mask(
    folder: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Masks were made anew without it: it is not done, whatever lies there."""
    run(folder, outputs=BESIDE)
    before = files(folder)
    for number, name in enumerate(NAMES):
        draw(folder / "in" / name, 30 + number)
        if how != "overwrite":
            (folder / "out" / name).unlink()
    shared = Shared(in_this_process(), 2) if how == "in parts" else None
    assert run(folder, overwrite=how == "overwrite", shared=shared).written == 3
    assert "masks made anew; what was made with those before (geojson, measurements, uncertainty) is" in caplog.text
    assert {name: data for name, data in files(folder).items() if name not in NAMES}.items() <= before.items()
    assert run(folder).skipped == 3, "the masks are those of the images"
    assert all(math.isnan(mask.uncertainty) for mask in Predictions(folder / "out", None, keep_identifiers=True).masks)
    made = run(folder, outputs=BESIDE)
    assert (made.written, made.skipped, made.failures) == (3, 0, [])
    again = files(folder)
    shutil.rmtree(folder / "out")
    run(folder, outputs=BESIDE)
    assert again == files(folder)
    assert all(again[name] != before[name] for name in ("measurements.csv", "uncertainty.csv"))
    assert run(folder, outputs=BESIDE).skipped == 3


def test_killed_while_it_adds_to_masks_that_are_there(folder: Path) -> None:
    """What was added before is not made again; what was there before the mask is."""
    run(folder, outputs=("geojson",))
    draw(folder / "in" / "a.png", 40)
    (folder / "out" / "a.png").unlink()
    (folder / "out" / "c.geojson").unlink()
    run(folder)
    kill(folder, "before its mask", "c.png", outputs=("geojson", "measurements"))
    stale = folder / "out" / "a.geojson"
    stale.write_text("{}")
    made = run(folder, outputs=("geojson", "measurements"))
    assert (made.written, made.skipped) == (1, 2), "of a.png it is not known"
    assert stale.read_text() != "{}"


def test_a_mask_that_somebody_corrected_is_not_made_again(folder: Path) -> None:
    """Not for an output that is asked for later: the correction would be lost."""
    run(folder)
    mask = folder / "out" / "b.png"
    pixels = np.array(Image.open(mask))
    pixels[:5] = 2
    Image.fromarray(pixels).save(mask)
    corrected = mask.read_bytes()
    assert run(folder).skipped == 3
    for _ in range(2):
        made = run(folder, outputs=("measurements", "geojson"))
        ((name, reason),) = made.failures
        assert name == "b.png"
        assert f"its mask {mask} was changed since it was written" in reason
        assert mask.read_bytes() == corrected
        assert not mask.with_suffix(".geojson").exists()
    assert run(folder, outputs=("measurements", "geojson"), overwrite=True).written == 3
    assert mask.read_bytes() != corrected
    assert run(folder, outputs=("measurements", "geojson")).skipped == 3
