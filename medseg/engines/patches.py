"""Patches of cases: where they are cut, by (seed, epoch, sample) alone, and what lies outside of a case.

F. Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
https://arxiv.org/abs/1809.10486: a share of the patches is centred on a voxel of a class drawn among those of the case;
patches are read larger than they are trained on where they are turned or scaled afterwards. Deviations: cases are drawn
in turn and not with replacement; a patch that is centred on a voxel still lies inside the case where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import Compose, Transform
from numpy.random import SeedSequence
from torch import Tensor

from medseg.caller import spelt
from medseg.engines.case_files import CaseFiles
from medseg.engines.loading import Draw, Sample, SegmentationDataset
from medseg.errors import MedsegError

__all__ = ["ClassPositionsd", "PatchDataset", "SliceBySliced", "read_size"]

POSITIONS = "positions"
MOST_POSITIONS = 4096  # of a class and case that are kept to centre patches on


class ClassPositionsd(Transform):
    """Dictionary transform: add ``positions``, voxels of the label by class, at most 4,096 of each, evenly drawn.

    Args:
        without: label values whose voxels are no structure: the background, the ignore label.

    Shape:
        ``label`` ``(1, *S)`` to ``positions`` ``(P, 1 + dims)``, int32: class, then the voxel.
    """

    def __init__(self, without: Iterable[int] = ()) -> None:
        self.without = frozenset(without)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the positions."""
        label = np.asarray(data["label"])[0]
        numbers = np.random.default_rng(0)
        found = []
        for value in np.unique(label):
            if int(value) in self.without:
                continue
            voxels = np.flatnonzero(label == value)
            if len(voxels) > MOST_POSITIONS:
                voxels = np.sort(numbers.choice(voxels, MOST_POSITIONS, replace=False))
            classes = np.full(len(voxels), value)
            found.append(np.stack([classes, *np.unravel_index(voxels, label.shape)], axis=1))
        rows = np.concatenate(found) if found else np.zeros((0, 1 + label.ndim))
        return {**data, POSITIONS: torch.from_numpy(rows.astype(np.int32))}


class SliceBySliced(Transform):
    """Dictionary transform: lay volumes out in memory slice by slice, so that one is read without the others.

    Shape:
        ``(C, H, W, D)``, kept; D is the slowest axis of the memory.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Lay image and label out."""
        laid: dict[Hashable, Tensor] = {
            key: _reversed(data[key]) for key in ("image", "label") if key in data and data[key].ndim == 4
        }
        return {**data, **laid}


def _reversed(volume: Tensor) -> Tensor:
    return volume.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0)


def read_size(augmentation: Iterable[Any], patch: Sequence[int]) -> tuple[int, ...]:
    """Return how much of a case must be read so that no border appears in an augmented patch.

    Args:
        augmentation: random transforms; those that turn or scale say how much they need by ``reads(patch)``.
        patch: edges of the patch to train on.
    """
    size = tuple(patch)
    for transform in augmentation:
        if isinstance(transform, Compose):
            needed = read_size(transform.transforms, patch)
        else:
            needed = tuple(transform.reads(patch)) if hasattr(transform, "reads") else size
        size = tuple(max(edges) for edges in zip(size, needed, strict=True))
    return size


