"""Maps of values beside masks: read back by libraries of others they hold the values where the image lies."""

from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image

from medseg.bundle.description import Description
from medseg.io.folder import list_images
from medseg.io.masks import mask_path
from medseg.io.placement import Grid
from medseg.prediction.maps import map_path, write_map
from medseg.prediction.mask_record import Maker
from medseg.prediction.probabilities import Probabilities
from medseg.prediction.sinks import Case, Result, RunInfo

AFFINE = np.array([[0, -0.7, 0, 11], [0.6, 0, 0, -4], [0, 0, 2.5, 3], [0, 0, 0, 1.0]])
SHEARED = AFFINE @ np.array([[1, 0, 0, 0], [0, 1, 0.3, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def values(*shape: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random(shape).astype(np.float16)


@pytest.mark.parametrize("affine", [AFFINE, SHEARED], ids=["turned", "sheared"])
def test_volumes(tmp_path: Path, affine: np.ndarray[Any, Any]) -> None:
    maps = values(3, 5, 6, 7)
    write_map(maps, Grid((5, 6, 7), affine), tmp_path / "sub" / "a.nii.gz")
    read: Any = nibabel.load(tmp_path / "sub" / "a.nii.gz")
    np.testing.assert_allclose(np.moveaxis(read.get_fdata(), -1, 0), maps, atol=1e-5)
    np.testing.assert_allclose(read.affine, affine, atol=1e-5)
    assert read.header.get_xyzt_units()[0] == "mm"
    assert int(read.header["qform_code"]) == (0 if affine is SHEARED else 1)
    if affine is AFFINE:  # ITK takes no sheared ones
        other = itk.imread(tmp_path / "sub" / "a.nii.gz")
        np.testing.assert_allclose(itk.array_from_image(other).T[..., 1], maps[1], atol=1e-5)


def test_the_same_map_is_the_same_bytes(tmp_path: Path) -> None:
    """Gzip would keep the name of the temporary file and the time, so that each run had another hash."""
    write_map(values(5, 6, 7), Grid((5, 6, 7), AFFINE), tmp_path / "a.nii.gz")
    content = (tmp_path / "a.nii.gz").read_bytes()
    flags, seconds = content[3], content[4:8]  # RFC 1952
    assert (flags, seconds) == (0, bytes(4))


def test_one_map_of_a_volume_has_three_axes(tmp_path: Path) -> None:
    write_map(values(5, 6, 7), Grid((5, 6, 7), AFFINE), tmp_path / "a.nii.gz")
    assert nibabel.load(tmp_path / "a.nii.gz").shape == (5, 6, 7)


def test_pictures_and_stacks(tmp_path: Path) -> None:
    picture, stack = values(2, 5, 6), values(2, 3, 5, 6)
    write_map(picture, Grid((5, 6)), tmp_path / "a.tif")
    write_map(stack, Grid((3, 5, 6)), tmp_path / "b.tif")
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), picture)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif").reshape(2, 3, 5, 6), stack)


def test_a_picture_that_is_stored_turned(tmp_path: Path) -> None:
    """As the mask: on the stored pixels, with the tag."""
    map_of = values(5, 6)
    write_map(map_of, Grid((5, 6), None, 6), tmp_path / "a.tif")
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.tags["Orientation"].value == 6
        np.testing.assert_array_equal(np.rot90(file.asarray(), -1), map_of)


def test_nothing_is_left_of_a_failed_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(path: Path, *_: Any, **options: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("no")

    monkeypatch.setattr(tifffile, "imwrite", fails)
    with pytest.raises(OSError, match="no"):
        write_map(values(5, 6), Grid((5, 6)), tmp_path / "a.tif")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("t1.nii.gz", "t1.entropy.nii.gz"),
        ("t1.nrrd", "t1.entropy.nii.gz"),
        ("a.b.jpg", "a.b.entropy.tif"),
        ("x.tiff", "x.entropy.tif"),
    ],
)
def test_names(tmp_path: Path, image: str, expected: str) -> None:
    case = Case(image, (tmp_path / image,), mask_path(tmp_path / image, tmp_path, tmp_path / "out"))
    assert map_path(case, "entropy") == tmp_path / "out" / expected


def test_maps_are_no_masks(tmp_path: Path) -> None:
    """Who scores a folder of masks does not come upon what lies beside them; among images the names mean nothing."""
    for name in ("a.png", "b.entropy.tif"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    assert [path.name for path in list_images(tmp_path, masks=True).images] == ["a.png"]
    assert [path.name for path in list_images(tmp_path).images] == ["a.png", "b.entropy.tif"]


def test_the_sink(tmp_path: Path) -> None:
    network = {"name": "toy", "spatial_dims": 2, "in_channels": 1, "out_channels": 2}
    described = Description.of({"name": "toy", "network": network, "classes": ["a", "b"]})
    sink, case = Probabilities(), Case("x.png", (tmp_path / "x.png",), tmp_path / "x.png")
    sink.open(RunInfo(tmp_path, described, [Maker("toy", "w", "m")]))
    held = values(2, 4, 5)
    sink.write(case, Result(np.zeros((4, 5), np.uint8), Grid((4, 5)), probabilities=held))
    sink.close()
    (file,) = sink.files(case)
    np.testing.assert_array_equal(tifffile.imread(file), held)
