"""Real data of every kind, masks, texts and archives among them, through each kind of model: all is accounted for.

Here a few files of every folder; ``MEDSEG_TEST_WHOLE=1`` takes all.
"""

import os
from collections import defaultdict
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from tiny_models import KINDS, write_model

from medseg.io.dicom_heads import is_dicom
from medseg.io.images import image_suffix
from medseg.prediction.predict import predict

_LARGEST = 20_000  # bytes of a file in the sample
_WIDE = ("dicom_ct_dcmqi", "labels", "original_size_pair")  # folders of few bytes and many voxels, not in the sample
_REASONS = (  # what is said of real data, which is sound
    "it is a picture, but the model takes volumes; give it volumes, or a 2D model",
    "its values go from ",
    "it has 3 channels, but the model takes 1; convert it",
    "it has 4 channels, but the model takes 1; convert it",
)


@pytest.fixture(scope="module")
def sample(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Links to a file of each suffix in each folder, and to folders of slices, at the places that they have."""
    if os.environ.get("MEDSEG_TEST_WHOLE"):
        return real_data
    folder = tmp_path_factory.mktemp("sample")
    chosen: dict[tuple[Path, str], Path] = {}
    for path in sorted(real_data.rglob("*")):
        if path.is_file() and path.stat().st_size < _LARGEST and path.parent.name not in _WIDE:
            chosen.setdefault((path.parent, path.name if is_dicom(path) else path.suffix), path)
    for path in chosen.values():
        target = folder / path.relative_to(real_data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(path.resolve())
    return folder


def place(path: Path) -> tuple[tuple[int, ...], Any]:
    """Return shape and affine as a library has them that medseg does not read this format with, or none."""
    if path.name.endswith((".nii", ".nii.gz")):
        image: Any = nibabel.load(path)
        return tuple(edge for edge in image.shape[:3] if edge > 1), image.affine
    if path.suffix == ".nrrd":
        read = sitk.ReadImage(str(path))
        matrix = np.array(read.GetDirection()).reshape(3, 3) * read.GetSpacing()
        return tuple(edge for edge in read.GetSize() if edge > 1), np.c_[matrix, read.GetOrigin()]
    with Image.open(path) as picture:
        return picture.size, None


@pytest.mark.parametrize("kind", KINDS)
def test_everything_is_accounted_for(sample: Path, tmp_path: Path, kind: str) -> None:
    model = write_model(tmp_path / "m.pt", kind)
    done = predict(model, sample, tmp_path / "out", overrides={"device": "cpu"})
    strange = [
        f"{name}: {reason}"
        for name, reason in done.failures
        if not reason.startswith(_REASONS) and "is a folder without a DICOM image" not in reason  # its slices are large
    ]
    assert not strange
    assert all("\n" not in reason for _, reason in (*done.failures, *done.left_out))
    assert done.written > 10
    named = {name for name, _ in (*done.failures, *done.left_out)}
    masks = {path.relative_to(tmp_path / "out") for path in (tmp_path / "out").rglob("*") if path.suffix != ".json"}
    folders = defaultdict(int)
    for path in sorted(sample.rglob("*")):
        name = path.relative_to(sample)
        if not path.is_file() or name.as_posix() in named:
            continue
        if is_dicom(path):
            folders[name.parent] += 1  # one mask a folder, or one a series
            continue
        stem = name.name[: len(name.name) - len(image_suffix(name))]
        (mask,) = (each for each in masks if each.parent == name.parent and each.name.startswith(f"{stem}."))
        if image_suffix(mask) in (".nii", ".nii.gz", ".nrrd", ".png", ".tif"):
            shape, lies = place(path)
            shape_of_mask, placed = place(tmp_path / "out" / mask)
            assert shape_of_mask == shape
            if lies is not None:
                np.testing.assert_allclose(placed, lies, rtol=1e-5, atol=1e-4)
    for folder in folders:
        stem = folder.name
        series = [each for each in masks if each.parent == folder.parent and each.name.startswith(stem)]
        assert series or folder.as_posix() in named, folder
