"""Distances between predicted and true surfaces: HD95, ASSD and NSD, in millimetres with the image's own spacing.

The surface of a mask are its voxels with a face neighbour outside of it; outside of the image is outside, but along an
axis of one voxel, as of a picture that is stored as a volume, there is no outside. From each of them runs a distance,
centre to centre, to the nearest one of the other surface. These are MONAI's definitions, which tests compare, but for
that axis; scipy's trees give the distances in half the time of MONAI's distance maps, and need no map of the whole
image where one stray voxel lies far off.

- ``hd95``: the 95th percentile of the distances from the prediction and of those from the truth; the larger of the two
  (L. Maier-Hein et al., "Metrics reloaded", https://doi.org/10.1038/s41592-023-02151-z; MONAI's
  ``compute_hausdorff_distance``). Others differ: MedPy and nnU-Net's older evaluation take one percentile of both sides
  together, DeepMind's ``surface-distance`` weighs each surface element by its area (figures: docs/how-to/scores.md).
- ``assd``: mean of all distances of both sides together (MONAI's ``compute_average_surface_distance``, symmetric).
- ``nsd``: share of the surface voxels of both sides that lie within the tolerance of the other (S. Nikolov et al.,
  https://arxiv.org/abs/1809.04430, whose own code weighs them by area; MONAI's ``compute_surface_dice``).

Of a case, a class in neither truth nor prediction is not counted. One in only one of the two has no distance: it gets
the image's diagonal as ``hd95`` and ``assd`` (BraTS sets 373.13 mm, that of its images) and 0 as ``nsd``: a miss costs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from medseg.affines import single_axes
from medseg.errors import MedsegError
from medseg.metrics.physical import Steps, Unit, chosen_classes, cut_masks, diagonal
from medseg.metrics.score import Pooled, Score, ScoredCase

RULE = (
    "Where a class is in only one of truth and prediction (counted as missed and invented), HD95 and ASSD are the "
    "image's diagonal and NSD is 0."
)


class Distances(Score):
    """HD95, ASSD and NSD of each case.

    Args:
        class_names: by index.
        ignore_index: label value that counts for nothing.
        tolerance: of the NSD, in mm (in pixels where there is no spacing).
        classes: names of the classes that count; all but the background (else the first) by default.

    Raises:
        MedsegError: if the tolerance is out of range or a class unknown.
    """

    columns = ("hd95", "assd", "nsd")
    lower_is_better = frozenset({"hd95", "assd"})

    def __init__(
        self,
        class_names: Sequence[str],
        ignore_index: int | None = None,
        *,
        tolerance: float = 1.0,
        classes: Sequence[str] | None = None,
    ) -> None:
        super().__init__(class_names, ignore_index)
        number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
        if not number or not 0 <= tolerance < math.inf:
            raise MedsegError(f"`scores: distances: tolerance` is {tolerance!r}; give a length of 0 or more in mm")
        self.tolerance = float(tolerance)
        self.classes = chosen_classes(self.class_names, classes, "distances")
        self.unit = Unit()

    @property
    def units(self) -> Mapping[str, str]:
        """Units of the columns."""
        return {"hd95": self.unit.length, "assd": self.unit.length}

    @property
    def notes(self) -> Sequence[str]:
        """What a reader of the means must know."""
        return [f"NSD within {self.tolerance:g} {self.unit.length}. {RULE}"]

    def reset(self) -> None:
        """Forget everything."""
        self.unit = Unit()

    def update(self, case: ScoredCase) -> Mapping[str, float | Sequence[float]]:
        """Count a case."""
        steps = self.unit.steps(case)
        found = {column: [math.nan] * len(self.class_names) for column in self.columns}
        single = single_axes(case.label.shape)
        for index, guess, truth in cut_masks(case, self.classes, self.ignore_index):
            there = int(guess.any()) + int(truth.any())
            if there == 1:
                farthest = diagonal(case.label.shape, steps)
                values = farthest, farthest, 0.0
            elif there == 2:
                ours, theirs = guess.squeeze(single), truth.squeeze(single)
                apart = surface_distances(ours, theirs, np.delete(steps, single, axis=0))
                values = surface_scores(*apart, self.tolerance)
            else:
                continue
            for column, value in zip(self.columns, values, strict=True):
                found[column][index] = value
        return found

    def merge(self, everyone: Sequence[Self]) -> None:
        """Become what all processes have counted together."""
        self.unit.merge([each.unit for each in everyone])

    def compute(self) -> Pooled:
        """Return what the values mean; they are of single cases."""
        names = [self.class_names[index] for index in self.classes]
        return Pooled(details={"unit": self.unit.length, "tolerance": self.tolerance, "classes": names, "rule": RULE})


def surface_distances(
    prediction: NDArray[np.bool_], truth: NDArray[np.bool_], steps: Steps
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the distance of each predicted surface voxel to the true surface, and the reverse.

    Args:
        prediction: mask that is not empty.
        truth: of the same shape, not empty.
        steps: from a voxel to the next one along each axis, ``(axes, directions)``.

    Shape:
        ``(*S)`` to one value a surface voxel.
    """
    ours, theirs = (np.argwhere(mask ^ ndimage.binary_erosion(mask)) @ steps for mask in (prediction, truth))
    return KDTree(theirs).query(ours)[0], KDTree(ours).query(theirs)[0]


def surface_scores(forth: NDArray[Any], back: NDArray[Any], tolerance: float) -> tuple[float, float, float]:
    """Return HD95, ASSD and NSD.

    Args:
        forth: distances from the prediction's surface.
        back: distances from the truth's.
        tolerance: of the NSD.
    """
    both = np.concatenate([forth, back])
    hd95 = max(float(np.percentile(side, 95)) for side in (forth, back))
    near = both <= tolerance * (1 + 1e-9)  # a root of squares is a little above 0.7
    return hd95, float(both.mean()), float(near.mean())
