"""Loading pixel formats and volumes."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from medseg.io.load import LoadImagesd

GREY = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_rows_come_first(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(GREY).save(path)
    loaded = LoadImagesd(keys="image")({"image": str(path)})["image"]
    assert loaded.dtype == torch.float32
    np.testing.assert_array_equal(loaded[0].numpy(), GREY)


def test_sixteen_bit_and_colour(tmp_path: Path) -> None:
    deep = GREY.astype(np.uint16) * 1000
    Image.fromarray(deep).save(tmp_path / "deep.png")
    colour = np.stack([GREY, GREY + 1, GREY + 2], -1)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    load = LoadImagesd(keys="image")
    np.testing.assert_array_equal(load({"image": tmp_path / "deep.png"})["image"][0].numpy(), deep)
    np.testing.assert_array_equal(load({"image": tmp_path / "colour.png"})["image"].numpy(), np.moveaxis(colour, -1, 0))


def test_opaque_alpha_is_left_out(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 255, (5, 7, 4), dtype=np.uint8)
    colours[..., 3] = 255
    Image.fromarray(colours).save(tmp_path / "opaque.png")
    colours[0, 0, 3] = 254
    Image.fromarray(colours).save(tmp_path / "clear.png")
    load = LoadImagesd(keys="image")
    assert load({"image": tmp_path / "opaque.png"})["image"].shape == (3, 5, 7)
    assert load({"image": tmp_path / "clear.png"})["image"].shape == (4, 5, 7)


def test_palette_is_indices_for_labels_and_colours_for_images(tmp_path: Path) -> None:
    picture = Image.fromarray(GREY % 3, mode=None)
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "p.png")
    loaded = LoadImagesd(keys=["image", "label"])({"image": tmp_path / "p.png", "label": tmp_path / "p.png"})
    np.testing.assert_array_equal(loaded["label"][0].numpy(), GREY % 3)
    assert loaded["label"].dtype == torch.uint8
    assert loaded["image"].shape == (3, 6, 4)
    assert loaded["image"][:, 0, 1].tolist() == [40, 50, 60]


def test_volume_keeps_its_affine(tmp_path: Path) -> None:
    affine = np.diag([0.5, 0.5, 2.0, 1.0])
    volume = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
    loaded = LoadImagesd(keys="image")({"image": tmp_path / "v.nii.gz"})["image"]
    np.testing.assert_array_equal(loaded[0].numpy(), volume)
    np.testing.assert_allclose(loaded.affine.numpy(), affine)


def test_large_label_values_survive(tmp_path: Path) -> None:
    values = np.array([[[0], [300]], [[7], [1]]], dtype=np.int16)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "l.nii")
    loaded = LoadImagesd(keys="label")({"label": tmp_path / "l.nii"})["label"]
    np.testing.assert_array_equal(loaded[0].numpy(), values)


def test_errors_name_the_file(tmp_path: Path) -> None:
    Image.fromarray(np.tile(GREY, (50, 50))).save(tmp_path / "ok.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "ok.png").read_bytes()[:300])
    with pytest.raises(ValueError, match=r"cut\.png: ends too early"):
        LoadImagesd(keys="image")({"image": tmp_path / "cut.png"})
    with pytest.raises(ValueError, match=r"none\.png: no such file"):
        LoadImagesd(keys="image")({"image": tmp_path / "none.png"})
    nibabel.save(nibabel.Nifti1Image(np.full((2, 2, 2), 0.5, np.float32), np.eye(4)), tmp_path / "f.nii")
    with pytest.raises(ValueError, match=r"f\.nii: label holds fractional values"):
        LoadImagesd(keys="label")({"label": tmp_path / "f.nii"})


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_broken_volumes_are_named(tmp_path: Path, suffix: str) -> None:
    volume = np.random.default_rng(0).integers(0, 200, (20, 20, 20)).astype(np.int16)
    path = tmp_path / f"v{suffix}"
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    whole = path.read_bytes()
    broken = {"half": whole[: len(whole) // 2], "head": whole[:100], "empty": b"", "text": b"no volume " * 50}
    if suffix == ".nii.gz":
        broken["flipped"] = whole[:500] + bytes(255 - b for b in whole[500:1500]) + whole[1500:]
    for name, content in broken.items():
        path = tmp_path / f"{name}{suffix}"
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name}{suffix}: \S"):
            LoadImagesd(keys="image")({"image": path})


def test_stack_of_pages_is_three_axes(tmp_path: Path) -> None:
    frames = [Image.fromarray(GREY), Image.fromarray(GREY + 1)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    loaded = LoadImagesd(keys="image")({"image": tmp_path / "pages.tif"})["image"]
    np.testing.assert_array_equal(loaded[0].numpy(), np.stack([GREY, GREY + 1]))


def test_monai_turns_and_resamples_what_was_loaded(tmp_path: Path) -> None:
    from monai.transforms import Orientationd, Spacingd

    volume = np.random.default_rng(0).normal(size=(5, 4, 3)).astype(np.float32)
    affine = np.array([[0, -1, 0, 4], [0, 0, -2, 3], [3, 0, 0, 2], [0, 0, 0, 1.0]])
    nibabel.save(nibabel.Nifti1Image(volume, affine), tmp_path / "v.nii.gz")
    loaded = Orientationd("image", axcodes="RAS", labels=None)(
        LoadImagesd(keys="image")({"image": tmp_path / "v.nii.gz"})
    )["image"]
    upright = nibabel.as_closest_canonical(nibabel.load(tmp_path / "v.nii.gz"))
    np.testing.assert_array_equal(loaded[0].numpy(), upright.get_fdata())
    np.testing.assert_allclose(loaded.affine.numpy(), upright.affine)
    finer = Spacingd("image", pixdim=(1, 1, 1))({"image": loaded})["image"]
    assert finer.shape[1:] == (4, 5, 13)


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.float64, np.int8, np.uint16])
def test_labels_of_every_type_are_indices(tmp_path: Path, dtype: type) -> None:
    import tifffile

    tifffile.imwrite(tmp_path / "l.tif", (GREY % 3).astype(dtype))
    loaded = LoadImagesd(keys="label")({"label": tmp_path / "l.tif"})["label"]
    assert loaded.dtype == torch.uint8
    np.testing.assert_array_equal(loaded[0].numpy(), GREY % 3)
