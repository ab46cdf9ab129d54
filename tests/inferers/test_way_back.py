"""Logits back on a file's grid, against MONAI's resampling of all of them at once."""

from collections.abc import Iterator
from itertools import pairwise

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, SpatialResample
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.errors import MedsegError
from medseg.inferers import blocks as blocks_of_images
from medseg.inferers import regrid, way_back
from medseg.inferers.blocks import Block, class_indices, finite, gather, whole
from medseg.inferers.memory_format import to_memory_format
from medseg.inferers.regrid import resized
from medseg.inferers.way_back import WayBack


def cells(logits: Tensor, cuts: list[list[int]], slowest: tuple[int, ...]) -> Iterator[Block]:
    """Give logits in the cells of a grid, as an inferer's windows do: axis ``slowest[0]`` is the last to move on."""
    bounds = [[0, *some, edge] for some, edge in zip(cuts, logits.shape[2:], strict=True)]
    cell = [list(pairwise(each)) for each in bounds]
    for numbers in np.ndindex(*(len(cell[axis]) for axis in slowest)):
        place = dict(zip(slowest, numbers, strict=True))
        at = tuple(slice(*cell[axis][place[axis]]) for axis in range(len(cell)))
        yield Block((slice(0, 1), *at), logits[(slice(None), slice(None), *at)].clone())


def affine_of(codes: str, zooms: tuple[float, ...], rotation: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    turn = nibabel.orientations.inv_ornt_aff(nibabel.orientations.axcodes2ornt(tuple(codes)), (1, 1, 1))
    found: NDArray[np.float64] = np.eye(4)
    found[:3, :3] = (np.eye(3) if rotation is None else rotation) @ turn[:3, :3] @ np.diag(zooms)
    found[:3, 3] = [-7, 3, 11]
    return found


TURNED = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]])


def resampled(
    logits: Tensor, affine: NDArray[np.float64], size: tuple[int, ...], target: NDArray[np.float64]
) -> Tensor:
    source = MetaTensor(logits[0], affine=torch.from_numpy(affine))
    move = SpatialResample(mode="bilinear", padding_mode="border")
    found: Tensor = move(source, dst_affine=torch.from_numpy(target), spatial_size=size).as_tensor()
    return found[None]


@pytest.mark.parametrize("rotation", [None, TURNED])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SLA"])
@pytest.mark.parametrize("zooms", [(1.0, 0.5, 1.5), (2.0, 3.1, 0.8)])
@pytest.mark.parametrize(("slowest", "side_by_side"), [((0, 1, 2), False), ((2, 0, 1), True)])
def test_equals_resampling_all_logits(
    rotation: NDArray[np.float64] | None,
    codes: str,
    zooms: tuple[float, ...],
    slowest: tuple[int, ...],
    side_by_side: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regrid, "_AT_ONCE", (500, 500))
    size, spacing, classes = (13, 9, 11), np.array([1.5, 1.2, 2.0]), 4
    affine = affine_of("RAS", tuple(spacing), rotation)
    extent = (np.array(size) - 1) * spacing
    target = affine_of(codes, zooms, rotation)
    axes = np.abs(np.linalg.solve(affine, target)[:3, :3]).argmax(0)
    target_size = tuple(int(extent[axis] / zoom) + 1 for axis, zoom in zip(axes, zooms, strict=True))
    inside = [int(a) for a in np.linalg.solve(affine, target)[:3, :3].sum(1) < 0]
    target[:3, 3] = affine[:3, :3] @ ((np.array(size) - 1) * inside + 0.15) + affine[:3, 3]
    logits = torch.randn(1, classes, *size)
    if side_by_side:
        logits = to_memory_format(logits)
    way = WayBack(size, affine, target_size, target)
    assert not way.exact
    found = gather(way.blocks(cells(logits, [[3, 4, 9], [5], [2, 8]], slowest)), (1, *target_size))
    expected = resampled(logits, affine, target_size, target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    labels = class_indices(way.blocks(cells(logits, [[], [], []], slowest)), (1, *target_size))
    surest = expected.topk(2, dim=1).values
    sure = surest[:, 0] - surest[:, 1] > 1e-3  # not a tie but for rounding
    assert float(sure.float().mean()) > 0.98
    assert torch.equal(labels[sure], expected.argmax(1).to(torch.uint8)[sure])


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "SLA", "AIL"])
def test_axes_alone_are_exact(codes: str) -> None:
    image = MetaTensor(torch.randn(3, 5, 6, 7), affine=torch.from_numpy(affine_of(codes, (0.7, 1.1, 2.5))))
    moved = Orientation(axcodes="RAS", labels=None)(image)
    way = WayBack(moved.shape[1:], moved.affine, image.shape[1:], image.affine)
    assert way.exact
    blocks = way.blocks(cells(moved.as_tensor()[None], [[2], [3, 4], [1]], (1, 0, 2)))
    assert torch.equal(gather(blocks, (1, 5, 6, 7))[0], image.as_tensor())


