"""Kinds of input that people have: the mask is that of the same values stored plainly, or one line says why not."""

import csv
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813
import tifffile
from dicom_series import AXIAL, write_series
from numpy.typing import NDArray
from PIL import Image

from medseg.prediction.predict import Outcome, predict

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (40, 48)).astype(np.uint8)
COLOUR = RANDOM.integers(0, 256, (40, 48, 3)).astype(np.uint8)
PAINTED = np.asarray(Image.fromarray(COLOUR).quantize(64).convert("RGB"))
VOLUME = RANDOM.integers(-100, 300, (20, 24, 12)).astype(np.int16)


def run(model: Path, images: Path, output: Path) -> Outcome:
    return predict(model, images, output, overrides={"device": "cpu"})


def read(path: Path) -> NDArray[Any]:
    if path.suffix.lower() in (".png", ".tif"):
        return tifffile.imread(path) if path.suffix.lower() == ".tif" else np.asarray(Image.open(path))
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))).transpose(2, 1, 0)


def mask_of(models: Path, kind: str, image: Path, output: Path) -> NDArray[Any]:
    """Return the mask of the only image of a folder."""
    done = run(models / f"{kind}.pt", image, output)
    assert (done.written, done.failures, done.left_out) == (1, [], [])
    (path,) = [each for each in output.rglob("*") if each.is_file() and not each.name.startswith("medseg_")]
    return read(path)


def png(path: Path, array: NDArray[Any] | Image.Image, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    (array if isinstance(array, Image.Image) else Image.fromarray(array)).save(path, **options)
    return path


def nifti(path: Path, array: NDArray[Any] = VOLUME) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([2, 2, 3, 1])), path)
    return path


def with_alpha(array: NDArray[np.uint8], opacity: int) -> NDArray[np.uint8]:
    return np.dstack([array, np.full(array.shape[:2], opacity, np.uint8)])


def painted(path: Path, **options: Any) -> Path:
    return png(path, Image.fromarray(PAINTED).quantize(64), **options)


