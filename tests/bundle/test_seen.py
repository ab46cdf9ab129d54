"""What a run was trained on is not called a test, by whichever of its names a list calls it."""

import json
import shutil
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from medseg.bundle import workflow
from medseg.errors import MedsegError
from medseg.io.parts import known_as


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """The folder of a series of three slices, with a segmentation and a note beside them."""
    folder = tmp_path / "ct"
    folder.mkdir()
    for number in range(3):
        data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = f"1.2.3.{number}"
        data.ImagePositionPatient = [0, 0, 5 * number]
        data.save_as(folder / f"slice{number}.dcm")
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.SegmentationStorage
    data.SeriesInstanceUID = "1.2.4"
    data.save_as(folder / "a_segmentation.dcm")
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    (other / "note.txt").write_text("no slice")
    return folder


def evaluate(series: Path, trained_on: list[Path], image: list[str]) -> None:
    folder = series.parent
    run = folder / "run"
    run.mkdir()
    (run / "model.pt").write_bytes(b"never read")
    seen = {"training": [str(path) for path in trained_on], "validation": []}
    (run / ".place.json").write_text(json.dumps({"datalist": "", "seen": seen}))
    content = {"name": "toy", "version": 1, "modality": ["CT"], "licence": "", "source": "", "ignore_index": None}
    tested = [{"image": image if len(image) > 1 else image[0], "label": "label.nii"}]
    content |= {"labels": {"0": "a", "1": "b"}, "training": [], "validation": [], "test": tested}
    (folder / "datalist.json").write_text(json.dumps(content))
    workflow.evaluate(run, data=folder, overrides={"device": "cpu"})


@pytest.mark.parametrize(
    ("trained_on", "image"),
    [
        ("ct/slice1.dcm", ["ct"]),
        ("ct", ["ct/slice2.dcm"]),
        ("ct/slice1.dcm", ["ct/slice2.dcm"]),
        ("ct", ["ct"]),
        ("ct", ["other", "ct/slice0.dcm"]),
    ],
)
def test_a_series_is_one_image(series: Path, trained_on: str, image: list[str]) -> None:
    with pytest.raises(MedsegError, match=r"run was trained on 1 of the 1 image to score, .*: that is no test"):
        evaluate(series, [series.parent / trained_on], image)


def test_another_series_is_not_that_image(series: Path) -> None:
    for name in ("other", "other/slice1.dcm", "other/note.txt", "gone.nii"):
        for seen in ("ct", "ct/slice1.dcm"):
            assert str(series.parent / seen) not in known_as(series.parent / name)
    assert known_as(series.parent / "other" / "note.txt") == {str(series.parent / "other" / "note.txt")}
