"""Images of one file a channel: read as one by every reader, refused where they do not lie in one place."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from medseg.io.folder import list_images, mask_targets, with_channels
from medseg.io.image_file import ImageError
from medseg.io.images import read_image
from medseg.io.load import LoadImagesd


def write(path: Path, value: float, shape: tuple[int, ...] = (3, 4, 5), shift: float = 0.0) -> Path:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 3] = shift
    nibabel.Nifti1Image(np.full(shape, value, np.float32), affine).to_filename(path)
    return path


def test_channels_come_in_the_order_of_the_list(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.nii", 1), write(tmp_path / "b.nii", 2)
    image = read_image([second, first])
    assert (image.channels, image.shape) == (2, (3, 4, 5))
    assert image.array[..., 0].max() == 2
    assert image.array[..., 1].max() == 1
    assert image.affine is not None
    assert image.affine[2, 2] == 2
    loaded = LoadImagesd("image")({"image": [str(first), str(second)]})["image"]
    assert loaded.shape == (2, 3, 4, 5)
    assert loaded[1].unique().tolist() == [2]
    assert loaded.affine[2, 2] == 2


def test_a_list_of_one_is_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.nii", 1)
    assert read_image([path]).array.shape[:3] == read_image(path).array.shape


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (3, 4, 6)}, r"b\.nii: is 3 x 4 x 6, but the channel a\.nii is 3 x 4 x 5; bring both to one grid"),
        ({"shift": 0.5}, r"b\.nii: lies 0\.5 mm from the channel a\.nii"),
    ],
)
def test_channels_that_lie_elsewhere_are_refused(tmp_path: Path, change: dict[str, float], message: str) -> None:
    files = [write(tmp_path / "a.nii", 1), write(tmp_path / "b.nii", 2, **change)]  # type: ignore[arg-type]
    with pytest.raises(ImageError, match=message):
        read_image(files)


def test_a_picture_beside_a_volume_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "b.png")
    write(tmp_path / "a.nii", 1, shape=(3, 4, 1))
    with pytest.raises(ImageError, match=r"b\.png: is"):
        read_image([tmp_path / "a.nii", tmp_path / "b.png"])


def test_cases_named_as_nnunet_names_them(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001", "y_0001", "y_0000", "z_0000"):
        write(tmp_path / f"{name}.nii.gz", 0)
    listing = with_channels(list_images(tmp_path), 2)
    assert [path.name for path in listing.images] == ["x_0000.nii.gz", "y_0000.nii.gz"]
    assert [path.name for path in listing.channels[listing.images[1]]] == ["y_0000.nii.gz", "y_0001.nii.gz"]
    assert listing.describe() == (
        "left out 1 of 3: z_0000.nii.gz (2 channels from _0000 on are wanted, there are _0000)"
    )
    targets = mask_targets(listing, tmp_path / "masks")
    assert [path.name for path in targets.values()] == ["x.nii.gz", "y.nii.gz"]


def test_other_names_and_one_channel_stay_as_they_are(tmp_path: Path) -> None:
    for name in ("x_0000", "x_0001", "other"):
        write(tmp_path / f"{name}.nii.gz", 0)
    listing = list_images(tmp_path)
    assert with_channels(listing, 2) == listing
    (tmp_path / "other.nii.gz").unlink()
    listing = list_images(tmp_path)
    assert with_channels(listing, 1) == listing


def test_two_formats_are_two_cases(tmp_path: Path) -> None:
    for name in ("x_0000.nii", "x_0001.nii", "x_0000.nii.gz", "x_0001.nii.gz"):
        write(tmp_path / name, 0)
    listing = with_channels(list_images(tmp_path), 2)
    assert len(listing.images) == 2
    targets = mask_targets(listing, tmp_path / "masks")
    assert sorted(path.name for path in targets.values()) == ["x.nii", "x.nii.gz"]
