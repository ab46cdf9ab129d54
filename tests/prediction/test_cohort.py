"""A cohort from end to end: all outputs, an ensemble, mirror images, what is recorded, what is kept from whom."""

import csv
import errno
import hashlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import tifffile
import torch
from numpy.typing import NDArray
from PIL import Image
from prediction.slices import dicom_slice
from torch import nn

import medseg
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.networks import create
from medseg.bundle.record import header_of
from medseg.errors import MedsegError
from medseg.io import masks as mask_files
from medseg.prediction import masks as mask_sink
from medseg.prediction.audit import RUN_RECORD, Audit
from medseg.prediction.mask_record import MaskRecord
from medseg.prediction.model import ModelError, load
from medseg.prediction.predict import Outcome, predict
from medseg.runs.checkpoint import save_checkpoint
from medseg.runs.header import write_header

CPU = {"device": "cpu"}
EVERY = ("probabilities", "uncertainty", "geojson", "measurements")


def save(path: Path, seed: int = 0, dims: int = 2, **options: Any) -> nn.Module:
    """Write weights of a tiny network of three classes, each of which occurs."""
    network = create("unet", dims, 1, 3, channels=[4, 8], seed=seed).eval()
    *_, last = (module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Conv3d))
    with torch.no_grad():
        logits = network(torch.rand(1, 1, *[16] * dims, generator=torch.Generator().manual_seed(0)))
        last.bias -= logits.flatten(2).median(2).values[0]
    content = {"name": "toy", "classes": ["background", "b", "c"], "input": {"intensity": {"scheme": "image"}}}
    described = Description.of({**content, "network": network.recipe, **options})
    path.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(write_header(network.state_dict(), header_of(described)), path)
    return network


def grey(*shape: int) -> NDArray[np.uint8]:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save(tmp_path / "a.pt")
    (tmp_path / "in" / "sub").mkdir(parents=True)
    for number, name in enumerate(("x.png", "y.png", "sub/z.tif")):
        Image.fromarray(grey(14 + number, 17)).save(tmp_path / "in" / name)
    return tmp_path


def run(folder: Path, *, model: Any = None, images: str = "in", **options: Any) -> Outcome:
    model = folder / "a.pt" if model is None else model
    return predict(model, folder / images, folder / "out", overrides=CPU, **options)


def outputs(folder: Path) -> list[str]:
    return sorted(
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and not p.match(RUN_RECORD)
    )


def record(folder: Path) -> dict[str, Any]:
    *_, last = sorted((folder / "out").glob(RUN_RECORD))
    content: dict[str, Any] = json.loads(last.read_text())
    return content


def test_every_output_of_pictures(folder: Path) -> None:
    assert run(folder, outputs=EVERY).written == 3
    expected = ["measurements.csv", "medseg_masks.json", "uncertainty.csv"]
    for stem, mask in (("x", "x.png"), ("y", "y.png"), ("sub/z", "sub/z.tif")):
        expected += [mask, f"{stem}.entropy.tif", f"{stem}.geojson", f"{stem}.probabilities.tif"]
    assert outputs(folder / "out") == sorted(expected)
    model = load(folder / "a.pt", device="cpu")
    for name in ("x.png", "sub/z.tif"):
        alone = model.predict(folder / "in" / name, probabilities=True, uncertainty=True)
        stem = folder / "out" / name.split(".")[0]
        np.testing.assert_array_equal(np.array(Image.open(folder / "out" / name)), alone.mask)
        np.testing.assert_array_equal(tifffile.imread(f"{stem}.probabilities.tif"), alone.probabilities)
        np.testing.assert_array_equal(tifffile.imread(f"{stem}.entropy.tif"), alone.entropy)
        with (folder / "out" / "uncertainty.csv").open(newline="") as file:
            row = next(row for row in csv.DictReader(file) if row["case"] == name)
        assert float(row["uncertainty"]) == alone.numbers["uncertainty"]
        assert row["disagreement"] == ""


