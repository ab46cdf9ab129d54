"""Masks of volumes: where the image lies, and nothing else of its header."""

from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest

from medseg.io.mask_volumes import write_nifti
from medseg.io.masks import write_mask
from medseg.io.placement import Grid

PAGE = np.arange(30, dtype=np.int64).reshape(5, 6) % 4
MASK = np.stack([PAGE, PAGE + 1, PAGE], -1)
OBLIQUE = np.array([[0.1, -0.69, 0.2, 11], [0.69, 0.1, 0.1, -4], [-0.05, 0.02, 2.4, 3], [0, 0, 0, 1.0]])
TURNED = np.array([[0, -0.7, 0, 11], [0.7, 0, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
SHEARED = np.array([[1, 0.4, 0, 11], [0, 1, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])


def volume(path: Path, affine=TURNED, *, qform=1, sform=2, shape=(5, 6, 3), kind=nibabel.Nifti1Image, **forms) -> Path:
    image = kind(np.zeros(shape, np.int16), affine)
    image.set_qform(forms.get("qform_affine", affine), code=qform)
    image.set_sform(affine, code=sform)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"patient 7, born"
    image.header["aux_file"] = b"patient"
    image.header["intent_name"] = b"patient"
    if kind is nibabel.Nifti1Image:
        image.header["db_name"] = b"patient"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"patient 7"))
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize(("qform", "sform"), [(1, 2), (0, 2), (1, 0), (0, 0), (3, 4)])
def test_nifti_keeps_place_and_codes(tmp_path: Path, suffix: str, qform: int, sform: int) -> None:
    path = volume(tmp_path / f"v{suffix}", qform=qform, sform=sform)
    write_mask(MASK, path, tmp_path / "out" / f"v{suffix}")
    image, written = nibabel.load(path), nibabel.load(tmp_path / "out" / f"v{suffix}")
    np.testing.assert_array_equal(np.asarray(written.dataobj), MASK)
    np.testing.assert_array_equal(written.affine, image.affine)
    assert written.header.get_zooms() == image.header.get_zooms()
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (qform, sform)
    if qform:
        np.testing.assert_allclose(written.get_qform(), TURNED, atol=1e-5)
    assert written.get_data_dtype() == np.uint8
    assert written.header.get_xyzt_units() == ("mm", "unknown")
    read = itk.imread(str(tmp_path / "out" / f"v{suffix}"))  # an independent reader sees both in one place
    original = itk.imread(str(path))
    np.testing.assert_allclose(list(read.GetOrigin()), list(original.GetOrigin()), atol=1e-5)
    np.testing.assert_allclose(itk.array_from_matrix(read.GetDirection()), original.GetDirection(), atol=1e-5)


FORMS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


@pytest.mark.parametrize(("qform", "sform"), [(0, 2), (1, 0), (1, 2)])
def test_what_lies_there_stays_to_the_last_digit(tmp_path: Path, qform: int, sform: int) -> None:
    """A qform that does not count may say anything."""
    axes, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine = OBLIQUE.copy()
    affine[:3, :3] = axes * (0.7, 0.8, 2.5)
    other = affine if qform else TURNED
    path = volume(tmp_path / "V.NII", affine, qform=qform, sform=sform, qform_affine=other)
    write_mask(MASK, path, tmp_path / "o.nii")
    image, written = nibabel.load(path).header, nibabel.load(tmp_path / "o.nii").header
    assert {field: written[field].tolist() for field in FORMS} == {field: image[field].tolist() for field in FORMS}
    assert (int(written["qform_code"]), int(written["sform_code"])) == (qform, sform)


def test_of_a_grid_alone_both_forms_are_the_scanners(tmp_path: Path) -> None:
    write_mask(MASK, Grid((5, 6, 3), TURNED), tmp_path / "o.nii")
    header = nibabel.load(tmp_path / "o.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 1)
    assert header.get_xyzt_units() == ("mm", "unknown")


@pytest.mark.parametrize(
    ("stored", "mask", "written"),
    [
        ((5, 6, 1), (5, 6), (5, 6, 1)),
        ((5, 1, 6), (5, 6), (5, 1, 6)),
        ((5, 6, 1, 4), (5, 6), (5, 6, 1)),
        ((5, 6), (5, 6, 1), (5, 6, 1)),
        ((5, 6, 3), (5, 6), (5, 6)),
    ],
)
def test_axes_of_one_voxel(
    tmp_path: Path, stored: tuple[int, ...], mask: tuple[int, ...], written: tuple[int, ...]
) -> None:
    path = volume(tmp_path / "v.nii", shape=stored)
    write_nifti(PAGE.astype(np.uint8).reshape(mask), TURNED, tmp_path / "o.nii", source=path, keep_header=False)
    image = nibabel.load(tmp_path / "o.nii")
    assert image.shape == written
    np.testing.assert_array_equal(np.asarray(image.dataobj).reshape(5, 6), PAGE)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_masks_are_compressed(tmp_path: Path, suffix: str) -> None:
    write_mask(np.zeros((50, 50, 50), int), Grid((50, 50, 50), np.eye(4)), tmp_path / f"o{suffix}")
    assert (tmp_path / f"o{suffix}").stat().st_size < 10_000


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_clean_header(tmp_path: Path, keep: bool, kind: type) -> None:
    path = volume(tmp_path / "v.nii", kind=kind)
    write_mask(MASK, path, tmp_path / "o.nii", keep_header=keep)
    assert (b"patient" in (tmp_path / "o.nii").read_bytes()) == keep
    written = nibabel.load(tmp_path / "o.nii")
    assert type(written) is kind
    assert len(written.header.extensions) == keep
    np.testing.assert_array_equal(np.asarray(written.dataobj), MASK)
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)


@pytest.mark.parametrize("suffix", [".nii", ".nrrd"])
def test_the_header_is_clean_unless_asked_for(tmp_path: Path, suffix: str) -> None:
    path = volume(tmp_path / "v.nii")
    if suffix == ".nrrd":
        image = itk.imread(str(path))
        image["PatientName"] = "patient"
        itk.imwrite(image, str(path := tmp_path / "v.nrrd"))
    assert b"patient" in path.read_bytes()
    write_mask(MASK, path, tmp_path / f"o{suffix}")
    assert b"patient" not in (tmp_path / f"o{suffix}").read_bytes()


def test_scaled_images_do_not_scale_the_mask(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.linspace(-1, 1, 90).reshape(5, 6, 3), TURNED)
    image.header.set_data_dtype(np.int16)
    image.header["cal_max"] = 7
    nibabel.save(image, tmp_path / "v.nii")
    for keep in (False, True):
        write_mask(MASK + 300, tmp_path / "v.nii", tmp_path / "o.nii", keep_header=keep)
        written = nibabel.load(tmp_path / "o.nii")
        np.testing.assert_array_equal(np.asarray(written.dataobj), MASK + 300)
        assert written.get_data_dtype() == np.uint16
        assert (float(written.header["cal_max"]), written.dataobj.slope) == (0, 1)


def test_forms_that_disagree_agree_in_the_mask(tmp_path: Path) -> None:
    moved = TURNED.copy()
    moved[0, 3] += 20
    path = volume(tmp_path / "v.nii", qform_affine=moved)
    write_mask(MASK, path, tmp_path / "o.nii")
    written = nibabel.load(tmp_path / "o.nii")
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    np.testing.assert_allclose(written.get_qform(), written.affine, atol=1e-5)
    assert (int(written.header["qform_code"]), int(written.header["sform_code"])) == (1, 2)


@pytest.mark.parametrize(
    "fields",
    [
        {"qform_code": 0, "pixdim": [1, 5, 5, 5, 1, 1, 1, 1]},
        {"qform_code": 0, "pixdim": [1, *[np.nan] * 3, 1, 1, 1, 1]},
        {"quatern_b": 0.9, "quatern_c": 0.9},
        {"sform_code": 0, "quatern_b": 0, "quatern_c": 0, "quatern_d": 1.0001},
    ],
)
def test_what_a_header_says_beside_the_place_is_mended_in_the_mask(tmp_path: Path, fields: dict[str, Any]) -> None:
    """ITK takes the spacing from pixdim, nibabel refuses a quaternion that rounding made too long."""
    path = volume(tmp_path / "v.nii", np.diag([-2.0, -2, 3, 1]), qform_affine=np.diag([-2.0, -2, 3, 1]))
    with path.open("r+b") as file:
        header: Any = nibabel.Nifti1Header(file.read(348), check=False)
        for name, value in fields.items():
            header[name] = value
        file.seek(0)
        file.write(header.binaryblock)
    write_mask(MASK, path, tmp_path / "o.nii")
    written = nibabel.load(tmp_path / "o.nii")
    np.testing.assert_allclose(written.affine, np.diag([-2.0, -2, 3, 1]), atol=1e-5)
    found = itk.imread(str(tmp_path / "o.nii"))
    np.testing.assert_allclose(found.GetSpacing(), (2, 2, 3), rtol=1e-5)
    np.testing.assert_allclose(itk.array_from_matrix(found.GetDirection()), np.eye(3), atol=1e-3)  # of LPS


def test_sheared_volumes_have_no_qform(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 6, 3), np.int16), SHEARED)  # sform only
    nibabel.save(image, tmp_path / "v.nii")
    both = volume(tmp_path / "both.nii", SHEARED)
    sources = {"a.nii": tmp_path / "v.nii", "b.nii": Grid((5, 6, 3), SHEARED), "c.nii": both}
    for target, source in sources.items():
        write_mask(MASK, source, tmp_path / target)
        written = nibabel.load(tmp_path / target)
        np.testing.assert_allclose(written.affine, SHEARED, atol=1e-6)
        assert int(written.header["qform_code"]) == 0