PICTURES: dict[str, tuple[Callable[[Path], object], NDArray[np.uint8]]] = {  # writer, the same plainly
    "upper case": (lambda path: png(path / "lower.png", GREY).rename(path / "A.PNG"), GREY),
    "grey and opaque": (lambda path: png(path / "a.png", with_alpha(GREY, 255)), GREY),
    "grey, half seen": (lambda path: png(path / "a.png", with_alpha(GREY, 99)), GREY),
    "colour and opaque": (lambda path: png(path / "a.png", with_alpha(COLOUR, 255)), COLOUR),
    "colour, half seen": (lambda path: png(path / "a.png", with_alpha(COLOUR, 99)), COLOUR),
    "a palette": (lambda path: painted(path / "a.png"), PAINTED),
    "a palette with a hole": (lambda path: painted(path / "a.png", transparency=3), PAINTED),
    "one bit": (
        lambda path: png(path / "a.png", Image.fromarray(GREY > 128)),
        (GREY > 128).astype(np.uint8) * 255,
    ),
    "a TIFF in planes": (
        lambda path: tifffile.imwrite(
            path / "a.tif", np.moveaxis(COLOUR, -1, 0), photometric="rgb", planarconfig="separate"
        ),
        COLOUR,
    ),
    "a TIFF with alpha": (
        lambda path: tifffile.imwrite(
            path / "a.tif", with_alpha(COLOUR, 99), photometric="rgb", extrasamples=["unassalpha"]
        ),
        COLOUR,
    ),
    "a TIFF with a fourth sample": (
        lambda path: tifffile.imwrite(
            path / "a.tif", with_alpha(COLOUR, 99), photometric="rgb", extrasamples=["unspecified"]
        ),
        COLOUR,
    ),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_that_of_the_same_values(models: Path, tmp_path: Path, name: str) -> None:
    write, plain = PICTURES[name]
    (tmp_path / "in").mkdir()
    write(tmp_path / "in")
    png(tmp_path / "plain" / "a.png", plain)
    for kind in ("grey", "rgb"):
        found = mask_of(models, kind, tmp_path / "in", tmp_path / f"out_{kind}")
        np.testing.assert_array_equal(found, mask_of(models, kind, tmp_path / "plain", tmp_path / f"plain_{kind}"))
        assert len(np.unique(found)) > 1


@pytest.mark.parametrize(("kind", "page"), [("grey", GREY), ("rgb", COLOUR)])
def test_each_page_is_that_of_its_picture(models: Path, tmp_path: Path, kind: str, page: NDArray[np.uint8]) -> None:
    pages = np.stack([page, page[::-1], page[:, ::-1]])
    (tmp_path / "in").mkdir()
    photometric = "rgb" if page.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "in" / "a.tif", pages, photometric=photometric)
    found = mask_of(models, kind, tmp_path / "in", tmp_path / "out")
    assert found.shape == (3, 40, 48)
    for number, each in enumerate(pages):
        png(tmp_path / f"plain{number}" / "a.png", each)
        plain = mask_of(models, kind, tmp_path / f"plain{number}", tmp_path / f"out{number}")
        np.testing.assert_array_equal(found[number], plain)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_slice_in_a_file_of_volumes_keeps_its_place(models: Path, tmp_path: Path, suffix: str) -> None:
    """Its mask can be written, and measurements and maps know its spacing."""
    place = np.array([[0, -2, 0, 7], [3, 0, 0, -5], [0, 0, 4, 11], [0, 0, 0, 1.0]])
    (tmp_path / "in").mkdir()
    if ".nii" in suffix:
        nibabel.save(nibabel.Nifti1Image(GREY, place), tmp_path / "in" / f"a{suffix}")
    else:
        image = sitk.GetImageFromArray(np.ascontiguousarray(GREY.T))
        image.SetSpacing([3, 2])
        image.SetDirection([0, 1, -1, 0])
        image.SetOrigin([-7, 5])
        sitk.WriteImage(image, str(tmp_path / "in" / f"a{suffix}"))
    outputs = ["measurements", "uncertainty", "probabilities"]
    done = predict(models / "grey.pt", tmp_path / "in", tmp_path / "out", outputs=outputs, overrides={"device": "cpu"})
    assert (done.written, done.failures) == (1, [])
    written = tmp_path / "out" / f"a{suffix}"
    if ".nii" in suffix:
        mask: Any = nibabel.load(written)
        np.testing.assert_allclose(mask.affine, place)
        values = np.asarray(mask.dataobj)
    else:
        mask = sitk.ReadImage(str(written))
        assert (mask.GetSpacing(), mask.GetOrigin()) == ((3, 2), (-7, 5))
        np.testing.assert_allclose(mask.GetDirection(), [0, 1, -1, 0])
        values = sitk.GetArrayFromImage(mask).T
    png(tmp_path / "plain" / "a.png", GREY)
    np.testing.assert_array_equal(values, mask_of(models, "grey", tmp_path / "plain", tmp_path / "plain_out"))
    with (tmp_path / "out" / "measurements.csv").open(encoding="utf-8") as file:
        whole = [row for row in csv.DictReader(file) if row["part"] == "all"]
    for row in whole:
        pixels = int((values == int(row["class"])).sum())
        assert int(row["voxels"]) == pixels > 0
        assert float(row["area_mm2"]) == pytest.approx(6 * pixels)
        reach = np.argwhere(values == int(row["class"])) * [3, 2]
        assert float(row["longest_diameter_mm"]) >= np.linalg.norm(np.ptp(reach, axis=0)) / 2
    assert len(whole) == 2
    maps: Any = nibabel.load(tmp_path / "out" / "a.probabilities.nii.gz")
    np.testing.assert_allclose(maps.affine[:2, [0, 1, 3]], place[:2, [0, 1, 3]])
    predict(models / "grey.pt", tmp_path / "plain", tmp_path / "pages", outputs=outputs, overrides={"device": "cpu"})
    pages = tifffile.imread(tmp_path / "pages" / "a.probabilities.tif")
    np.testing.assert_allclose(np.asarray(maps.dataobj)[:, :, 0], np.moveaxis(pages, 0, -1), atol=1e-3)


