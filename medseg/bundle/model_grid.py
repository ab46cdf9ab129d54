"""Volumes on the grid that a network was trained on: its axes, its voxel size, and the plane of a 2D network."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from medseg.affines import voxel_edges
from medseg.bundle.description import Description, DescriptionError
from medseg.inferers.blocks import gather, whole
from medseg.inferers.regrid import resample
from medseg.io.integrity import MAX_VOXELS
from medseg.io.load import is_stack

__all__ = ["ToModelGridd"]

_AXES = {"sagittal": "LR", "coronal": "PA", "axial": "IS"}
_ASTRAY = 0.01  # voxels: what the rounding of a header may shift
_HALF = 1e-3  # voxels: halfway between two, the first is the nearest
_APART = 50  # times that a voxel's edge may differ from the model's: a header in metres or micrometres differs more
_LARGE, _GROWTH = 1 << 27, 64  # voxels that a volume may have on the model's grid, or so many times its own


class ToModelGridd(MapTransform):
    """Dictionary transform: volumes to the axes and voxel size that the network was trained with; pictures stay.

    For a 2D network the axis that its plane cuts comes last, so that slices along it are of that plane; of a stack of
    pages, which lies nowhere, the pages are the slices, and a made-up affine says how they were turned.

    Args:
        keys: images are interpolated linearly, ``label`` by the nearest voxel.
        description: the model.

    Raises:
        DescriptionError: if a volume has no affine to know its axes by, but the model needs them.
    """

    def __init__(self, keys: Sequence[Hashable], description: Description) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.fed = description.input
        self.dims = description.spatial_dims

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Bring the volumes to the model's grid."""
        moved = dict(data)
        for key in self.key_iterator(moved):
            if moved[key].ndim == 4:
                moved[key] = self._move(moved[key], "nearest" if key == "label" else "bilinear")
        return moved

    def _move(self, image: Tensor, mode: str) -> Tensor:
        if not isinstance(image, MetaTensor) or is_stack(image):
            if self.fed.spacing is not None:
                raise DescriptionError("the image states no spacing, which the model needs; store it as NIfTI")
            return _pages_last(image) if self.dims == 2 and isinstance(image, MetaTensor) else image
        volume: MetaTensor = image
        codes = self.fed.orientation
        if codes is None and self.dims == 2:
            codes = "".join(_axis_codes(volume.affine))
        order = [0, 1, 2]
        if codes is not None:
            if self.dims == 2:
                through = next(axis for axis in order if codes[axis] in _AXES[self.fed.plane])
                order = [axis for axis in order if axis != through] + [through]
            volume = _turned(volume, "".join(codes[axis] for axis in order))
        if self.fed.spacing is not None:
            volume = _resampled(volume, [self.fed.spacing[axis] for axis in order], mode)
        moved: Tensor = volume
        return moved


def _pages_last(stack: MetaTensor) -> MetaTensor:
    """Return ``(C, pages, H, W)`` as ``(C, H, W, pages)``, with an affine to the indices that it had."""
    turned = torch.eye(4, dtype=torch.float64)[[2, 0, 1, 3]]
    return MetaTensor(stack.as_tensor().permute(0, 2, 3, 1), meta={**stack.meta, "affine": turned})


def _axis_codes(affine: Any) -> tuple[str, ...]:
    import nibabel

    codes = nibabel.aff2axcodes(affine)
    if None in codes:
        raise DescriptionError("the image's affine names no direction for one of its axes; correct its header")
    return tuple(codes)


