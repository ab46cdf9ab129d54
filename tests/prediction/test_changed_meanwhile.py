"""Images that change while they are predicted: no mask of one image is recorded, or written as DICOM, as another's."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from dicom_predictions import series, weights
from PIL import Image
from tiny_models import write_model

from medseg.io.folder import MASK_RECORD
from medseg.prediction.case import Feeder
from medseg.prediction.forward import Forward
from medseg.prediction.predict import Outcome, predict

NAMED = ("liver", "spleen")


def after(monkeypatch: pytest.MonkeyPatch, kind: type, method: str, action: Callable[[], None]) -> None:
    """Do something once, when a method has returned."""
    goes_on, left = getattr(kind, method), [action]

    def wrapped(self: Any, *arguments: Any) -> Any:
        found = goes_on(self, *arguments)
        while left:
            left.pop()()
        return found

    monkeypatch.setattr(kind, method, wrapped)


def run(folder: Path, **options: Any) -> Outcome:
    return predict(folder / "m.pt", folder / "in", folder / "out", overrides={"device": "cpu"}, **options)


def patient(folder: Path, name: str) -> Path:
    def change(number: int, data: Any) -> None:
        data.PatientID = data.PatientName = name
        noise = np.random.default_rng(len(name) + number).integers(0, 900, (data.Rows, data.Columns))
        data.PixelData = noise.astype(np.int16).tobytes()

    return Path(series(folder, change=change))


@pytest.mark.parametrize("replaced", ["whole", "one slice", "gone"])
def test_a_series_of_another_patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replaced: str) -> None:
    """Its segmentation had the other patient's name and the voxels of the first."""
    weights(tmp_path / "m.pt", classes=("background", *NAMED))
    here, other = patient(tmp_path / "in" / "s", "ANNA"), patient(tmp_path / "other", "BERTA")

    def swap() -> None:
        if replaced != "one slice":
            shutil.rmtree(here)
        if replaced == "whole":
            shutil.copytree(other, here)
        elif replaced == "one slice":
            shutil.copy(other / "03.dcm", here / "03.dcm")

    after(monkeypatch, Forward, "collect", swap)
    done = run(tmp_path, outputs=("dicom-seg", "measurements"))
    assert done.written == 0
    assert [why for _, why in done.failures] == [
        "its files were replaced or written to while it was predicted; run again"
    ]
    assert not list((tmp_path / "out").glob("s*"))
    if replaced == "whole":
        assert run(tmp_path, outputs=("dicom-seg", "measurements")).written == 1
        assert pydicom.dcmread(tmp_path / "out" / "s.seg.dcm").PatientID == "BERTA"


def test_a_picture_between_its_pixels_and_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mask of the first passed for that of the second, whose hash was taken."""
    write_model(tmp_path / "m.pt", "grey")
    (tmp_path / "in").mkdir()
    for number, name in enumerate(("a.png", "b.png")):
        pixels = np.random.default_rng(number).integers(0, 256, (20, 24)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / name)
    image = tmp_path / "in" / "a.png"

    def swap() -> None:
        shutil.copy(tmp_path / "in" / "b.png", tmp_path / "new.png")
        os.replace(tmp_path / "new.png", image)

    after(monkeypatch, Feeder, "read", swap)
    done = run(tmp_path)
    assert (done.written, [name for name, _ in done.failures]) == (1, ["a.png"])
    assert "a.png" not in (tmp_path / "out" / MASK_RECORD).read_text()
    assert run(tmp_path).written == 1
    first, second = (np.array(Image.open(tmp_path / "out" / name)) for name in ("a.png", "b.png"))
    np.testing.assert_array_equal(first, second)


def test_files_that_are_only_touched_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights(tmp_path / "m.pt", classes=("background", *NAMED))
    here = patient(tmp_path / "in" / "s", "ANNA")

    def touch() -> None:
        for file in here.iterdir():
            os.utime(file)

    after(monkeypatch, Forward, "collect", touch)
    assert run(tmp_path, outputs=("dicom-seg",)).written == 1