def test_volumes_lie_where_their_images_lie(tmp_path: Path) -> None:
    save(tmp_path / "a.pt", dims=3, input={"spacing": [2, 2, 2], "intensity": {"scheme": "image"}})
    (tmp_path / "in").mkdir()
    affine = np.diag([-1.5, 2.0, 2.5, 1.0])
    nibabel.save(nibabel.Nifti1Image(grey(16, 12, 10), affine), tmp_path / "in" / "v.nii.gz")
    assert run(tmp_path, outputs=("probabilities", "uncertainty", "measurements")).written == 1
    mask: Any = nibabel.load(tmp_path / "out" / "v.nii.gz")
    maps: Any = nibabel.load(tmp_path / "out" / "v.probabilities.nii.gz")
    np.testing.assert_allclose(maps.affine, affine, atol=1e-6)
    sure = np.sort(maps.get_fdata(), -1)
    certain = sure[..., -1] - sure[..., -2] > 1e-3
    np.testing.assert_array_equal(maps.get_fdata().argmax(-1)[certain], np.asarray(mask.dataobj)[certain])
    with (tmp_path / "out" / "measurements.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "all"]
    for row in rows:
        voxels = int((np.asarray(mask.dataobj) == int(row["class"])).sum())
        assert float(row["volume_ml"]) == pytest.approx(voxels * 1.5 * 2 * 2.5 / 1000)


def test_a_model_that_is_loaded_predicts_cohort_after_cohort(folder: Path) -> None:
    run(folder)
    named = {name: (folder / "out" / name).read_bytes() for name in ("x.png", "y.png", "sub/z.tif")}
    model = medseg.load(folder / "a.pt", device="cpu")
    (folder / "a.pt").unlink()
    for again in ("first", "second"):
        assert medseg.predict(model, folder / "in", folder / again).written == 3
        assert {name: (folder / again / name).read_bytes() for name in named} == named
    assert medseg.predict(model, folder / "in", folder / "out").skipped == 3  # they are the same weights'


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"trust": True, "precision": "bf16"}, "trust, precision is given for a model that is loaded already; .*load"),
        ({"device": "cpu"}, "device is given .* medseg.load"),
        ({"backend": "onnx"}, "backend is given"),
        ({"signed_by": "key.pem"}, "signed_by is given"),
    ],
)
def test_what_loading_decides_is_refused_afterwards(folder: Path, asked: dict[str, Any], said: str) -> None:
    model = medseg.load(folder / "a.pt", device="cpu")
    with pytest.raises(MedsegError, match=said):
        medseg.predict(model, folder / "in", folder / "out", **asked)
    assert not (folder / "out").exists()


# ---------------------------------------------------------------------------------------------- more than one network


def test_an_ensemble(folder: Path) -> None:
    networks = [save(folder / f"{seed}" / "model.pt", seed) for seed in range(2)]
    places = [folder / "0", folder / "1"]
    assert run(folder, model=places, outputs=("probabilities", "uncertainty")).written == 3
    image = torch.from_numpy(grey(14, 17)[None, None].astype(np.float32))
    image = (image - image.min()) / (image.max() - image.min())
    with torch.no_grad():
        mean = torch.stack([network(image).softmax(1)[0] for network in networks]).mean(0)
    np.testing.assert_allclose(tifffile.imread(folder / "out" / "x.probabilities.tif"), mean, atol=2e-3)
    with (folder / "out" / "uncertainty.csv").open(newline="") as file:
        assert all(float(row["disagreement"]) > 0 for row in csv.DictReader(file))
    assert len(record(folder)["models"]) == 2
    assert run(folder, model=places[::-1], outputs=("probabilities", "uncertainty")).skipped == 3
    with pytest.raises(MedsegError, match=r"was made by other weights \(2 x toy, "):
        run(folder, model=places[0])


def test_what_is_no_ensemble(folder: Path) -> None:
    save(folder / "b.pt", input={"intensity": {"scheme": "zscore"}})
    with pytest.raises(MedsegError, match=r"b\.pt and .*a\.pt are no ensemble: .*input intensity scheme"):
        run(folder, model=[folder / "a.pt", folder / "b.pt"])
    save(folder / "c.pt", classes=["background", "c", "b"])
    with pytest.raises(MedsegError, match=r"no ensemble: classes background, c, b \(the latter has background, b, c\)"):
        medseg.load([folder / "a.pt", folder / "c.pt"], device="cpu")
    with pytest.raises(ModelError, match="no model is named"):
        medseg.load([])


def test_mirror_images(folder: Path) -> None:
    network = save(folder / "m.pt", inference={"mirror_axes": [1]})
    assert run(folder, model=folder / "m.pt", tta=True, outputs=("probabilities",)).written == 3
    image = torch.from_numpy(grey(14, 17)[None, None].astype(np.float32))
    image = (image - image.min()) / (image.max() - image.min())
    with torch.no_grad():
        views = [network(image).softmax(1), network(image.flip(3)).softmax(1).flip(3)]
    np.testing.assert_allclose(
        tifffile.imread(folder / "out" / "x.probabilities.tif"), torch.stack(views).mean(0)[0], atol=2e-3
    )
    assert record(folder)["options"]["inference"]["flip_axes"] == [1]