@pytest.mark.parametrize("kind", ["grey", "rgb"])
@pytest.mark.parametrize("count", [2, 4])
def test_channels_that_are_no_alpha_are_not_left_out(models: Path, tmp_path: Path, kind: str, count: int) -> None:
    """Nor are they taken for colours: stains, or a volume's modalities."""
    (tmp_path / "in").mkdir()
    stains = RANDOM.integers(0, 256, (40, 48, count)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "in" / "a.tif", stains, photometric="minisblack", planarconfig="contig")
    nifti(tmp_path / "in" / "b.nii.gz", RANDOM.integers(0, 256, (20, 24, 12, count)).astype(np.uint8))
    done = run(models / f"{kind}.pt", tmp_path / "in", tmp_path / "out")
    said = (
        f"the image has {count} channels and does not say that one is alpha, but the model takes {kind} pictures of 1"
    )
    assert [name for name, _ in done.failures] == ["a.tif", "b.nii.gz"]
    assert all(said in reason for _, reason in done.failures)


def test_values_beyond_a_picture_s_are_refused_by_a_model_of_photographs(models: Path, tmp_path: Path) -> None:
    """Scaled by 255, 16 bits or a CT would give some mask."""
    png(tmp_path / "in" / "deep.png", GREY.astype(np.uint16) * 200)
    nifti(tmp_path / "in" / "ct.nii.gz")
    png(tmp_path / "in" / "plain.png", GREY)
    done = run(models / "rgb.pt", tmp_path / "in", tmp_path / "out")
    assert done.written == 1
    reasons = dict(done.failures)
    assert "its values go from 0 to 51000, but the model takes pictures of 0 to 255" in reasons["deep.png"]
    assert "its values go from -100 to 299, but the model takes pictures of 0 to 255" in reasons["ct.nii.gz"]


def dicom(path: Path) -> NDArray[np.int16]:
    """Write a series of 12 bits, in Hounsfield units by its intercept; return the values, ``(X, Y, Z)``."""
    stored = RANDOM.integers(0, 2000, (6, 16, 24)).astype(np.uint16)

    def change(number: int, data: pydicom.Dataset) -> None:
        data.BitsStored, data.HighBit, data.PixelRepresentation = 12, 11, 0
        data.RescaleSlope, data.RescaleIntercept = -1, 900
        data.PixelPaddingValue = 0
        data.PixelData = stored[number].tobytes()

    write_series(path, [0, 2, 4, 6, 8, 10], change, turn=AXIAL)
    return (900 - stored.astype(np.int16)).transpose(2, 1, 0)


@pytest.mark.parametrize("kind", ["ct", "mr"])
def test_a_volume_is_that_of_the_same_values(models: Path, tmp_path: Path, kind: str) -> None:
    """As 12 bits with a negative slope, a header and its values, under names in capitals, and twice under two names."""
    values = dicom(tmp_path / "dicom" / "s")
    for upper in (tmp_path / "dicom" / "s").iterdir():
        upper.rename(upper.with_suffix(".DCM"))
    affine = np.diag([-0.75, -0.5, 2, 1])
    affine[:3, 3] = [-10, -20, 30]
    (tmp_path / "plain").mkdir()
    nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / "plain" / "a.nii.gz")
    plain = mask_of(models, kind, tmp_path / "plain", tmp_path / "plain_out")
    assert len(np.unique(plain)) > 1
    image = sitk.ReadImage(str(tmp_path / "plain" / "a.nii.gz"))
    (tmp_path / "mhd").mkdir()
    sitk.WriteImage(image, str(tmp_path / "mhd" / "a.mhd"))  # its values lie in a.raw
    (tmp_path / "hdr").mkdir()
    nibabel.save(nibabel.Nifti1Pair(values, affine), tmp_path / "hdr" / "a.hdr")  # and in a.img
    (tmp_path / "upper").mkdir()
    shutil.copy(tmp_path / "plain" / "a.nii.gz", tmp_path / "upper" / "A.NII.GZ")
    for name in ("dicom", "mhd", "hdr", "upper"):
        found = mask_of(models, kind, tmp_path / name, tmp_path / f"{name}_out")
        np.testing.assert_array_equal(found, plain, err_msg=name)


