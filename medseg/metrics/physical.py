"""What scores in millimetres share: which unit a set is measured in, which classes count, masks cut to their boxes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medseg.errors import MedsegError
from medseg.metrics.score import ScoredCase
from medseg.reports.palette import background_index

__all__ = ["Steps", "Unit", "chosen_classes", "cut_masks", "diagonal"]

Mask = NDArray[np.bool_]
Steps = NDArray[np.float64]

_SHEARED = 1e-4  # cosine between two axes that no rounding of a header makes


class Unit:
    """Millimetres where the cases say how large a voxel is, else pixels; the first case decides, no set has both."""

    def __init__(self) -> None:
        self.in_mm: bool | None = None

    @property
    def length(self) -> str:
        """``"mm"``, ``"pixels"``, or nothing before the first case."""
        return {None: "", True: "mm", False: "pixels"}[self.in_mm]

    @property
    def volume(self) -> str:
        """``"ml"``, ``"pixels"``, or nothing before the first case."""
        return {None: "", True: "ml", False: "pixels"}[self.in_mm]

    def edges(self, case: ScoredCase) -> tuple[float, ...]:
        """Return the edges of a case's voxel along each axis of its arrays: in mm, or ones.

        Raises:
            MedsegError: if the cases before had the other unit, or an edge is no length.
        """
        spacing = case.spacing
        if self.in_mm not in (None, spacing is not None):
            has, had = ("a spacing", "none") if spacing else ("no spacing", "one")
            raise MedsegError(
                f"{case.name} has {has}, the cases before have {had}: millimetres and pixels make no mean; score them "
                "apart, or store the set in one format"
            )
        self.in_mm = spacing is not None
        axes = case.label.ndim
        edges = (1.0,) * axes if spacing is None else spacing[:axes]
        if not all(0 < edge < math.inf for edge in edges):
            raise MedsegError(f"{case.name} has the spacing {edges}; correct its header")
        return edges

    def steps(self, case: ScoredCase) -> Steps:
        """Return how far it is from a voxel to the next one along each axis, ``(axes, directions)``: in mm, or ones.

        Of axes at right angles, as all are but a tilted gantry's, it is a diagonal matrix of `edges`.

        Raises:
            MedsegError: as `edges`.
        """
        edges = np.asarray(self.edges(case), np.float64)
        if case.affine is not None:
            steps: Steps = np.asarray(case.affine[:3, : len(edges)], np.float64).T
            cosines = steps / edges[:, None] @ (steps / edges[:, None]).T
            if np.abs(cosines - np.eye(len(edges))).max() > _SHEARED:
                return steps
        return np.diag(edges)

    def size(self, case: ScoredCase) -> float:
        """Return the size of a case's voxel: in cubic mm, or one.

        Raises:
            MedsegError: as `edges`.
        """
        self.edges(case)
        return 1.0 if case.voxel_volume is None else case.voxel_volume

    def merge(self, others: Iterable[Unit]) -> None:
        """Become what all processes have seen.

        Raises:
            MedsegError: if they saw both units.
        """
        seen = {other.in_mm for other in others} - {None}
        if len(seen) > 1:
            raise MedsegError("some cases have a spacing and some have none; score them apart")
        self.in_mm = next(iter(seen), None)


def chosen_classes(class_names: Sequence[str], wanted: Sequence[str] | None, score: str) -> list[int]:
    """Return the indices of the classes that a score counts.

    Args:
        class_names: by index.
        wanted: names; ``None`` for all but the background, or, where none is called so, all but the first.
        score: its name, for the message.

    Raises:
        MedsegError: if a name is unknown.
    """
    if wanted is None:
        around = background_index(class_names) or 0
        return [index for index in range(len(class_names)) if index != around or len(class_names) == 1]
    listed = [wanted] if isinstance(wanted, str) else list(wanted)
    unknown = [name for name in listed if name not in class_names]
    if unknown or not listed:
        named = repr(unknown[0]) if unknown else "none"
        raise MedsegError(f"`scores: {score}: classes` names {named}; the classes are {', '.join(class_names)}")
    return sorted({class_names.index(name) for name in listed})


def cut_masks(case: ScoredCase, classes: Iterable[int], ignore_index: int | None) -> Iterator[tuple[int, Mask, Mask]]:
    """Yield each class with its predicted and its true mask, cut to the box that holds both.

    What is ignored belongs to no class, in the label and in the prediction alike.

    Args:
        case: the case.
        classes: indices.
        ignore_index: label value that counts for nothing.

    Shape:
        masks of one shape each; a class in neither has masks of no pixel.
    """
    label, guess = (each.cpu().numpy() for each in (case.label, case.prediction))
    if label.shape != guess.shape:
        raise MedsegError(f"{case.name}: prediction {guess.shape} and label {label.shape} differ in shape")
    wanted = list(classes)
    most = max(wanted, default=0) + 1
    truth, found = (_counted_from_one(each, most) for each in (label, guess))  # 0 is no class, or none that is wanted
    if ignore_index is not None:
        ignored = label == ignore_index
        truth[ignored] = found[ignored] = 0
    boxes = [ndimage.find_objects(each, max_label=most) for each in (found, truth)]
    for index in wanted:
        box = _around([each[index] for each in boxes], label.ndim)
        yield index, found[box] == index + 1, truth[box] == index + 1


def _counted_from_one(indices: NDArray[Any], most: int) -> NDArray[Any]:
    """Return indices plus one, in 8 bits where they fit: large volumes are copied here."""
    kind = np.uint8 if most <= 255 else np.int32
    counted = np.zeros(indices.shape, kind)
    # in the type of the result: 255 and 1 are 0 in that of 256 classes' indices
    np.add(indices, 1, out=counted, where=(indices >= 0) & (indices < most), dtype=kind, casting="unsafe")
    return counted


def _around(boxes: Sequence[tuple[slice, ...] | None], axes: int) -> tuple[slice, ...]:
    there = [box for box in boxes if box is not None]
    if not there:
        return (slice(0, 0),) * axes
    return tuple(
        slice(min(box[axis].start for box in there), max(box[axis].stop for box in there)) for axis in range(axes)
    )


def diagonal(shape: Sequence[int], steps: Steps) -> float:
    """Return the length of an image's longest diagonal.

    Args:
        shape: spatial.
        steps: from a voxel to the next one along each axis, see `Unit.steps`.
    """
    ends = steps * np.asarray(shape, np.float64)[:, None]
    signs = itertools.product((1.0, -1.0), repeat=len(shape) - 1)
    return max(float(np.linalg.norm(ends[0] + np.asarray(sign) @ ends[1:])) for sign in signs)
