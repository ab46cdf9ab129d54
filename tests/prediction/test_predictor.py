"""A folder of images in, a folder of masks out."""

import errno
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.transforms import AsDiscreted, Compose
from PIL import Image
from torch import Tensor, nn

from medseg.bundle.description import Description
from medseg.bundle.feeding import inferer
from medseg.errors import MedsegError
from medseg.io.folder import MASK_RECORD
from medseg.prediction.audit import RUN_RECORD
from medseg.prediction.predictor import ImageFolder, InputError, Predictor
from medseg.runs.checkpoint import CheckpointError

AFFINE = np.array([[0, -0.7, 0, 11], [0.6, 0, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])


class Threshold(nn.Module):
    """Values to classes, pixel by pixel: above 150 class 1, below 50 class 2."""

    def __init__(self) -> None:
        super().__init__()
        self.image = nn.Conv2d(1, 3, 1)
        with torch.no_grad():
            self.image.weight.copy_(torch.tensor([0.0, 1.0, -1.0]).reshape(3, 1, 1, 1))
            self.image.bias.copy_(torch.tensor([0.0, -150.0, 50.0]))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.image(x)
        return out


def expected(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.where(values > 150, 1, np.where(values < 50, 2, 0))


def grey(*shape: int, top: int = 256) -> np.ndarray[Any, Any]:
    return np.random.default_rng(sum(shape)).integers(0, top, shape)


def description(**options: Any) -> Description:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": 1, "out_channels": 3}
    content = {"name": "toy", "network": network, "classes": ["middle", "bright", "dark"], **options}
    return Description.of(content)


def predictor(folder: Path, output: Path, *, overwrite: bool = False, **options: Any) -> Predictor:
    model = options.pop("model", description(inference={"window": [16, 16]}))
    images = ImageFolder(folder, model, output, overwrite=overwrite)
    finish = Compose([AsDiscreted(keys="pred", argmax=True)])
    network = options.pop("network", None) or Threshold()
    return Predictor(
        torch.device("cpu"), images, network, inferer(model), finish, description=model, precision="fp32", **options
    )


def files(folder: Path) -> list[str]:
    """Return the masks, and whatever else lies there but for the records of what made them."""
    return sorted(
        str(p.relative_to(folder))
        for p in folder.rglob("*")
        if p.is_file() and p.name != MASK_RECORD and not p.match(RUN_RECORD)
    )


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """One image of each pixel format, two of them in subfolders."""
    folder = tmp_path / "in"
    (folder / "a" / "b").mkdir(parents=True)
    Image.fromarray(grey(40, 25).astype(np.uint8)).save(folder / "one.png", dpi=(300, 300))
    tifffile.imwrite(folder / "a" / "deep.tif", grey(20, 33, top=300).astype(np.uint16))
    Image.fromarray(np.repeat(np.repeat(grey(4, 3), 8, 0), 8, 1).astype(np.uint8)).save(folder / "a" / "b" / "p.jpg")
    Image.fromarray(grey(9, 9).astype(np.uint8)).save(folder / "SMALL.BMP")
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.png").write_bytes(b"no image either")
    return folder


@pytest.mark.parametrize("num_workers", [0, 2])
def test_masks_have_the_images_format_size_and_name(pictures: Path, tmp_path: Path, num_workers: int) -> None:
    out = tmp_path / "out"
    predictor(pictures, out, num_workers=num_workers).run()
    assert files(out) == ["SMALL.png", "a/b/p.png", "a/deep.tif", "one.png"]  # and no temporary file
    sources = {"a/b/p.png": "a/b/p.jpg", "SMALL.png": "SMALL.BMP"}
    for name in files(out):
        with Image.open(pictures / sources.get(name, name)) as image, Image.open(out / name) as mask:
            assert mask.size == image.size
            np.testing.assert_array_equal(np.array(mask), expected(np.array(image).astype(int)), err_msg=name)
    assert tifffile.imread(out / "a" / "deep.tif").dtype == np.uint8
    with Image.open(out / "one.png") as mask:
        assert mask.mode == "P"  # has colours for the eye
        assert mask.info["dpi"] == pytest.approx((300, 300), abs=0.1)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_volumes_go_slice_by_slice_and_keep_their_geometry(tmp_path: Path, suffix: str) -> None:
    values = grey(20, 31, 11)
    image = nibabel.Nifti1Image(values.astype(np.int16), AFFINE)
    image.set_qform(AFFINE, code=1)
    image.set_sform(AFFINE, code=2)
    image.header.set_xyzt_units("mm")
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / f"v{suffix}")
    nibabel.save(nibabel.Nifti1Image(values[..., :1].astype(np.float32), AFFINE), tmp_path / "in" / f"one{suffix}")
    predictor(tmp_path / "in", tmp_path / "out").run()
    assert files(tmp_path / "out") == [f"one{suffix}", f"v{suffix}"]
    written = nibabel.load(tmp_path / "out" / f"v{suffix}")
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected(values))
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.header.get_zooms() == image.header.get_zooms()
    assert written.header.get_xyzt_units() == image.header.get_xyzt_units()
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 2)
    assert nibabel.load(tmp_path / "out" / f"one{suffix}").shape == (20, 31, 1)