class PatchDataset(SegmentationDataset):
    """Patches of a datalist's cases, the same for any number of workers and processes.

    Where a patch reaches outside of its case, the image is 0, as `SlidingWindow` pads it, and the label ``fill``;
    without one, both go on as they are at the border: then no voxel gets a class that it might not have.

    Args:
        data: as in `SegmentationDataset`.
        transform: as there, fixed.
        patch: edges in pixels (voxels), one an axis.
        augmentation: as there, applied to the patch; see `read_size`.
        foreground: share of every batch, rounded, that is centred on a voxel of a class, drawn evenly among those of
            the case.
        without: label values that are no such class: the background, the ignore label.
        fill: label outside of a case: the ignore label, else the background; ``None`` where there is neither.
        slices: patches of two edges are cut from slices of volumes along the last axis: that of the voxel which a patch
            is centred on, or any.
        seed: of places and augmentation.
        cache: as there.
        files: as there; patches are then read without the rest of the case.

    Raises:
        MedsegError: if an option is out of range, or a sample has other axes than the patch.
    """

    redraws = True
    same_size = True

    def __init__(
        self,
        data: Sequence[dict[str, Any]],
        transform: Callable[..., Any] | Sequence[Callable[..., Any]],
        patch: Sequence[int],
        augmentation: Sequence[Callable[..., Any]] | None = None,
        *,
        foreground: float = 0.0,
        without: Iterable[int] = (),
        fill: int | None = None,
        slices: bool = False,
        seed: int = 0,
        cache: bool = True,
        files: CaseFiles | None = None,
    ) -> None:
        if not patch or min(patch) < 1:
            raise MedsegError(f"patch is {list(patch)}; give an edge of at least 1 pixel for each axis")
        if not 0 <= foreground <= 1:
            raise MedsegError(f"foreground is {foreground}; give a share between 0 and 1")
        steps = list(transform.transforms) if isinstance(transform, Compose) else _listed(transform)
        if foreground:
            steps.append(ClassPositionsd(without))
        if slices:
            steps.append(SliceBySliced())
        super().__init__(data, steps, augmentation, seed, cache, files)
        self.patch = tuple(int(edge) for edge in patch)
        self.read = read_size(augmentation or (), self.patch)
        self.foreground = float(foreground)
        self.fill = fill
        self.slices = slices

    def _cut(self, sample: Sample, draw: Draw, seeds: SeedSequence) -> Sample:
        shape = tuple(sample["image"].shape[1:])
        through = self.slices and len(shape) == len(self.patch) + 1
        if len(shape) != len(self.patch) and not through:
            raise MedsegError(
                f"{self.data[draw.case]['image']}: has {len(shape)} axes, but the patch {list(self.patch)} has "
                f"{len(self.patch)}; give {spelt('patch')} one edge an axis"
            )
        numbers = np.random.default_rng(seeds.spawn(1)[0])
        sample.pop("affine", None)  # a patch lies elsewhere
        positions = sample.pop(POSITIONS, None)
        centre = None
        if draw.foreground and positions is not None and len(positions):
            centre = _drawn(positions.numpy(), numbers)
        if through:
            number = int(numbers.integers(shape[-1])) if centre is None else centre[-1]
            sample = {k: v[..., number] if tuple(v.shape[1:]) == shape else v for k, v in sample.items()}
            shape = shape[:-1]
        start = self._start(shape, centre, numbers)
        first = [a - (read - edge) // 2 for a, read, edge in zip(start, self.read, self.patch, strict=True)]
        return {
            key: self._part(value, first, key) if tuple(value.shape[1:]) == shape else value
            for key, value in sample.items()
        }

    def _start(self, shape: Sequence[int], centre: Sequence[int] | None, numbers: np.random.Generator) -> list[int]:
        """Return the first corner of the patch, which lies in the case; a smaller case lies in the patch's middle."""
        start = []
        for axis, (edge, wanted) in enumerate(zip(shape, self.patch, strict=True)):
            drawn = int(numbers.integers(max(edge - wanted, 0) + 1))
            if centre is not None:
                drawn = min(max(centre[axis] - wanted // 2, 0), max(edge - wanted, 0))
            start.append(drawn if edge >= wanted else -((wanted - edge) // 2))
        return start

    def _part(self, tensor: Tensor, first: Sequence[int], key: str) -> Tensor:
        """Return ``read`` pixels an axis from ``first`` on; what lies outside of the tensor is filled."""
        shape = tensor.shape[1:]
        ends = [f + edge for f, edge in zip(first, self.read, strict=True)]
        if self.fill is None:  # a patch touches its case, but what is read around it need not
            for axis, (f, end, edge) in enumerate(zip(first, ends, shape, strict=True), start=1):
                if f < 0 or end > edge:
                    tensor = tensor.index_select(axis, torch.arange(f, end).clamp(0, edge - 1))
                else:
                    tensor = tensor.narrow(axis, f, end - f)
            return tensor.clone(memory_format=torch.contiguous_format)
        inside = [slice(max(f, 0), min(end, edge)) for f, end, edge in zip(first, ends, shape, strict=True)]
        part = tensor[(slice(None), *inside)]
        if part.shape[1:] == self.read:
            return part.clone(memory_format=torch.contiguous_format)
        padded = tensor.new_full((tensor.shape[0], *self.read), self.fill if key == "label" else 0)
        where = [slice(s.start - f, s.stop - f) for s, f in zip(inside, first, strict=True)]
        padded[(slice(None), *where)] = part
        return padded

    def _finish(self, sample: Sample) -> Sample:
        """Cut what was read around a patch off where no transform has."""
        size = tuple(sample["image"].shape[1:])
        if size == self.patch or any(edge < wanted for edge, wanted in zip(size, self.patch, strict=True)):
            return sample
        middle = [slice((a - b) // 2, (a - b) // 2 + b) for a, b in zip(size, self.patch, strict=True)]
        return {
            key: value[(slice(None), *middle)].contiguous() if tuple(value.shape[1:]) == size else value
            for key, value in sample.items()
        }


def _drawn(positions: np.ndarray[Any, Any], numbers: np.random.Generator) -> list[int]:
    """Return a voxel of a class drawn evenly among those that there are."""
    classes = positions[:, 0]
    chosen = numbers.choice(np.unique(classes))
    first, last = np.searchsorted(classes, [chosen, chosen + 1])  # positions come class by class, ascending
    return [int(place) for place in positions[numbers.integers(first, last), 1:]]


def _listed(transform: Callable[..., Any] | Sequence[Callable[..., Any]]) -> list[Callable[..., Any]]:
    return [transform] if callable(transform) else list(transform)
