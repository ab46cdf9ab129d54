"""Data that `benchmarks.own_data` cuts from a CT: slabs that lie where they lay, with the classes asked for."""

from pathlib import Path

import nibabel
import numpy as np

from benchmarks import own_data
from medseg.bundle.data import load_data


def test_slabs_lie_where_they_lay(tmp_path: Path) -> None:
    source = tmp_path / "nifti_ct_totalsegmentator"
    source.mkdir()
    place = np.array([[0, 3.0, 0, 5], [-3.0, 0, 0, 7], [0, 0, 3.0, -9], [0, 0, 0, 1]])
    draw = np.random.default_rng(0)
    image = draw.integers(-1000, 1000, (6, 5, 112)).astype(np.int32)
    label = draw.integers(0, 7, image.shape).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(image, place), source / "example_ct.nii.gz")
    nibabel.save(nibabel.Nifti1Image(label, place), source / "example_seg_fast_force_split.nii.gz")
    folder = own_data.prepared("totalsegmentator", tmp_path, tmp_path / "work")
    assert own_data.prepared("totalsegmentator", tmp_path, tmp_path / "work") == folder  # not made twice
    data = load_data(folder)
    entries = [data.absolute(entry) for entry in data.training]
    assert [entry["fold"] for entry in entries] == [1, 2, 0, 3]
    wanted = np.select([label == 5, label == 1, np.isin(label, (2, 3))], [1, 2, 3], 0)
    first = 56
    for entry in entries:
        parts = {key: nibabel.load(entry[key]) for key in ("image", "label")}
        last = first + parts["image"].shape[2]
        np.testing.assert_array_equal(parts["image"].dataobj, image[:, :, first:last])
        np.testing.assert_array_equal(parts["label"].dataobj, wanted[:, :, first:last])
        for part in parts.values():
            np.testing.assert_allclose(part.affine @ (1, 2, 0, 1), place @ (1, 2, first, 1))
        first = last
    assert first == 112