def test_scaled_volumes(tmp_path: Path) -> None:
    """An image stored with slope and intercept: neither may reach the mask."""
    image = nibabel.Nifti1Image(grey(16, 16, 2, top=100).astype(np.int16), AFFINE)
    image.header.set_slope_inter(2.0, 10.0)
    (tmp_path / "in").mkdir()
    nibabel.save(image, tmp_path / "in" / "v.nii.gz")
    values = np.asarray(nibabel.load(tmp_path / "in" / "v.nii.gz").dataobj)
    predictor(tmp_path / "in", tmp_path / "out").run()
    written = nibabel.load(tmp_path / "out" / "v.nii.gz")
    np.testing.assert_array_equal(np.asarray(written.dataobj), expected(values))
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)


def test_bad_files_are_reported_and_the_others_done(pictures: Path, tmp_path: Path) -> None:
    whole = (pictures / "one.png").read_bytes()
    (pictures / "a" / "cut.png").write_bytes(whole[:200])
    (pictures / "empty.nii.gz").write_bytes(b"")
    volume = np.full((8, 8, 2), 7.0, np.float32)
    volume[1, 2, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(volume, AFFINE), pictures / "nan.nii")
    Image.fromarray(grey(8, 8, 3).astype(np.uint8)).save(pictures / "colour.png")
    out = tmp_path / "out"
    running = predictor(pictures, out)
    with pytest.raises(InputError) as caught:
        running.run()
    first, *lines = str(caught.value).splitlines()
    assert first == "4 of 8 images could not be done:"
    reasons = dict(line.strip().split(": ", 1) for line in lines[:4])
    assert set(reasons) == {"a/cut.png", "colour.png", "empty.nii.gz", "nan.nii"}
    assert "restore the file" in reasons["a/cut.png"]
    assert "restore the file" in reasons["empty.nii.gz"]
    assert lines[4:] == ["left out 2 files:", "  .hidden.png: hidden", "  notes.txt: unknown format .txt"]
    assert reasons["nan.nii"].startswith("it holds NaN or infinite values; replace them")
    assert "3 channels" in reasons["colour.png"]
    assert files(out) == ["SMALL.png", "a/b/p.png", "a/deep.tif", "one.png"]


