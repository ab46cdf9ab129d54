"""Volumes on the grid of a model: labels keep their thickness, headers in another unit are refused."""

from typing import Any

import pytest
import torch
from bundle.test_feeding import description
from monai.data import MetaTensor

from medseg.bundle.description import DescriptionError
from medseg.bundle.model_grid import ToModelGridd


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_of_a_label_at_half_their_distance_are_alike(axis: int) -> None:
    """By rounding to even they were three and one in turn: what is one slice thin was 3 mm thick, or 1."""
    edges = [1.0, 1.0, 1.0]
    edges[axis] = 2.0
    label = torch.arange(8, dtype=torch.uint8).view([8 if each == axis else 1 for each in range(3)]).expand(8, 8, 8)
    affine = torch.diag(torch.tensor([*edges, 1], dtype=torch.float64))
    to_grid = ToModelGridd(["label"], description(dims=3, spacing=[1.0, 1.0, 1.0]))
    found = to_grid({"label": MetaTensor(label[None].contiguous(), affine=affine)})["label"]
    assert found.unique(return_counts=True)[1].tolist() == [2 * 64] * 7 + [64]  # to the centre of the last slice


@pytest.mark.parametrize(
    ("zooms", "shape", "message"),
    [
        ((0.001, 0.001, 0.0025), (40, 40, 30), r"voxels are 0.001 x 0.001 x 0.0025 mm, the model takes 3 x 3 x 3 mm"),
        ((1000, 1000, 1000), (40, 40, 30), "at which it would have 13001 x 13001 x 9668 voxels; correct the spacing"),
        ((120, 120, 120), (20, 20, 20), "would have 761 x 761 x 761 voxels"),  # 3.5 GB of 32 kB
        ((1e-30, 1, 1), (4, 4, 4), "voxels are 1e-30 x 1 x 1 mm"),
    ],
)
def test_a_header_in_another_unit_is_refused(zooms: Any, shape: tuple[int, ...], message: str) -> None:
    image = MetaTensor(torch.zeros(1, *shape), affine=torch.diag(torch.tensor([*zooms, 1], dtype=torch.float64)))
    with pytest.raises(DescriptionError, match=message):
        ToModelGridd(["image"], description(3, spacing=[3, 3, 3]))({"image": image})


def test_what_is_large_or_thick_is_no_other_unit() -> None:
    to_grid = ToModelGridd(["image"], description(3, spacing=[1, 1, 1]))
    for zooms, shape in (((0.5, 0.5, 20), (30, 30, 4)), ((5, 5, 60), (6, 6, 1)), ((0.05, 0.05, 0.05), (60, 60, 60))):
        affine = torch.diag(torch.tensor([*zooms, 1], dtype=torch.float64))
        found = to_grid({"image": MetaTensor(torch.zeros(1, *shape), affine=affine)})["image"]
        assert min(found.shape[1:]) >= 1
