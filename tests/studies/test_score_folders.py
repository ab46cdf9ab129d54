"""Two folders of real label maps: 42 structures moved by a voxel, against MONAI's own figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from PIL import Image

from medseg.errors import MedsegError
from medseg.io.masks import write_mask
from medseg.io.placement import Grid
from medseg.studies.mask_classes import classes_of_truths
from medseg.studies.score_folders import FolderScores, score_folders


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


PLAIN = (np.eye(4), np.eye(4))


def scored(folder: Path, ours: Any, theirs: Any, affines: Any = PLAIN) -> FolderScores:
    for name, array, affine in zip(("ours", "theirs"), (ours, theirs), affines, strict=True):
        (folder / name).mkdir(exist_ok=True)
        nibabel.Nifti1Image(array.astype(np.uint8), affine).to_filename(folder / name / "a.nii.gz")
    return score_folders(folder / "ours", folder / "theirs")


def ball(shape: Sequence[int] = (8, 9, 10), middle: Sequence[float] = (3, 4, 5)) -> Any:
    return (sum((axis - place) ** 2 for axis, place in zip(np.indices(shape), middle, strict=True)) < 9).astype(int)


@pytest.mark.parametrize("turn", [[0, 1, 2], [2, 0, 1], [1, 0, 2]])
@pytest.mark.parametrize("flipped", [(), (0,), (0, 1, 2)])
def test_axes_in_another_order_or_direction(tmp_path: Path, turn: list[int], flipped: tuple[int, ...]) -> None:
    affine = np.array([[0.8, -0.3, 0.1, 3], [0.3, 0.9, 0.2, -5], [-0.1, -0.15, 2.4, 9], [0, 0, 0, 1]])
    truth, guess, other = ball(), ball(middle=(4, 4, 5)), affine.copy()
    expected = scored(tmp_path, guess, truth, (affine, affine)).result.rows[1:]
    for axis in flipped:
        other[:3, 3] += (truth.shape[axis] - 1) * affine[:3, axis]
        other[:3, axis] *= -1
    stored = np.flip(guess, flipped).transpose(turn)
    found = scored(tmp_path, stored, truth, (other[:, [*turn, 3]], affine))
    assert found.complete
    assert found.result.rows[1:] == expected


def test_a_truth_without_background(tmp_path: Path) -> None:
    found = scored(tmp_path, ball(middle=(4, 4, 5)), 2 - ball())  # 1 and 2, and the prediction holds 0
    rows = {row["name"]: row for row in found.result.table["per_case"]["classes"]}
    assert list(rows) == ["0", "1", "2"]
    assert all(rows[name]["hd95"] is not None for name in "12")  # neither is taken for what lies around


@pytest.mark.parametrize(("ours", "theirs"), [(255, 1), (1, 255), (1, 1), (255, 255)])
def test_one_class_as_1_or_as_255(tmp_path: Path, ours: int, theirs: int) -> None:
    found = scored(tmp_path, ball() * ours, ball() * theirs)
    assert [row["dice"] for row in found.result.table["per_case"]["classes"]] == [1, 1]


@pytest.mark.parametrize("value", [2, 254])
def test_other_values_of_a_prediction_are_refused(tmp_path: Path, value: int) -> None:
    with pytest.raises(MedsegError, match=f"holds value {value}, which is no class"):
        scored(tmp_path, ball() * value, ball())
    both = ball()
    both[0, 0, 0] = 255
    with pytest.raises(MedsegError, match="holds value 255, which is no class"):
        scored(tmp_path, both, ball())


def test_a_negative_value_names_no_class() -> None:
    with pytest.raises(MedsegError, match=r'the truths hold -1, which names no class; .* "ignore": -1'):
        classes_of_truths({"a": {-1, 0}, "b": {1}})


def test_too_many_values_are_no_classes() -> None:
    with pytest.raises(MedsegError, match="the truths hold 257 different values: those are no classes"):
        classes_of_truths({"a": set(range(257))})


def test_truths_of_1_and_of_255_are_not_two_classes_without_a_word(tmp_path: Path) -> None:
    """Half of the cases would score 0 in a class that is the other half's."""
    mask = np.zeros((6, 7), np.uint8)
    mask[1:4, 2:5] = 1
    for name, value in (("a", 1), ("b", 255)):
        for folder, array in (("ours", mask), ("theirs", mask * value)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(array).save(tmp_path / folder / f"{name}.png")
    with pytest.raises(
        MedsegError, match=r"hold 1 \(as a\) or 255 \(as b\), and none holds both: they may be one class"
    ):
        score_folders(tmp_path / "ours", tmp_path / "theirs")
    assert classes_of_truths({"a": {0, 1, 255}, "b": {0, 255}}).names == ["0", "1", "255"]
    assert classes_of_truths({"a": {0, 1, 255}, "b": {2}}).names == ["0", "1", "2", "255"]