def test_all_bad(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.png").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"1 of 1 images could not be done:\n  x\.png: "):
        predictor(tmp_path / "in", tmp_path / "out").run()
    (kept,) = (tmp_path / "out").iterdir()
    assert kept.match(RUN_RECORD)


def test_finished_images_are_skipped_unless_asked(pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    predictor(pictures, out).run()
    before = {name: (out / name).stat().st_mtime_ns for name in files(out)}
    (out / "one.png").unlink()
    second = predictor(pictures, out)
    assert (second.skipped, len(second.todo)) == (3, 1)
    second.run()
    assert [p.name for p in second.written] == ["one.png"]
    third = predictor(pictures, out)
    third.run()
    assert (third.skipped, third.written) == (4, [])
    again = predictor(pictures, out, overwrite=True)
    again.run()
    assert len(again.written) == 4
    assert all((out / name).stat().st_mtime_ns > time for name, time in before.items())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_failed_write_leaves_nothing(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fails(path: Path, *_: Any, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(tifffile, "imwrite", fails)
    running = predictor(pictures, tmp_path / "out")
    with pytest.raises(InputError) as caught:
        running.run()
    others = ["SMALL.png", "a/b/p.png"]
    if code == errno.ENOSPC:  # the rest would fail too
        assert "a/deep.tif cannot be written: No space left on device. Masks so far (2) are whole" in str(caught.value)
    else:
        others.append("one.png")
        assert "1 of 4 images could not be done:\n  a/deep.tif: " in str(caught.value)
    assert files(tmp_path / "out") == others


def test_one_image(pictures: Path, tmp_path: Path) -> None:
    predictor(pictures / "one.png", tmp_path / "out").run()
    assert files(tmp_path / "out") == ["one.png"]


def test_masks_inside_the_folder_are_no_images(pictures: Path) -> None:
    predictor(pictures, pictures / "masks").run()
    assert predictor(pictures, pictures / "masks").skipped == 4
    assert len(predictor(pictures, pictures / "masks").todo) == 0


def test_masks_may_go_above_the_images(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(grey(16, 16).astype(np.uint8)).save(tmp_path / "images" / "x.png")
    predictor(tmp_path / "images", tmp_path).run()
    assert files(tmp_path) == ["images/x.png", "x.png"]


def test_no_image_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "in" / "in").mkdir(parents=True)
    for place in ("in/x.png", "in/in/x.png"):
        Image.fromarray(grey(16, 16).astype(np.uint8)).save(tmp_path / place)
    with pytest.raises(MedsegError, match=r"would replace the image .*x\.png"):
        predictor(tmp_path / "in", tmp_path)


def test_folders_that_cannot_be_used(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(MedsegError, match=r"none: no such file or folder; name an image or a folder of images"):
        predictor(tmp_path / "none", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty holds no image that can be read; it is empty"):
        predictor(tmp_path / "empty", tmp_path / "out")
    with pytest.raises(InputError, match="is the folder of the images; masks would replace them"):
        predictor(pictures, pictures)
    Image.fromarray(grey(8, 8).astype(np.uint8)).save(pictures / "one.jpg")
    with pytest.raises(
        MedsegError, match=r"one\.png and one\.jpg would both write one\.png|one\.jpg and one\.png would"
    ):
        predictor(pictures, tmp_path / "out")


def test_weights_are_loaded_and_must_fit(pictures: Path, tmp_path: Path) -> None:
    weights = Threshold().state_dict()
    weights["image.bias"] = torch.tensor([1000.0, 0, 0])  # class 0 everywhere
    torch.save(weights, tmp_path / "w.pt")
    predictor(pictures, tmp_path / "out", ckpt=tmp_path / "w.pt").run()
    with Image.open(tmp_path / "out" / "one.png") as mask:
        assert not np.array(mask).any()
    torch.save({"image.bias": torch.zeros(2)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match="does not fit Threshold"):
        predictor(pictures, tmp_path / "out", ckpt=tmp_path / "w.pt")


def test_one_class_everywhere_is_said_of_several_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "in" / name)
    predictor(tmp_path / "in", tmp_path / "out").run()
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert "the network predicts class 'bright' for 100 % of all pixels" in warned[0]
    caplog.clear()
    predictor(tmp_path / "in" / "a.png", tmp_path / "one").run()  # an image of one class is nothing strange
    Image.fromarray(np.full((8, 8), 20, np.uint8)).save(tmp_path / "in" / "b.png")
    predictor(tmp_path / "in", tmp_path / "two").run()
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