def test_one_image_under_several_names_is_predicted_under_each(models: Path, tmp_path: Path) -> None:
    """Also as ``a.nii`` beside ``a.nii.gz``; a link to what is listed already loses nothing."""
    first = nifti(tmp_path / "in" / "a.nii.gz")
    nifti(tmp_path / "in" / "a.nii")
    shutil.copy(first, tmp_path / "in" / "copy.nii.gz")
    os.link(first, tmp_path / "in" / "hard.nii.gz")
    (tmp_path / "in" / "soft.nii.gz").symlink_to(first)
    (tmp_path / "in" / "again").symlink_to(tmp_path / "in")
    nifti(tmp_path / "in" / ".hidden.nii.gz")
    done = run(models / "ct.pt", tmp_path / "in", tmp_path / "out")
    assert (done.written, done.failures, done.missed) == (5, [], 0)
    assert dict(done.left_out) == {
        "again": "link to the folder itself, which is listed already",
        ".hidden.nii.gz": "hidden",
    }
    masks = [read(tmp_path / "out" / path.name) for path in (tmp_path / "in").glob("[!.]*.nii*")]
    assert len(masks) == 5
    for mask in masks[1:]:
        np.testing.assert_array_equal(mask, masks[0])


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nrrd", "a.mha"])
def test_a_volume_of_two_axes_has_a_mask_that_lies_where_it_lies(models: Path, tmp_path: Path, name: str) -> None:
    """Slices that were saved alone: a model of pictures took them, and then no mask could be written."""
    affine = np.diag([-0.5, -0.75, 1, 1])
    affine[:2, 3] = [10, 20]
    (tmp_path / "in").mkdir()
    nibabel.save(nibabel.Nifti1Image(GREY, affine), tmp_path / "flat.nii.gz")
    image = sitk.ReadImage(str(tmp_path / "flat.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "in" / name))
    png(tmp_path / "plain" / "a.png", GREY)
    wanted = ["probabilities", "measurements"]
    done = predict(models / "grey.pt", tmp_path / "in", tmp_path / "out", outputs=wanted, overrides={"device": "cpu"})
    assert (done.written, done.failures) == (1, [])
    mask = sitk.ReadImage(str(tmp_path / "out" / name))
    np.testing.assert_allclose(mask.GetSpacing(), image.GetSpacing())
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin())
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection())
    plain = mask_of(models, "grey", tmp_path / "plain", tmp_path / "plain_out")
    found = sitk.GetArrayFromImage(mask).T
    np.testing.assert_array_equal(found, plain)
    (maps,) = (tmp_path / "out").glob("*.probabilities.nii.gz")
    found = nibabel.load(maps).get_fdata()[:, :, 0]
    chosen = np.take_along_axis(found, plain[..., None].astype(int), -1)[..., 0]
    np.testing.assert_allclose(chosen, found.max(-1), atol=2 / 65535)  # the step of the maps
    assert found.std(axis=(0, 1)).min() > 1e-4
    with (tmp_path / "out" / "measurements.csv").open() as file:
        whole = [row for row in csv.DictReader(file) if row["part"] == "all"]
    for row, index in zip(whole, (1, 2), strict=True):
        assert float(row["volume_ml"]) * 1000 == pytest.approx(0.5 * 0.75 * np.count_nonzero(plain == index))


def test_a_name_that_says_compressed_or_not_and_lies(models: Path, tmp_path: Path) -> None:
    nifti(tmp_path / "in" / "a.nii").rename(tmp_path / "in" / "plain.nii.gz")
    nifti(tmp_path / "in" / "a.nii.gz").rename(tmp_path / "in" / "packed.nii")
    done = run(models / "ct.pt", tmp_path / "in", tmp_path / "out")
    reasons = dict(done.failures)
    assert reasons["plain.nii.gz"].endswith("is not compressed, whatever its name says; rename it, or restore the file")
    assert reasons["packed.nii"].endswith("is compressed; call it .nii.gz, or restore the file")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["0_mask.png", "1_mask.png"], True),
        (["labels/0.png", "labels/1.png"], True),
        (["p0/seg.png", "p1/seg.png"], True),
        (["0.png", "1.png"], False),
        (["lesion_photo_0.png", "lesion_photo_1.png"], False),
    ],
)
def test_a_folder_of_labels_alone_is_told(
    models: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, names: list[str], said: bool
) -> None:
    for name in names:
        png(tmp_path / "masks" / name, GREY // 128)
    assert run(models / "grey.pt", tmp_path / "masks", tmp_path / "out").written == 2
    line = f"all of 2 images are labels by their names, such as {names[0]}, and get masks as if they were images"
    assert (line in caplog.text) == said
    assert ("labels" in caplog.text) == said
