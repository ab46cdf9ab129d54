"""Whatever lies in a folder: each thing in it is predicted or named, the other cases are done, and nothing hangs."""

import os
import resource
import shutil
import socket
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
from dicom_series import write_series
from PIL import Image
from pydicom.data import get_testdata_file

from medseg.bundle import feeding
from medseg.errors import MedsegError
from medseg.prediction import cases
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.cases import InputError, is_case_blind, refuse_shared
from medseg.prediction.predict import Outcome, predict

GREY = np.random.default_rng(0).integers(0, 256, (20, 24)).astype(np.uint8)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two pictures."""
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.fromarray(GREY).save(tmp_path / "in" / f"{name}.png")
    return tmp_path / "in"


def run(model: Path, images: Path, **options: Any) -> Outcome:
    return predict(model, images, images.parent / "out", overrides={"device": "cpu"}, **options)


def masks(images: Path) -> list[str]:
    out = images.parent / "out"
    return sorted(path.relative_to(out).as_posix() for path in out.rglob("*") if path.suffix not in (".json", ""))


def xray(path: Path, series: str, **changed: Any) -> Path:
    data = pydicom.dcmread(str(get_testdata_file("CT_small.dcm", download=False)))
    del data.ImagePositionPatient
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    data.Modality, data.SeriesInstanceUID = "CR", series
    for name, value in {"RescaleIntercept": 0, "PixelRepresentation": 0, **changed}.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path)
    return path


def test_plain_x_rays_are_pictures(models: Path, tmp_path: Path) -> None:
    """Alone, alone in a folder, and many in a folder, of one series or of several."""
    for name, series in (("one.dcm", "1.2"), ("two", "1.3"), ("three.dcm", "1.3")):
        xray(tmp_path / "in" / "many" / name, series)
    xray(tmp_path / "in" / "alone" / "x.dcm", "1.4")
    (tmp_path / "in" / "many" / "zz.dcm").write_bytes((tmp_path / "in" / "many" / "two").read_bytes()[:600])
    done = run(models / "slices.pt", tmp_path / "in")
    assert (done.written, done.failures, done.missed) == (4, [], 1)
    assert done.left_out == [("many/zz.dcm", "damaged DICOM file (it ends among its tags); restore or remove it")]
    assert masks(tmp_path / "in") == ["alone.png", "many/one.png", "many/three.png", "many/two.png"]
    assert np.asarray(Image.open(tmp_path / "out" / "many" / "two.png")).shape == (128, 128)
    run(models / "slices.pt", tmp_path / "in" / "alone" / "x.dcm")
    assert masks(tmp_path / "in" / "alone" / "x.dcm") == ["x.png"]


def test_slices_that_lost_their_place_are_no_pictures(models: Path, tmp_path: Path) -> None:
    def lost(_number: int, data: Any) -> None:
        del data.ImagePositionPatient

    write_series(tmp_path / "in" / "s", [0, 1, 2], lost)
    done = run(models / "slices.pt", tmp_path / "in")
    ((name, reason),) = done.failures
    assert (name, done.written) == ("s", 0)
    assert "states no ImagePositionPatient" in reason


def test_a_coloured_slice_in_a_ct_series(models: Path, tmp_path: Path) -> None:
    def colour(number: int, data: Any) -> None:
        if number == 1:
            data.SamplesPerPixel, data.PhotometricInterpretation, data.PlanarConfiguration = 3, "RGB", 0

    write_series(tmp_path / "in" / "s", [0, 1, 2], colour)
    write_series(tmp_path / "in" / "t", [0, 1, 2])
    done = run(models / "mr.pt", tmp_path / "in")
    assert done.written == 1
    ((name, reason),) = done.failures
    assert name == "s"
    assert "slice 02.dcm is in colour and 03.dcm is not; take the coloured ones out" in reason


def test_a_missing_slice_and_an_empty_file(models: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "gap", [0, 1, 2, 4, 5])
    write_series(tmp_path / "in" / "empty", [0, 1, 2])
    (tmp_path / "in" / "empty" / "02.dcm").write_bytes(b"")
    (tmp_path / "in" / "zero").mkdir()
    (tmp_path / "in" / "zero" / "x.nii.gz").write_bytes(b"")
    done = run(models / "mr.pt", tmp_path / "in")
    said = dict(done.failures)
    assert "1 slice is missing between" in said["gap"]
    assert said["empty"].endswith("02.dcm: is empty (0 bytes); restore the file")
    assert said["zero/x.nii.gz"].endswith("x.nii.gz: is empty (0 bytes); restore the file")
    assert (done.written, done.missed) == (0, 1)
    assert done.left_out == [("empty/02.dcm", "is empty (0 bytes)")]


def test_four_axes(models: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name, shape in (("series", (8, 8, 4, 6)), ("one", (8, 8, 4, 1)), ("five", (8, 8, 4, 2, 3))):
        nibabel.save(nibabel.Nifti1Image(np.ones(shape, np.int16), np.eye(4)), tmp_path / "in" / f"{name}.nii")
    done = run(models / "mr.pt", tmp_path / "in")
    said = dict(done.failures)
    assert done.written == 1
    assert said["series.nii"] == "it has 6 channels, but the model takes 1; convert it"
    assert "has the shape 8x8x4x2x3; store one volume of one list of channels a file" in said["five.nii"]


def test_names_and_tags_in_other_letters(models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ("海馬", "äöü ß", "файл", "e\u0301", "with\nnewline", "😀", "%s {0}")

    def japanese(_number: int, data: Any) -> None:
        data.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        data.PatientName = "Yamada^Tarou=山田^太郎=やまだ^たろう"
        data.SeriesDescription, data.StudyDescription = "頭部", "検査"

    for name in names:
        path = tmp_path / "in" / name / f"{name}.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(GREY).save(path)
        write_series(tmp_path / "in" / "dicom" / name, [0, 1, 2], japanese)
    os.mkdir(os.fsencode(tmp_path / "in") + b"/\xff\xfe")
    Image.fromarray(GREY).save(tmp_path / "in" / "x.png")
    os.rename(tmp_path / "in" / "x.png", os.fsencode(tmp_path / "in") + b"/\xff\xfe/\xe9.png")
    done = run(models / "slices.pt", tmp_path / "in", outputs=("measurements",))
    assert (done.written, done.failures, done.left_out) == (2 * len(names) + 1, [], [])
    for name in names:
        assert (tmp_path / "out" / name / f"{name}.png").is_file()
        assert (tmp_path / "out" / "dicom" / f"{name}.nii.gz").is_file()
    (record,) = (tmp_path / "out").glob(RUN_RECORD)
    assert "山田" not in record.read_text("utf-8") + caplog.text
    assert "頭部" not in record.read_text("utf-8")


def test_what_is_no_file_is_named_at_once(models: Path, images: Path) -> None:
    os.mkfifo(images / "pipe.png")
    os.mkfifo(images / "0001")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(str(images / "s.dcm"))
        (images / "null.png").symlink_to("/dev/null")
        (images / "zero.nii").symlink_to("/dev/zero")
        (images / "loop").symlink_to(images)
        (images / "self.png").symlink_to(images / "self.png")
        done = run(models / "grey.pt", images)
    assert (done.written, done.failures, done.missed) == (2, [], 6)
    reasons = dict(done.left_out)
    assert {reasons[name] for name in ("pipe.png", "0001", "s.dcm", "null.png", "zero.nii")} == {
        "device, pipe or socket"
    }
    assert (reasons["loop"], reasons["self.png"]) == (
        "link to the folder itself, which is listed already",
        "link in a circle",
    )


def test_a_folder_that_changes_while_it_is_read(models: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that goes is named, one that changes is as it is when it is read, one that comes is the next run's."""
    Image.fromarray(GREY).save(images / "c.png")
    listing = cases.list_images

    def late(*arguments: Any, **options: Any) -> Any:
        found = listing(*arguments, **options)
        (images / "a.png").unlink()
        (images / "b.png").write_bytes((images / "c.png").read_bytes()[:60])
        Image.fromarray(GREY).save(images / "d.png")
        return found

    monkeypatch.setattr(cases, "list_images", late)
    done = run(models / "grey.pt", images)
    said = dict(done.failures)
    assert said["a.png"].endswith("a.png: no such file; correct the path or restore the file")
    assert "b.png: ends too early" in said["b.png"]
    assert (done.written, masks(images)) == (1, ["c.png"])