@pytest.mark.parametrize("shape", [(5, 6, 3, 4), (5, 6, 3, 1)])
def test_images_of_several_channels_get_one_mask(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = volume(tmp_path / "v.nii.gz", shape=shape)
    write_mask(MASK, path, tmp_path / "m.nii.gz")
    written = nibabel.load(tmp_path / "m.nii.gz")
    assert written.shape == (5, 6, 3)
    np.testing.assert_array_equal(written.affine, nibabel.load(path).affine)
    with pytest.raises(ValueError, match="is 5 x 6 x 2, the image 5 x 6 x 3; bring it back to the image's grid"):
        write_mask(MASK[..., :2], path, tmp_path / "n.nii.gz")
    assert not (tmp_path / "n.nii.gz").exists()


def test_a_grid_that_the_reader_moved_is_where_the_mask_goes(tmp_path: Path) -> None:
    path = volume(tmp_path / "v.nii")
    write_mask(MASK, Grid((5, 6, 3), OBLIQUE), tmp_path / "o.nii", source=path)
    written = nibabel.load(tmp_path / "o.nii")
    np.testing.assert_allclose(written.affine, OBLIQUE, atol=1e-5)
    assert int(written.header["sform_code"]) == 2


def test_a_volume_without_a_place_is_refused(tmp_path: Path) -> None:
    for target in ("o.nii", "o.nrrd"):
        with pytest.raises(ValueError, match=r"its image does not; write \.png, \.tif"):
            write_mask(MASK, Grid((5, 6, 3)), tmp_path / target)
        assert not (tmp_path / target).exists()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".nii.gz"])