def test_a_tilted_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gantry's tilt shears the file's axes; those of the network's input are straight."""
    monkeypatch.setattr(way_back, "_AT_ONCE", 300)
    size, target_size = (14, 16, 12), (11, 9, 8)
    affine = affine_of("RAS", (1.0, 1.0, 1.0))
    target = affine.copy()
    target[:3, :3] = np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1.2]])
    target[:3, 3] += [1, 2, 1]
    logits = torch.randn(1, 3, *size)
    way = WayBack(size, affine, target_size, target)
    assert not way.exact
    found = gather(way.blocks(cells(logits, [[5], [], [4]], (0, 1, 2))), (1, *target_size))
    torch.testing.assert_close(found, resampled(logits, affine, target_size, target), rtol=1e-4, atol=1e-4)


def test_a_tilted_grid_of_one_block_is_looked_at_on_a_gpu_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of_images, "_WAITS", ())  # there it is looked at when all is handed on
    tilted = np.eye(4)
    tilted[0, 1] = 0.3
    way = WayBack((8, 8, 8), np.eye(4), (6, 4, 4), tilted)
    logits = torch.zeros(1, 2, 8, 8, 8)
    assert class_indices(way.blocks(finite([whole(logits, logits)])), (1, 6, 4, 4)).shape == (1, 6, 4, 4)
    logits[0, 1, 2, 3, 4] = torch.nan
    with pytest.raises(MedsegError, match="the network gives 1 of 1024 logits that are NaN or infinite"):
        class_indices(way.blocks(finite([whole(logits, logits)])), (1, 6, 4, 4))


@pytest.mark.parametrize(("size", "target"), [((9, 7), (20, 31)), ((16, 12), (5, 12)), ((6, 1, 9), (13, 4, 5))])
def test_resized_is_interpolate(
    size: tuple[int, ...], target: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(regrid, "_AT_ONCE", (100, 100))
    logits = torch.randn(1, 3, *size)
    cuts = [[edge // 3] if edge > 3 else [] for edge in size]
    found = gather(resized(cells(logits, cuts, tuple(range(len(size)))), size, target), (1, *target))
    mode = "bilinear" if len(size) == 2 else "trilinear"
    torch.testing.assert_close(found, interpolate(logits, target, mode=mode), rtol=1e-4, atol=1e-5)


def test_a_mask_never_goes_by_its_shape_alone() -> None:
    with pytest.raises(MedsegError, match=r"the size \(8, 8\), the network's input \(4, 4\).* its mask is not written"):
        WayBack((4, 4), None, (8, 8), None)
    blocks = [Block((slice(0, 1), slice(0, 4), slice(0, 4)), torch.randn(1, 2, 4, 4))]
    way = WayBack((4, 4), None, (4, 4), None)
    assert way.exact
    assert list(way.blocks(blocks)) == blocks
    affine = affine_of("RAS", (1.0, 1.0, 1.0))
    elsewhere = affine.copy()
    elsewhere[0, 3] += 30
    with pytest.raises(MedsegError, match=r"\(5, 5, 5\) reaches 30 voxels beyond the network's input .*medseg check"):
        WayBack((5, 5, 5), affine, (5, 5, 5), elsewhere)
