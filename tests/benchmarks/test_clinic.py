"""`benchmarks.clinic` compares masks by where they lie: one that is moved, or lies between voxels, is not the same."""

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from benchmarks import clinic

SHAPE = (9, 7, 5)


@pytest.fixture
def grid() -> sitk.Image:
    """Voxels of three sizes, turned about the last axis, away from the origin."""
    image = sitk.GetImageFromArray(np.zeros(SHAPE[::-1], np.int16))
    image.SetSpacing((0.5, 1.25, 3.0))
    image.SetOrigin((-20.0, 11.0, 40.0))
    cos, sin = np.cos(0.3), np.sin(0.3)
    image.SetDirection((cos, -sin, 0, sin, cos, 0, 0, 0, 1))
    return image


@pytest.fixture
def mask() -> np.ndarray:
    made = np.zeros(SHAPE, np.uint8)
    made[1:5, 2:4, 1:3], made[6, 5, 4] = 1, 2
    return made


def test_the_affine_is_simpleitks(grid: sitk.Image) -> None:
    index = (3, 5, 2)
    expected = grid.TransformIndexToPhysicalPoint(index)
    np.testing.assert_allclose((clinic.affine_of(grid) @ (*index, 1))[:3], expected)


def test_a_crop_of_it_in_another_order_of_axes_is_the_same(grid: sitk.Image, mask: np.ndarray) -> None:
    affine = clinic.affine_of(grid)
    np.testing.assert_array_equal(clinic.on_grid(mask, affine, grid), mask)
    turned = np.array([[0, 1, 0, 1], [-1, 0, 0, 8], [0, 0, 1, 1], [0, 0, 0, 1.0]])  # index of the crop to the grid's
    crop = np.zeros((9, 6, 4), np.uint8)
    for x, y, z in np.argwhere(mask):
        crop[tuple((np.linalg.inv(turned) @ (x, y, z, 1)).round().astype(int)[:3])] = mask[x, y, z]
    np.testing.assert_array_equal(clinic.on_grid(crop, affine @ turned, grid), mask)


def test_a_moved_mask_is_found(grid: sitk.Image, mask: np.ndarray) -> None:
    affine = clinic.affine_of(grid)
    moved = affine.copy()
    moved[:3, 3] += affine[:3, 0]  # a voxel
    assert (clinic.on_grid(mask, moved, grid) != mask).any()
    moved[:3, 3] = affine[:3, 3] + 0.1 * affine[:3, 0]
    with pytest.raises(SystemExit, match="beside the voxels"):
        clinic.on_grid(mask, moved, grid)
    moved[:3, 3] = affine[:3, 3] + 3 * affine[:3, 0]
    with pytest.raises(SystemExit, match="beside the voxels"):
        clinic.on_grid(mask, moved, grid)


def test_a_nifti_of_the_same_place_is_the_same(grid: sitk.Image, mask: np.ndarray, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(mask.transpose(2, 1, 0))
    image.CopyInformation(grid)
    sitk.WriteImage(image, str(tmp_path / "a.nii.gz"))
    np.testing.assert_array_equal(clinic.by_nibabel(tmp_path / "a.nii.gz", grid), mask)


def test_volumes_and_places_of_labels(tmp_path: Path) -> None:
    (tmp_path / "labelsTr").mkdir()
    for number, depth in enumerate((1, 3)):
        label = np.zeros((4, 10, 4), np.uint8)
        label[:2, 8, :depth], label[:2, 2, 0] = 1, 2  # 12 mm in front, as the axis runs to the front
        nibabel.save(nibabel.Nifti1Image(label, np.diag([10, 2, 5, 1])), tmp_path / "labelsTr" / f"{number}.nii.gz")
    found = clinic.labels_of(tmp_path, ["background", "a", "b"])
    assert found["number"] == 2
    assert found["ml"]["a"] == pytest.approx({"least": 0.2, "most": 0.6, "mean": 0.4})
    assert found["ml"]["b"] == pytest.approx({"least": 0.2, "most": 0.2, "mean": 0.2})
    assert found["in_front_mm"] == pytest.approx({"least": 12, "most": 12, "mean": 12})
    with pytest.raises(SystemExit, match="not there"):
        clinic.in_front(np.ones((2, 2, 2)), np.eye(4))


def test_nothing_names_a_patient(real_data: Path) -> None:
    """The record has no text of the series' headers, and no folder."""
    import pydicom

    said = (Path(__file__).parents[2] / "docs" / "results" / "clinic.json").read_text()
    assert json.loads(said)["result"]["series"]
    for path in (real_data / "dicom_mr_hippocrop" / "study1" / "1.dcm", real_data / "dicom_ct_dcmqi/ct-3slice/01.dcm"):
        head = pydicom.dcmread(path, stop_before_pixels=True)
        texts = [str(each.value) for each in head if each.VR in ("UI", "PN", "LO", "SH", "DA") and each.value]
        assert len(texts) > 5
        assert [text for text in texts if len(text) > 5 and text in said] == []
    assert str(real_data.resolve()) not in said