def test_mirror_images_that_no_training_saw(folder: Path) -> None:
    with pytest.raises(DescriptionError, match=r"name no axis along which their training mirrored images.*flip_axes="):
        run(folder, tta=True)
    assert not (folder / "out").exists()


# ---------------------------------------------------------------------------------------------- going on


def test_outputs_that_are_asked_for_later_are_added(folder: Path) -> None:
    run(folder)
    before = {name: (folder / "out" / name).read_bytes() for name in ("x.png", "y.png")}
    assert run(folder, outputs=("measurements",)).written == 3
    assert run(folder, outputs=("measurements", "geojson")).written == 3
    assert {name: (folder / "out" / name).read_bytes() for name in before} == before
    done = run(folder, outputs=("measurements", "geojson"))
    assert (done.written, done.skipped) == (0, 3)
    (folder / "out" / "y.geojson").unlink()
    done = run(folder, outputs=("measurements", "geojson"))
    assert (done.written, done.skipped) == (1, 2)


class Killed(BaseException):
    """Stands for a SIGKILL."""


def test_a_killed_cohort_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = iter(range(3))

    def dies(*arguments: Any, **options: Any) -> None:
        if next(calls) == 1:
            raise Killed
        mask_files.write_mask(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mask_sink, "write_mask", dies)
        with pytest.raises(Killed):
            run(folder, outputs=EVERY)
    assert record(folder)["end"] == "Killed"
    done = run(folder, outputs=EVERY)
    assert (done.written, done.skipped) == (2, 1)
    with (folder / "out" / "measurements.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "all"]
    assert [row["case"] for row in rows] == ["sub/z.tif"] * 2 + ["x.png"] * 2 + ["y.png"] * 2


def test_a_failure_of_one_case_is_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.prediction.geojson import Geojson

    write = Geojson.write

    def fails(self: Any, case: Any, result: Any) -> None:
        if case.name == "x.png":
            raise KeyError("a fault of a library")
        write(self, case, result)

    monkeypatch.setattr(Geojson, "write", fails)
    (folder / "in" / "cut.png").write_bytes(b"\x89PNG")
    done = run(folder, outputs=("geojson",))
    assert done.written == 2
    assert dict(done.failures)["x.png"] == "KeyError: 'a fault of a library'"
    assert "restore the file" in dict(done.failures)["cut.png"]
    assert not (folder / "out" / "x.png").exists()
    assert {each["name"] for each in record(folder)["cases"] if "failure" in each} == {"x.png", "cut.png"}


# ---------------------------------------------------------------------------------------------- who, when, what


def test_the_record_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "dr_who")
    (folder / "in" / "notes.webp").write_text("?")
    run(folder, outputs=("uncertainty",))
    said = record(folder)
    assert said["by"] == "dr_who"
    assert said["end"] == "done"
    assert said["began"] <= said["ended"]
    (maker,) = said["models"]
    assert maker["weights"] == medseg_weights(folder / "a.pt")
    by_name = {each["name"]: each for each in said["cases"]}
    assert by_name["x.png"]["sha256"] == hashlib.sha256((folder / "in" / "x.png").read_bytes()).hexdigest()
    for output in by_name["x.png"]["outputs"]:
        assert output["sha256"] == hashlib.sha256((folder / "out" / output["name"]).read_bytes()).hexdigest()
    assert by_name["x.png"]["numbers"].keys() == {"uncertainty"}
    assert said["left_out"] == [{"name": "notes.webp", "reason": "unknown format .webp"}]
    run(folder, overwrite=True)
    assert len(list((folder / "out").glob(RUN_RECORD))) == 2