def _resampled(volume: MetaTensor, spacing: Sequence[float | None], mode: str) -> MetaTensor:
    """Return the volume at another voxel size, from the centre of the first voxel to the last one that fits.

    As MONAI's ``Spacing``, but for oblique volumes: where direction cosines are not at right angles to eight digits, as
    DICOM's seldom are, that one takes another origin, and leaves out up to half a voxel of the file's at both ends.
    """
    from monai.data.utils import AFFINE_TOL, zoom_affine
    from monai.transforms import SpatialResample

    affine = np.asarray(volume.affine, dtype=np.float64)
    edges = voxel_edges(affine)
    given = np.array([own if edge is None else edge for edge, own in zip(spacing, edges, strict=True)])
    wanted = np.where(np.abs(edges - given) <= AFFINE_TOL, edges, given)
    target = zoom_affine(affine, wanted, diagonal=False)
    ends = np.stack(np.meshgrid(*[(0, edge - 1) for edge in volume.shape[1:]], indexing="ij")).reshape(3, -1)
    corners = np.linalg.solve(target[:3, :3], affine[:3, :3]) @ ends  # in voxels of the target's, from the same origin
    target[:3, 3] = affine[:3, 3] + target[:3, :3] @ corners.min(1)
    _check_size(volume.shape[1:], edges, wanted, np.ptp(corners, axis=1) + 1)
    size = np.round(np.ptp(corners, axis=1) + 1).astype(int).tolist()
    matrix = np.linalg.solve(affine, target)
    apart = matrix[:3, :3] - np.diag(np.diag(matrix)[:3])
    if (np.abs(apart) @ np.array(size) < _ASTRAY).all():
        return _axis_by_axis(volume, matrix, size, target, mode)
    moved: MetaTensor = SpatialResample(mode=mode, padding_mode="border")(volume, dst_affine=target, spatial_size=size)
    return moved  # of a tilted gantry


def _check_size(shape: Sequence[int], edges: Any, wanted: Any, size: Any) -> None:
    """Refuse a volume whose header states another unit or scale than it can have: it would be one voxel, or gigabytes.

    Args:
        shape: of the volume in voxels.
        edges: of its voxels in mm.
        wanted: edges that the model takes.
        size: in voxels of the model's.
    """
    apart = np.maximum(edges / wanted, wanted / edges)[np.array(shape) > 1].max(initial=1)
    count = float(np.prod(size))
    if apart > _APART or count > MAX_VOXELS or (count > _LARGE and count > _GROWTH * math.prod(shape)):
        stated, taken = (" x ".join(f"{edge:.4g}" for edge in each) for each in (edges, wanted))
        raise DescriptionError(
            f"the image's voxels are {stated} mm, the model takes {taken} mm, at which it would have "
            f"{' x '.join(f'{edge:.0f}' for edge in size)} voxels; correct the spacing in its header, or cut it"
        )


def _axis_by_axis(volume: MetaTensor, matrix: Any, size: Sequence[int], affine: Any, mode: str) -> MetaTensor:
    """Return what MONAI's ``SpatialResample`` gives with the border's values beyond it, within rounding.

    Of a label halfway between two voxels the first is taken: PyTorch rounds to even, by which slices of 2 mm are three
    and one of 1 mm in turn, and a structure of one slice is half as thick again, or half.

    MONAI makes a list of where every voxel lies, ten times the memory of the volume.
    """
    plain = volume.as_tensor()
    places = [
        torch.from_numpy(matrix[axis, axis] * np.arange(edge) + matrix[axis, 3]) for axis, edge in enumerate(size)
    ]
    if mode == "nearest":
        for axis, (place, edge) in enumerate(zip(places, plain.shape[1:], strict=True), 1):
            plain = plain.index_select(axis, (place - _HALF).round().clamp(0, edge - 1).long())
    else:
        blocks = resample([whole(plain[None], plain[None])], plain.shape[1:], places)
        plain = gather(blocks, (1, *size))[0]
    meta = {key: value for key, value in volume.meta.items() if key != "affine"}
    return MetaTensor(plain, affine=torch.from_numpy(affine), meta=meta)


def _turned(volume: MetaTensor, codes: str) -> MetaTensor:
    """Return the volume with its axes permuted and flipped to ``codes``; no voxel changes its value."""
    from monai.transforms import Orientation

    if "".join(_axis_codes(volume.affine)) == codes:
        return volume
    return Orientation(axcodes=codes, labels=None)(volume)