@pytest.mark.parametrize("above", [0, 300])
def test_itk_formats_lie_where_the_affine_says(tmp_path: Path, suffix: str, above: int) -> None:
    affine = OBLIQUE.copy()  # orthogonal columns, as itk demands
    axes, _ = np.linalg.qr(OBLIQUE[:3, :3])
    affine[:3, :3] = axes * (0.7, 0.8, 2.5)
    write_mask(MASK + above, Grid((5, 6, 3), affine), tmp_path / f"o{suffix}")
    read = itk.imread(str(tmp_path / f"o{suffix}"))
    np.testing.assert_array_equal(itk.array_from_image(read).T, MASK + above)
    index = (4, 1, 2)
    x, y, z = read.TransformIndexToPhysicalPoint(index)  # to the left, back and head
    np.testing.assert_allclose((-x, -y, z), (affine @ (*index, 1))[:3], atol=1e-4)
    np.testing.assert_allclose(list(read.GetSpacing()), (0.7, 0.8, 2.5), rtol=1e-5)
    assert itk.array_from_image(read).dtype == (np.uint16 if above else np.uint8)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
def test_itk_masks_have_a_clean_header(tmp_path: Path, suffix: str) -> None:
    image = itk.image_from_array(np.zeros((3, 6, 5), np.int16))
    image.SetOrigin([1.25, -7, 3])
    image["PatientName"] = "patient"
    itk.imwrite(image, str(tmp_path / f"v{suffix}"))
    assert b"patient" in (tmp_path / f"v{suffix}").read_bytes()
    grid = Grid((5, 6, 3), np.array([[-1, 0, 0, -1.25], [0, -1, 0, 7], [0, 0, 1, 3], [0, 0, 0, 1.0]]))
    for keep in (False, True):
        target = tmp_path / f"o{keep}{suffix}"
        write_mask(MASK, grid, target, source=tmp_path / f"v{suffix}", keep_header=keep)
        assert (b"patient" in target.read_bytes()) == keep
        read = itk.imread(str(target))
        assert list(read.GetOrigin()) == [1.25, -7, 3]
        np.testing.assert_array_equal(itk.array_from_matrix(read.GetDirection()), np.eye(3))
