"""A value so far from all others that an image scaled by its own deviation would be grey."""

import json

import nibabel
import numpy as np
import pytest

from medseg.data.case_facts import lone, quantiles
from medseg.data.check import check_datalist


@pytest.mark.parametrize(
    ("shape", "hot", "value", "told"),
    [
        ((20, 24, 18), 1, 1e9, True),
        ((20, 24, 18), 1, -1e6, True),
        ((20, 24, 18), 1, 400.0, False),  # a bright vessel
        ((20, 24, 18), 60, 1e5, False),  # a structure
        ((80, 80, 80), 5, 1e6, True),
        ((80, 80, 80), 6, 1e6, False),
    ],
)
def test_a_few_wild_voxels_are_named(tmp_path, shape, hot, value, told):
    """Scaled by its own deviation, the image would be grey but for them."""
    image = np.random.default_rng(0).normal(100, 10, shape).astype(np.float32)
    label = np.zeros(shape, np.uint8)
    label[:5] = 1
    before = np.std(image)
    image.ravel()[7 : 7 + hot] = value
    for name, array in (("i", image), ("l", label)):
        nibabel.Nifti1Image(array, np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    entry = {"image": "i.nii.gz", "label": "l.nii.gz"}
    content = {"name": "x", "labels": {"0": "a", "1": "b"}, "modality": {"0": "MR"}, "training": [entry], "test": []}
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    for _ in range(2):  # the second from the cache
        found = [each for each in check_datalist(tmp_path / "dataset.json").warnings if each.code == "lone-value"]
        assert bool(found) is told
        if told:
            assert found[0].files == (str(tmp_path / "i.nii.gz"),)
            assert f"i.nii.gz: {hot} voxel" in found[0].message
            assert f" of {value:.4g} alone make" in found[0].message
            assert np.std(image) > 1.4 * before


def test_a_wild_value_of_bytes_and_of_a_second_channel_is_no_overflow(tmp_path):
    for dtype, wild in ((np.uint8, 255), (np.int16, -32768), (np.uint16, 65535)):
        image = np.random.default_rng(0).integers(3, 5, (2, 20, 24), dtype=dtype)
        assert lone(image, quantiles(image, None, "x")) == ()
        image[1, 3, 4] = wild
        assert lone(image, quantiles(image, None, "x")) == (wild, 1)


def test_one_of_a_handful_of_voxels_is_not_told_of() -> None:
    """Of four values one always makes much of the variance."""
    image = np.array([[[1.0, 2.0], [0.0, 60.0]]])
    assert lone(image, quantiles(image, None, "x")) == ()