def test_the_record_of_a_run_that_was_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what it had done; its journal, cut off in a line, is all that it leaves, and the next run makes the record."""
    with monkeypatch.context() as patched:
        patched.setattr(Audit, "write", lambda *_, **__: None)  # a kill comes before
        run(folder, outputs=("uncertainty",))
    (journal,) = (folder / "out").glob(".medseg_run_*")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:-1]) + lines[-1][:20])
    (folder / "out" / "x.png").rename(folder / "out" / ".0123abcd.x.png")  # it was being written
    (folder / "out" / ".0123abcd.model.pt").touch()  # nobody knows whose
    run(folder, outputs=("uncertainty",))
    assert [path.name for path in (folder / "out").glob(".0123abcd.*")] == [".0123abcd.model.pt"]
    killed, done = sorted(
        (json.loads(path.read_text()) for path in (folder / "out").glob(RUN_RECORD)),
        key=lambda said: said["end"] == "done",
    )
    assert (killed["end"], killed["models"]) == ("killed", done["models"])
    assert killed.keys() == done.keys()
    assert [case["name"] for case in killed["cases"]] == ["sub/z.tif", "y.png"]  # the last by its first line
    for case in killed["cases"]:
        assert case["sha256"] == hashlib.sha256((folder / "in" / case["name"]).read_bytes()).hexdigest()
        assert case["outputs"]
        assert case["numbers"].keys() == {"uncertainty"}
    assert [case["name"] for case in done["cases"]] == ["x.png"]
    assert not list((folder / "out").glob(".medseg_run_*"))


def medseg_weights(path: Path) -> str:
    from medseg.runs.header import read_header

    header = read_header(path)
    assert header is not None
    return str(header["sha256"])


@pytest.fixture
def everything_logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG):
        yield caplog


@pytest.mark.parametrize("keep", [False, True])
def test_identifiers_stay_where_they_are(
    tmp_path: Path, everything_logged: pytest.LogCaptureFixture, keep: bool
) -> None:
    save(tmp_path / "a.pt")
    for number in range(3):
        dicom_slice(tmp_path / "in" / "s" / f"{number}.dcm", "1.2.77", number, 40 * number)
    image = nibabel.Nifti1Image(grey(16, 16, 3), np.eye(4))
    image.header["descrip"] = b"Secret^Name"
    nibabel.save(image, tmp_path / "in" / "n.nii.gz")
    damaged = pydicom.dcmread(tmp_path / "in" / "s" / "0.dcm")
    damaged.SeriesInstanceUID = "1.2.78"
    del damaged.PixelData
    (tmp_path / "in" / "t").mkdir()
    damaged.save_as(tmp_path / "in" / "t" / "0.dcm")
    done = run(tmp_path, outputs=("measurements", "uncertainty", "probabilities"), keep_identifiers=keep)
    assert done.written == 2
    assert [name for name, _ in done.failures] == ["t"]
    assert "Secret" not in everything_logged.text + str(done.failures)
    assert "4711" not in everything_logged.text
    assert "1.2.77" not in everything_logged.text
    series = next(each for each in record(tmp_path)["cases"] if each["name"] == "s")
    assert (series["SeriesInstanceUID"], series["files"]) == ("1.2.77", 3)
    assert series.get("PatientName") == ("Secret^Name" if keep else None)
    mask: Any = nibabel.load(tmp_path / "out" / "n.nii.gz")
    assert (b"Secret" in mask.header["descrip"].tobytes()) is keep
    if not keep:
        for path in (tmp_path / "out").rglob("*"):
            assert not path.is_file() or b"Secret" not in path.read_bytes(), path
        assert "Secret" not in str(list((tmp_path / "out").rglob("*")))


def test_an_output_that_there_is_not(folder: Path) -> None:
    with pytest.raises(MedsegError, match="there is no output 'pdf'; choose of probabilities, "):
        run(folder, outputs=("pdf",))


def test_arrays(folder: Path) -> None:
    model = medseg.load(folder / "a.pt", device="cpu")
    pictures = [grey(14, 17), torch.from_numpy(grey(15, 17))]
    first, second = model.predict_all(pictures)
    np.testing.assert_array_equal(first.mask, model.predict(folder / "in" / "x.png").mask)
    assert second.mask.shape == (15, 17)
    assert first.probabilities is None


def test_progress_is_told(folder: Path) -> None:
    told: list[tuple[int, int]] = []
    (folder / "in" / "cut.png").write_bytes(b"\x89PNG")
    run(folder, progress=lambda done, total: told.append((done, total)))
    assert sorted(told) == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_that_cannot_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "out").write_text("a file")
    with pytest.raises(MedsegError, match=r"out is a file; name a folder for the masks"):
        run(folder)
    (folder / "out").unlink()

    def refuses(_self: MaskRecord) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(MaskRecord, "begin", refuses)
    with pytest.raises(MedsegError, match=r"out cannot be written: Permission denied; name another folder"):
        run(folder)
