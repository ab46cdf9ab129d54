"""A bundle run by its parts, as MONAI Label and others do it: the mask is the prediction's, where the image lies."""

import json
from pathlib import Path
from typing import Any

import monai.bundle
import nibabel
import numpy as np
import pytest
import tifffile
import torch
from monai.data import MetaTensor
from PIL import Image
from tiny_models import write_model

from medseg.bundle.by_parts import ToMaskd, trained
from medseg.bundle.description import Description, DescriptionError
from medseg.bundle.pack import pack
from medseg.bundle.record import read_weights
from medseg.bundle.unpack import unpack
from medseg.engines.precision import network_to_channels_last
from medseg.errors import MedsegError
from medseg.prediction.model import load


def bundle_of(folder: Path, kind: str, **described: Any) -> tuple[Path, Path]:
    """Return weights of a tiny model, and the folder of its bundle as `medseg unpack --pt` writes it."""
    weights = write_model(folder / "run" / "model.pt", kind, **described)
    unpack(pack(weights, folder / f"{kind}.zip").path, folder / kind, pickled=True)
    return weights, folder / kind


def volume(path: Path, codes: str, edges: tuple[float, float, float], degrees: float = 0.0) -> Path:
    """Write a volume whose axes run as ``codes`` say, with voxels of these edges in mm, turned about its last axis."""
    turn, cos, sin = np.eye(4), np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn[:2, :2] = [[cos, -sin], [sin, cos]]
    axes = np.zeros((4, 4))
    axes[3, 3] = 1
    for axis, code in enumerate(codes):
        row = next(row for row, pair in enumerate(("LR", "PA", "IS")) if code in pair)
        axes[row, axis] = edges[axis] * (1 if code in "RAS" else -1)
    values = np.random.default_rng(0).normal(50, 150, (11, 14, 9)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, turn @ axes), path)
    return path


def parts(bundle: Path) -> monai.bundle.ConfigParser:
    """Return the configuration of a bundle that lies in a folder."""
    parser = monai.bundle.ConfigParser()
    parser.read_config(bundle / "configs" / "inference.yaml")
    parser["bundle_root"] = str(bundle)
    return parser


def by_parts(bundle: Path, image: Path) -> MetaTensor:
    """Return ``pred`` after everything, by nothing but MONAI's keys."""
    parser = parts(bundle)
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    network_to_channels_last(network)  # as a prediction does: another layout rounds otherwise
    data = parser.get_parsed_content("preprocessing")({"image": str(image)})
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network.eval())[0]
    found = parser.get_parsed_content("postprocessing")(data)["pred"]
    assert isinstance(found, MetaTensor)
    return found


@pytest.mark.parametrize(
    ("kind", "codes", "edges", "degrees"),
    [
        ("mr", "PIL", (1.0, 1.0, 1.0), 0),
        ("ct", "LPS", (3.0, 2.5, 5.0), 0),
        ("ct", "SRA", (3.0, 2.5, 5.0), 12),
        ("slices", "RSP", (3.0, 2.5, 5.0), 0),
    ],
)
def test_the_mask_of_a_volume(
    tmp_path: Path, kind: str, codes: str, edges: tuple[float, float, float], degrees: float
) -> None:
    fed = {"input": {"intensity": {"scheme": "zscore"}, "orientation": "RAS"}} if kind == "mr" else {}
    weights, bundle = bundle_of(tmp_path, kind, postprocess={"b": {"largest": True}}, **fed)
    path = volume(tmp_path / "x.nii.gz", codes, edges, degrees)
    expected = load(weights, device="cpu").predict(path)
    found = by_parts(bundle, path)
    assert len(np.unique(expected.mask)) == 3
    np.testing.assert_array_equal(found.numpy()[0], expected.mask)
    assert found.dtype == torch.uint8
    np.testing.assert_allclose(found.affine, nibabel.load(path).affine, atol=1e-6)


@pytest.mark.parametrize("kind", ["grey", "rgb"])
def test_the_mask_of_a_picture_and_of_a_stack(tmp_path: Path, kind: str) -> None:
    weights, bundle = bundle_of(tmp_path, kind)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 22, 31, 3)).astype(np.uint8)
    Image.fromarray(pixels[0]).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", pixels, photometric="rgb")
    for name in ("x.png", "x.tif") if kind == "grey" else ("x.png",):
        expected = load(weights, device="cpu").predict(tmp_path / name).mask
        found = by_parts(bundle, tmp_path / name)
        np.testing.assert_array_equal(found.numpy()[0], expected)
        assert len(np.unique(expected)) == 3


def test_what_the_model_does_not_take_is_refused(tmp_path: Path) -> None:
    _, bundle = bundle_of(tmp_path, "mr")
    path = volume(tmp_path / "x.nii.gz", "RAS", (1, 1, 1))
    image = nibabel.load(path)
    values = image.get_fdata()
    values[0, 0, 0] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, image.affine), tmp_path / "nan.nii.gz")
    Image.fromarray(np.zeros((20, 20), np.uint8)).save(tmp_path / "x.png")
    nibabel.save(nibabel.Nifti1Image(np.ones((8, 8, 8, 2)), image.affine), tmp_path / "two.nii.gz")
    for name, said in (
        ("nan.nii.gz", "it holds NaN or infinite values"),
        ("x.png", "it is a picture, but the model takes volumes"),
        ("two.nii.gz", "it has 2 channels, but the model takes 1"),
    ):
        with pytest.raises((MedsegError, RuntimeError)) as caught:
            by_parts(bundle, tmp_path / name)
        assert said in f"{caught.value} {caught.value.__cause__}", name


def test_weights_say_what_they_are(tmp_path: Path) -> None:
    """A configuration that feeds them otherwise is refused, one that knows less learns it of them."""
    weights = write_model(tmp_path / "model.pt", "mr", postprocess={"b": {"largest": True}})
    theirs = read_weights(weights).description
    assert theirs is not None
    less = Description.of({**theirs.to_dict(), "postprocess": {}})
    assert trained(less, weights).postprocess == {"b": {"largest": True}}
    assert trained(less, tmp_path / "none.pt") is less
    other = Description.of({**theirs.to_dict(), "input": {"intensity": {"scheme": "image"}}})
    with pytest.raises(DescriptionError, match=r"trained otherwise: input intensity .*zscore"):
        trained(other, weights)


def test_an_image_that_says_nothing_of_its_file(tmp_path: Path) -> None:
    described = read_weights(write_model(tmp_path / "model.pt", "grey")).description
    assert described is not None
    logits = torch.zeros(3, 8, 8)
    for image in (torch.zeros(1, 8, 8), MetaTensor(torch.zeros(1, 8, 8)), None):
        with pytest.raises(MedsegError, match="'image' does not say of what size its file is"):
            ToMaskd("pred", described)({"image": image, "pred": logits})


def test_names_that_monai_label_reads(tmp_path: Path) -> None:
    _, bundle = bundle_of(tmp_path, "mr")
    held = json.loads((bundle / "configs" / "metadata.json").read_text())["network_data_format"]
    assert next(iter(held["inputs"])) == "image"
    assert held["outputs"]["pred"]["channel_def"] == {"0": "background", "1": "b", "2": "c"}
