"""Masks in the image's own format, size and geometry."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.io.masks import mask_path, write_mask

MASK = np.arange(30, dtype=np.int64).reshape(5, 6) % 4


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_pixel_formats(tmp_path: Path, suffix: str) -> None:
    image, target = tmp_path / f"i{suffix}", tmp_path / "out" / f"i{suffix}"
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(image)
    write_mask(MASK, image, target)
    with Image.open(target) as written:
        np.testing.assert_array_equal(np.array(written), MASK)
    assert [p.name for p in target.parent.iterdir()] == [target.name]


def test_jpeg_images_get_png_masks(tmp_path: Path) -> None:
    assert mask_path(tmp_path / "a" / "b.jpg", tmp_path, tmp_path / "o") == tmp_path / "o" / "a" / "b.png"
    assert mask_path(tmp_path / "v.nii.gz", tmp_path, tmp_path / "o") == tmp_path / "o" / "v.nii.gz"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_keeps_its_geometry(tmp_path: Path, suffix: str) -> None:
    affine = np.array([[0, -0.7, 0, 11], [0.7, 0, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
    image = nibabel.Nifti1Image(np.zeros((5, 6, 3), np.int16), affine)
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=2)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / f"v{suffix}")
    mask = np.stack([MASK, MASK + 1, MASK], -1)
    write_mask(mask, tmp_path / f"v{suffix}", tmp_path / "out" / f"v{suffix}")
    written = nibabel.load(tmp_path / "out" / f"v{suffix}")
    np.testing.assert_array_equal(np.asarray(written.dataobj), mask)
    np.testing.assert_allclose(written.affine, affine)
    assert written.header.get_zooms() == image.header.get_zooms()
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 2)
    assert written.get_data_dtype() == np.uint8


def test_wrong_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((6, 5), np.uint8)).save(tmp_path / "i.png")
    with pytest.raises(ValueError, match=r"the mask of .*i\.png is 6 x 5, the image 5 x 6"):
        write_mask(MASK, tmp_path / "i.png", tmp_path / "o.png")
    assert not (tmp_path / "o.png").exists()


def test_images_of_several_channels_get_one_mask(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 6, 3, 4), np.float32), np.diag([1.0, 2.0, 3.0, 1.0]))
    nibabel.save(image, tmp_path / "v.nii.gz")
    write_mask(np.stack([MASK] * 3, -1), tmp_path / "v.nii.gz", tmp_path / "m.nii.gz")
    written = nibabel.load(tmp_path / "m.nii.gz")
    assert written.shape == (5, 6, 3)
    assert written.header.get_zooms() == (1, 2, 3)
    np.testing.assert_allclose(written.affine, image.affine)
    with pytest.raises(ValueError, match=r"has shape \(5, 6, 2\), the image \(5, 6, 3, 4\)"):
        write_mask(np.stack([MASK] * 2, -1), tmp_path / "v.nii.gz", tmp_path / "n.nii.gz")


def test_many_classes_need_sixteen_bits(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "i.png")
    write_mask(MASK + 300, tmp_path / "i.png", tmp_path / "o.png")
    with Image.open(tmp_path / "o.png") as written:
        np.testing.assert_array_equal(np.array(written), MASK + 300)
