"""People are shown images as their files have them, whatever a network is fed."""

import io
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from bundle.test_feeding import description
from PIL import Image
from torch import Tensor, nn

from medseg.bundle import feeding
from medseg.bundle.samples import scored_samples
from medseg.engines.evaluator import Evaluator

LABELS = {0: "background", 1: "object"}
TURNED = np.array([[0, 0, -2.0, 5], [0, 1, 0, -9], [1.5, 0, 0, 7], [0, 0, 0, 1]])  # a volume stored as S, A, L


class Mean(nn.Module):
    """Object where the mean over the channels is above 0.5."""

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        return torch.cat([0.5 - mean, mean - 0.5], 1)


def shown(entry: dict[str, str], *, native: bool, dims: int = 2, **fed: Any) -> tuple[dict[str, Any], Tensor]:
    """Return the case that a report shows, and the image that the network is fed."""
    data = scored_samples([entry], description(dims, **fed), native=native)
    evaluator = Evaluator("cpu", data, Mean(), LABELS, precision="fp32")
    evaluator.score(evaluator.network)
    (case,) = evaluator.result().cases
    return case, data[0]["image"]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("colour", "scheme"), [("rgb", "image"), ("grey", "image"), ("rgb", "zscore"), (None, "none"), ("rgb", "range")]
)
def test_a_picture_keeps_its_colours(tmp_path: Path, native: bool, colour: str | None, scheme: str) -> None:
    """Dark nuclei in a stained tissue, of which the network sees a negative."""
    pixels = np.full((12, 16, 3), (240, 180, 220), np.uint8)
    pixels[3:6, 4:9] = (90, 40, 140)
    label = (pixels[..., 0] == 90).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray(label).save(tmp_path / "label.png")
    entry = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    case, fed = shown(entry, native=native, polarity="bright", colour=colour, intensity={"scheme": scheme})
    np.testing.assert_array_equal(case["image"], pixels.transpose(2, 0, 1))
    assert case["window"] is None
    assert fed[0, 4, 5] > fed[0, 0, 0]
    np.testing.assert_array_equal(case["label"], label)


@pytest.mark.parametrize("native", [False, True])
def test_a_volume_lies_where_its_label_does(tmp_path: Path, native: bool) -> None:
    values = np.random.default_rng(0).integers(0, 1000, (7, 9, 8)).astype(np.int16)
    values[:4] += 3000  # most is bright: fed as a negative
    values[5:] += 3000
    for name, array in (("image", values), ("label", (values < 2000).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, TURNED), tmp_path / f"{name}.nii.gz")
    entry = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    options: dict[str, Any] = {"polarity": "bright", "intensity": {"scheme": "image"}}
    case, fed = shown(entry, native=native, dims=3, **options, spacing=[1, 2, 3] if native else None)
    if native:  # on the file's own grid, of whatever grid the network saw
        np.testing.assert_array_equal(case["image"][0], values)
        np.testing.assert_array_equal(case["affine"], TURNED)
    else:
        assert case["image"].shape == fed.shape == (1, 8, 9, 7)
        np.testing.assert_array_equal(case["image"][0], values.transpose(2, 1, 0)[::-1])


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("intensity", "window"),
    [
        ({"scheme": "range", "low": -1000, "high": 400, "clip": True}, [-1000, 400]),
        ({"scheme": "range", "low": -1000, "high": 400}, [-160, 240]),  # the model sees all: soft tissue
        ({"scheme": "zscore"}, [-160, 240]),
    ],
)
def test_a_ct_is_shown_through_a_window(
    tmp_path: Path, native: bool, intensity: dict[str, Any], window: list[float]
) -> None:
    values = np.full((9, 9, 8), -1000, np.int16)
    values[2:7, 2:7] = 100
    for name, array in (("image", values), ("label", (values > 0).astype(np.uint8))):
        nibabel.save(nibabel.Nifti1Image(array, TURNED), tmp_path / f"{name}.nii.gz")
    entry = {"image": str(tmp_path / "image.nii.gz"), "label": str(tmp_path / "label.nii.gz")}
    case, _ = shown(entry, native=native, dims=3, intensity=intensity)
    assert case["window"] == window
    assert sorted(np.unique(case["image"]).tolist()) == [-1000, 100]  # in the file's own units


def test_a_file_that_is_gone_costs_its_picture_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("image", "label"):
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / f"{name}.png")
    entry = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    data = scored_samples([entry], description(2))
    evaluator = Evaluator("cpu", data, Mean(), LABELS, precision="fp32")
    evaluator.score(evaluator.network)
    (tmp_path / "image.png").unlink()
    result = evaluator.result()
    assert (len(result.cases), len(result.rows)) == (0, 3)
    assert "image.png: there is no picture of it" in caplog.text


def test_a_real_stained_tissue(real_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(real_data / "dsb2018" / "stage1_train.zip") as archive:
        for name in sorted(name for name in archive.namelist() if "/images/" in name and name.endswith(".png")):
            pixels = np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB"))
            if np.median(pixels) > 140 and np.ptp(pixels.astype(int), axis=-1).mean() > 20:
                break  # bright and coloured
    Image.fromarray(pixels).save(tmp_path / "image.png")
    Image.fromarray((pixels.mean(-1) < 140).astype(np.uint8)).save(tmp_path / "label.png")
    entry = {"image": str(tmp_path / "image.png"), "label": str(tmp_path / "label.png")}
    case, fed = shown(entry, native=True, polarity="bright", colour="rgb", intensity={"scheme": "image"})
    np.testing.assert_array_equal(case["image"], pixels.transpose(2, 0, 1))
    assert np.corrcoef(fed.numpy().ravel(), case["image"].ravel())[0, 1] < -0.99  # the network's is the negative


def test_a_model_of_photographs_takes_every_kind_of_picture(tmp_path: Path) -> None:
    """Grey, for print, half-transparent, of a palette, or stored turned: three channels, upright."""
    colours = np.zeros((12, 16, 3), np.uint8)
    colours[:, 8:] = (200, 100, 50)
    picture = Image.fromarray(colours)
    exif = Image.Exif()
    exif[0x112] = 6  # stored with its top to the right
    half = picture.copy()
    half.putalpha(128)
    picture.convert("L").save(tmp_path / "grey.png")
    picture.convert("CMYK").save(tmp_path / "print.jpg", quality=100)
    half.save(tmp_path / "half.png")
    picture.convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(np.rot90(colours)).save(tmp_path / "turned.jpg", quality=100, exif=exif)
    feed = feeding.prediction(description(2, colour="rgb", intensity={"scheme": "imagenet"}))
    for path in sorted(tmp_path.iterdir()):
        image = feed({"image": str(path)})["image"]
        assert (tuple(image.shape), image.dtype) == ((3, 12, 16), torch.uint8), path.name
        expected = np.full(3, 0.299 * 200 + 0.587 * 100 + 0.114 * 50) if path.name == "grey.png" else (200, 100, 50)
        assert np.abs(image[:, 6, 12].numpy().astype(float) - expected).max() <= 8, path.name
        assert image[:, 6, 3].max() <= 8, path.name
