"""What is done to a predicted mask, class by class: parts that are too small go, holes are filled.

A part is joined where voxels touch, also at corners; a hole is enclosed by faces, and what reaches the border of the
image is none, but for an axis along which the image is one voxel. What is taken from a class becomes class 0, and only
voxels of class 0 are filled, so that no class takes a voxel of another. Classes are done in order.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.affines import single_axes, voxel_volume
from medseg.errors import MedsegError

__all__ = ["Postprocess", "Steps"]

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """What is done to one class, in this order.

    Args:
        min_size: smallest part that stays, in cubic mm (of pictures: in pixels).
        largest: keep the largest part alone.
        fill_holes: fill what the class encloses.
    """

    min_size: float = 0.0
    largest: bool = False
    fill_holes: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        number = isinstance(self.min_size, int | float) and not isinstance(self.min_size, bool)
        if not number or not 0 <= self.min_size < math.inf:
            raise MedsegError(f"min_size is {self.min_size!r}; give a volume of 0 or more in cubic mm (or pixels)")
        for name in ("largest", "fill_holes"):
            if not isinstance(getattr(self, name), bool):
                raise MedsegError(f"{name} is {getattr(self, name)!r}; give true or false")

    def plain(self) -> dict[str, Any]:
        """Return the steps that do something, as plain values."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value}

    def apply(self, mask: Mask, free: Mask, voxel: float) -> Mask:
        """Return what becomes of a class.

        Args:
            mask: where it is.
            free: where it may grow: class 0.
            voxel: volume of a voxel in cubic mm, 1 of a pixel.

        Shape:
            ``(*S)``, all three.
        """
        from scipy import ndimage  # every description imports this module, few have steps

        kept = self._large_parts(mask, voxel)
        if self.fill_holes:
            kept = kept | (ndimage.binary_fill_holes(kept) & (free | mask))
        return kept

    def _large_parts(self, mask: Mask, voxel: float) -> Mask:
        if not (self.largest or self.min_size) or not mask.any():
            return mask
        from scipy import ndimage

        parts, _ = ndimage.label(mask, ndimage.generate_binary_structure(mask.ndim, mask.ndim))
        return np.asarray(self.stays(np.bincount(parts.ravel()), voxel)[parts])

    def stays(self, sizes: npt.NDArray[np.int64], voxel: float) -> Mask:
        """Return which parts of a class stay.

        Args:
            sizes: in voxels, by number; 0 is what is no part.
            voxel: as in `apply`.

        Shape:
            ``(parts + 1,)``, both.
        """
        sizes = sizes.copy()
        sizes[0] = 0
        stays: Mask = sizes * voxel >= self.min_size * (1 - 1e-9)
        if self.largest:
            stays &= np.arange(len(sizes)) == sizes.argmax()
        stays[0] = False
        return stays


class Postprocess:
    """Steps for some classes of a mask.

    Args:
        steps: by the class's name, as keyword arguments of `Steps`.
        class_names: by index.

    Raises:
        MedsegError: if a class or a step is unknown, a value out of range, or class 0 has steps.
    """

    def __init__(self, steps: Mapping[str, Mapping[str, Any]], class_names: Sequence[str]) -> None:
        names = list(class_names)
        if not isinstance(steps, Mapping):
            raise MedsegError(f"postprocess is {steps!r}; give steps by class, such as {{liver: {{largest: true}}}}")
        self.steps: dict[int, Steps] = {}
        self._names = names
        for name, wanted in steps.items():
            if name not in names:
                raise MedsegError(
                    f"postprocess names the class {name!r}; the classes are {', '.join(names)}. Correct it, or set "
                    "model#postprocess={}"
                )
            if names.index(name) == 0:
                raise MedsegError(
                    f"postprocess has steps for {name!r}, class 0, which gets what others lose; leave them out"
                )
            self.steps[names.index(name)] = _steps(wanted, name)

    def plain(self) -> dict[str, Any]:
        """Return the steps by the class's name, as plain values."""
        return {self._names[index]: steps.plain() for index, steps in self.steps.items()}

    def __call__(self, indices: npt.NDArray[Any], affine: npt.NDArray[np.float64] | None) -> npt.NDArray[Any]:
        """Return the mask after all steps.

        Args:
            indices: class indices; a whole volume, where the classes' parts are whole.
            affine: ``(4, 4)``, voxel to patient in mm; ``None`` for pictures.

        Shape:
            ``(*S)``, kept.
        """
        if not self.steps:
            return indices
        from scipy import ndimage

        voxel = 1.0 if affine is None else voxel_volume(affine)
        done = indices.squeeze(single_axes(indices.shape)).copy()
        boxes = ndimage.find_objects(done, max_label=max(self.steps))
        for index in sorted(self.steps):
            box = boxes[index - 1]
            if box is not None:
                part = done[box]
                mask = part == index
                kept = self.steps[index].apply(mask, part == 0, voxel)
                part[mask & ~kept] = 0
                part[kept] = index
        return done.reshape(indices.shape)


def _steps(wanted: object, name: str) -> Steps:
    known = [field.name for field in dataclasses.fields(Steps)]
    if not isinstance(wanted, Mapping):
        raise MedsegError(f"postprocess of {name!r} is {wanted!r}; give steps among {', '.join(known)}")
    unknown = [key for key in wanted if key not in known]
    if unknown:
        raise MedsegError(f"postprocess of {name!r} has no step {unknown[0]!r}; there are {', '.join(known)}")
    try:
        return Steps(**wanted)
    except MedsegError as error:
        raise MedsegError(f"postprocess of {name!r}: {error}") from error