@pytest.mark.skipif(os.name != "posix", reason="limits of a process are POSIX's")
def test_a_write_that_the_disk_refuses_in_the_middle(models: Path, tmp_path: Path) -> None:
    """The limit of a file's size stands for the disk's end; a full disk ends a run, see test_predictor.py."""
    (tmp_path / "in").mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (500, 500)).astype(np.uint8)
    for name, values in (("a", GREY), ("b", noise), ("c", GREY)):
        tifffile.imwrite(tmp_path / "in" / f"{name}.tif", values)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        done = run(models / "slices.pt", tmp_path / "in", outputs=("probabilities",))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    ((name, reason),) = done.failures
    assert (name, done.written) == ("b.tif", 2)
    assert "File too large" in reason
    assert [name for name in masks(tmp_path / "in") if "prob" not in name] == ["a.tif", "c.tif"]
    assert not list((tmp_path / "out").glob("*b.*"))  # and no piece of b
    again = run(models / "slices.pt", tmp_path / "in")
    assert (again.written, again.skipped) == (1, 2)


def test_a_folder_that_may_not_be_written(models: Path, images: Path) -> None:
    target = images.parent / "out"
    target.mkdir(mode=0o500)
    if os.access(target, os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(InputError, match=r"out cannot be written: Permission denied; name another folder"):
        run(models / "grey.pt", images)


def test_a_device_as_the_folder_of_masks(models: Path, images: Path) -> None:
    with pytest.raises(MedsegError, match=r"cannot be read: Not a directory; name another folder for the masks"):
        predict(models / "grey.pt", images, "/dev/null/out", overrides={"device": "cpu"})


def test_two_cases_of_one_output_are_refused_before_the_first(models: Path, images: Path) -> None:
    """Their masks differ in the suffix, what lies beside them does not."""
    tifffile.imwrite(images / "a.tif", GREY)
    assert run(models / "grey.pt", images).written == 3
    shutil.rmtree(images.parent / "out")
    with pytest.raises(InputError, match=r"a\.png and a\.tif would both write .*a\.geojson; rename one"):
        run(models / "grey.pt", images, outputs=("geojson",))
    assert not (images.parent / "out").exists()


def test_names_that_are_equal_but_for_capitals(models: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(255 - GREY).save(images / "A.png")
    files = {"a.png": [images / "a.png"], "A.png": [images / "A.png"]}
    refuse_shared(files, images)  # two files here, and two masks
    assert not is_case_blind(images)
    assert run(models / "grey.pt", images).written == 3
    monkeypatch.setattr(cases, "is_case_blind", lambda _folder: True)
    with pytest.raises(InputError, match=r"A\.png and a\.png would both write .*does not tell capitals"):
        run(models / "grey.pt", images, overwrite=True)
    with pytest.raises(InputError, match="would both write"):  # one letter, or a letter and an accent
        refuse_shared({"1": [Path("\u00e9.png")], "2": [Path("e\u0301.png")]}, images)


def test_a_folder_that_is_blind_for_capitals(tmp_path: Path) -> None:
    (tmp_path / "Out").mkdir()
    (tmp_path / "oUT").symlink_to("Out")
    assert is_case_blind(tmp_path / "Out")
    assert is_case_blind(tmp_path / "Out" / "12" / "34")
    assert not is_case_blind(tmp_path)
    assert not is_case_blind(Path("/1/2"))


@pytest.mark.parametrize("error", [RuntimeError("no way to do it"), RuntimeWarning("overflow")])
def test_a_fault_of_a_library_is_a_failure_of_its_case(
    models: Path, images: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Its cause is looked for below MONAI's error, and the search ends."""
    from monai.transforms import Compose

    def fails(_data: Any) -> Any:
        raise error

    made = feeding.prediction
    monkeypatch.setattr(feeding, "prediction", lambda model: Compose([*made(model).transforms, fails]))
    done = run(models / "grey.pt", images)
    assert [name for name, _ in done.failures] == ["a.png", "b.png"]
    assert str(error) in done.failures[0][1]


def test_many_tiny_files(models: Path, tmp_path: Path) -> None:
    """10,000 take a hundred times as long as 100, and no more memory; see the fuzz for figures. Here: all are named."""
    (tmp_path / "in").mkdir()
    Image.fromarray(GREY[:4, :4]).save(tmp_path / "in" / "0.png")
    for number in range(1, 60):
        os.link(tmp_path / "in" / "0.png", tmp_path / "in" / f"{number}.png")
        (tmp_path / "in" / f"{number}.dcm").write_bytes(b"x")
    done = run(models / "grey.pt", tmp_path / "in")
    assert (done.written, len(done.left_out), done.missed) == (60, 59, 59)
    assert len({name for name, _ in done.left_out}) == 59


def test_labels_beside_the_images_are_named(models: Path, images: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What `medseg import` takes for pairs would silently be images: they are predicted, and a line says so."""
    run(models / "grey.pt", images)
    assert "labels of others" not in caplog.text
    for name in ("a", "b"):
        Image.fromarray(GREY // 128).save(images / f"{name}_mask.png")
    run(models / "grey.pt", images)
    assert caplog.text.count("labels of others") == 1
    assert (
        "2 of 4 images are labels of others by their names, such as a_mask.png of a.png, and get a mask like every "
        "image; name a folder of images alone, or a datalist, if that is not meant"
    ) in caplog.text
    assert masks(images) == ["a.png", "a_mask.png", "b.png", "b_mask.png"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_names_that_are_too_long_for_outputs(models: Path, images: Path, overwrite: bool) -> None:
    """They end no cohort: of 255 bytes, which letters of many scripts take three at a time."""
    for name in ("n" * 251, "心" * 80):
        Image.fromarray(GREY).save(images / f"{name}.png")
    for done in (2, 0):
        made = run(models / "grey.pt", images, outputs=("geojson", "uncertainty"), overwrite=overwrite)
        assert (made.written, made.skipped) == ((2, 0) if overwrite else (done, 2 - done))
        assert [name[:1] for name, _ in made.failures] == ["n", "心"]
        assert {why for _, why in made.failures} == {
            "its outputs would have names of more than 245 bytes; rename the image"
        }
    assert [name for name in masks(images) if name.endswith(".geojson")] == ["a.geojson", "b.geojson"]
    record = max((images.parent / "out").glob(RUN_RECORD), key=lambda path: path.stat().st_mtime_ns).read_text()
    assert record.count("rename the image") == 2
