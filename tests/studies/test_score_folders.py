"""Two folders of real label maps: 42 structures moved by a voxel, against MONAI's own figures."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice

from medseg.errors import MedsegError
from medseg.io.masks import write_mask
from medseg.io.placement import Grid
from medseg.studies.mask_classes import classes_of_truths
from medseg.studies.score_folders import score_folders


@pytest.mark.filterwarnings("ignore:.*always_return_as_numpy:FutureWarning")  # MONAI's own call of MONAI
def test_many_structures_of_a_ct(real_data: Path, tmp_path: Path) -> None:
    truth = real_data / "nifti_ct_totalsegmentator" / "example_seg.nii.gz"
    if not truth.is_file():
        pytest.skip(f"no {truth.name} in {truth.parent}")
    image: Any = nibabel.load(truth)
    label = np.asarray(image.dataobj).astype(np.uint8)
    moved = np.roll(label, (1, 2), (0, 2))
    moved[moved == label.max()] = 0  # one is missed
    write_mask(moved, Grid(label.shape, image.affine), tmp_path / "moved.nii.gz")
    found = score_folders(tmp_path / "moved.nii.gz", truth, scores={"distances": {"tolerance": 3}, "volumes": {}})
    assert found.complete
    rows = found.result.table["per_case"]["classes"]
    values = np.unique(label)
    assert [row["name"] for row in rows] == [str(value) for value in values]
    last = rows.pop()
    diagonal = float(np.linalg.norm(np.array(label.shape) * image.header.get_zooms()[:3]))
    assert (last["missed"], last["nsd"], last["hd95"]) == (1, 0.0, pytest.approx(diagonal))
    assert last["volume_difference"] == pytest.approx(-float((label == values[-1]).sum()) * 27 / 1000)
    for row, value in list(zip(rows, values[:-1], strict=True))[1::6]:
        pair = [torch.from_numpy(array == value)[None, None] for array in (moved, label)]
        options: dict[str, Any] = {
            "include_background": True,
            "spacing": [float(edge) for edge in image.header.get_zooms()[:3]],
        }
        theirs = (
            compute_hausdorff_distance(*pair, percentile=95, **options),
            compute_average_surface_distance(*pair, symmetric=True, **options),
            compute_surface_dice(*pair, class_thresholds=[3.0], **options),
        )
        assert [row[key] for key in ("hd95", "assd", "nsd")] == pytest.approx(
            [float(each) for each in theirs], rel=1e-4
        )


def test_a_truth_that_cannot_be_read_is_told_with_its_pair(tmp_path: Path) -> None:
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    for name in ("a", "b"):
        for folder in ("ours", "theirs"):
            write_mask(mask, Grid(mask.shape, np.eye(4)), tmp_path / folder / f"{name}.nii.gz")
    (tmp_path / "theirs" / "b.nii.gz").write_bytes(b"no gzip")
    found = score_folders(tmp_path / "ours", tmp_path / "theirs")
    assert [name for name, _ in found.failures] == ["b"]
    assert not found.complete
    assert found.result.table["per_case"]["cases"] == 1
    assert "b.nii.gz" in found.said()[0]


def test_too_many_values_are_no_classes() -> None:
    with pytest.raises(MedsegError, match="the truths hold 257 different values: those are no classes"):
        classes_of_truths(set(range(257)))
