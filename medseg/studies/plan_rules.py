"""The rules of a plan: from the fingerprint of a data set to how a network is fed and built. Nothing is measured here.

Where a rule is nnU-Net's it says so: F. Isensee et al., Nature Methods 18 (2021), https://arxiv.org/abs/1904.08128,
supplementary note 2. ``docs/plans.md`` lists all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medseg.data.case_facts import QUANTILES
from medseg.data.fingerprint import Fingerprint
from medseg.data.kinds import kind_of
from medseg.data.sides import sided
from medseg.errors import MedsegError, counted

__all__ = [
    *("Chosen", "PlanError", "across", "balance", "colour", "dimensions", "foreground", "full_patch", "intensity"),
    *("levels", "mirrors", "plane", "polarity", "resampled", "smaller", "spacing", "voxel"),
]

ANISOTROPIC = 3.0  # ratio of voxel edges from which slices count as thick (nnU-Net)
PLANES = ("sagittal", "coronal", "axial")  # across R, A and S
_THICKER = 1.1  # than along S, from which slices are not taken to be axial
LEAST_EDGE = 4  # voxels that every axis keeps at the coarsest level (nnU-Net)
MOST_LEVELS = {2: 7, 3: 6}
LARGEST_PATCH = {2: 512, 3: 192}
CT_AIR = -200.0  # Hounsfield: below it there is air or fat, which pictures of a CT no longer show
_CONTRASTS = 3.0  # images whose contrasts differ more than so are scaled one by one
_MINORITY = 0.05
_MEDIAN = QUANTILES.index(0.5)
_FAINT = 64  # of 8 bits: images of lesser values alone, such as masks, do not fill the scale
_TISSUE = {"em", "microscopy", "fluorescence", "brightfield", "histology", "histopathology", "dermoscopy", "sstem"}


class PlanError(MedsegError):
    """Data that no plan can be made for, or a wish that cannot be met."""


@dataclass(frozen=True)
class Chosen:
    """A value of a plan and why it is so, in one sentence."""

    value: Any
    why: str


def dimensions(found: Fingerprint, asked: int | None) -> Chosen:
    """Return the axes of the network: those of the images, or 2 for slices of volumes where that is asked for.

    Volumes of one slice each are pictures, whatever they are stored as, unless 3 is asked for.

    Raises:
        PlanError: if pictures shall be volumes, or it is not known which axes of volumes their slices have.
    """
    axes = found.dimensions
    kinds = {2: "pictures", 3: "volumes"}
    if asked == 3 and axes == 2:
        raise PlanError(
            f"--dimensions 3: the images of {found.name} are pictures; leave the option out, or store them as volumes"
        )
    if asked == 2 and axes == 3:
        if any(case.codes == "" for case in found.cases):
            raise PlanError(
                f"--dimensions 2: volumes of {found.name} say nothing of their axes in the patient, so that no plane "
                "of theirs can be chosen; store them as NIfTI, or their pages as pictures"
            )
        return Chosen(2, "slices of volumes, as it was asked for")
    if asked is None and axes == 3 and _flat(found) is not None:
        return Chosen(2, "the volumes are of one slice each")
    return Chosen(axes, f"the images are {kinds[axes]}")


def _flat(found: Fingerprint) -> int | None:
    """Return the axis along which every volume is one voxel, where there is one such axis."""
    if found.dimensions != 3 or any(case.codes == "" for case in found.cases):
        return None
    axes = np.flatnonzero(found.shapes.max(axis=0) == 1)
    return int(axes[0]) if len(axes) == 1 else None


def plane(found: Fingerprint, axes: int) -> Chosen | None:
    """Return the plane whose slices of volumes a 2D network sees: across their longest voxel edge, else axial.

    Of volumes that are one slice each, it is that slice's.

    Args:
        found: the fingerprint.
        axes: of the network.

    Returns:
        ``None`` where the network has the images' axes.
    """
    if axes == found.dimensions or found.spacings is None:
        return None
    flat = _flat(found)
    if flat is not None:
        return Chosen(PLANES[flat], f"the volumes are one voxel along {'RAS'[flat]}")
    middle = np.median(found.spacings, axis=0)
    thickest = int(np.argmax(middle))
    if middle[thickest] < _THICKER * middle[2]:
        return Chosen("axial", "voxels are no longer along R or A than along S")
    return Chosen(PLANES[thickest], f"voxels are longest along {'RAS'[thickest]}, {middle[thickest]:.3g} mm")


def across(values: Sequence[Any], seen: Chosen | None) -> list[Any]:
    """Return what a network sees of values along R, A and S: those of its plane; all where it sees volumes."""
    return [value for name, value in zip(PLANES, values, strict=True) if name != seen.value] if seen else list(values)


def spacing(found: Fingerprint, seen: Chosen | None = None) -> Chosen:
    """Return the voxel size in mm along R, A and S that volumes are brought to; ``None`` where files state none.

    nnU-Net: the median of each axis; where the slices are thick, their distance is the 10th percentile, since what was
    never measured is better not interpolated too often. The distance of slices that are seen one by one is kept.

    Args:
        found: the fingerprint.
        seen: plane of the slices, see `plane`.
    """
    if found.dimensions == 2 or found.spacings is None:
        return Chosen(None, "the files state no size of a pixel that could be relied on")
    median = np.median(found.spacings, axis=0)
    worst = int(np.argmax(median))
    others = np.delete(median, worst)
    target = median.copy()
    why = f"the median of {counted(len(found.cases), 'volume')}"
    if seen is not None:
        kept = [None if name == seen.value else float(f"{e:.4g}") for name, e in zip(PLANES, median, strict=True)]
        return Chosen(kept, f"{why}; slices stay as far apart as they are")
    if median[worst] / others.max() > ANISOTROPIC:
        target[worst] = max(float(np.percentile(found.spacings[:, worst], 10)), float(others.max()))
        why += f"; along {'RAS'[worst]}, where slices are thick, the 10th percentile"
    return Chosen([float(f"{edge:.4g}") for edge in target], why)


def resampled(found: Fingerprint, target: Sequence[float | None] | None) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return the median edges of the images in voxels, at the voxel size they are brought to."""
    edges = found.shapes.astype(np.float64)
    if target is not None and found.spacings is not None:
        stored = found.spacings
        wanted = [stored[:, axis] if edge is None else np.full(len(stored), edge) for axis, edge in enumerate(target)]
        edges = edges * stored / np.stack(wanted, axis=1)
    middle: np.ndarray[Any, np.dtype[np.float64]] = np.median(edges, axis=0)
    return middle


def voxel(found: Fingerprint, target: Sequence[float | None] | None, seen: Chosen | None) -> list[float] | None:
    """Return the edges of a voxel in mm that the network sees; ``None`` of pictures, and where files state none.

    Args:
        found: the fingerprint.
        target: the voxel size that images are brought to; where that is not said, they keep theirs: the median counts.
        seen: plane of the slices, see `plane`.
    """
    if found.dimensions == 2 or found.spacings is None:
        return None
    wanted = [None] * found.dimensions if target is None else target
    middle = np.median(found.spacings, axis=0)
    return across([float(own if edge is None else edge) for edge, own in zip(wanted, middle, strict=True)], seen)


def colour(found: Fingerprint) -> Chosen:
    """Return whether pictures are taken in colour: ``"rgb"``, ``"grey"``, or ``None`` for images as they are."""
    if found.dimensions == 3:
        return Chosen(None, "volumes are taken as they are")
    stored = [case.seen == 3 for case in found.cases]
    if not any(stored):
        return Chosen(None, "the pictures have no colour")
    coloured = [case.seen == 3 and not case.equal_channels for case in found.cases]
    share = sum(coloured) / len(coloured)
    if share > _MINORITY:
        return Chosen("rgb", f"{100 * share:.0f} % of the pictures show colours")
    return Chosen("grey", f"only {100 * share:.0f} % of the pictures show colours; in grey they are alike")


def intensity(found: Fingerprint) -> Chosen:
    """Return the scheme that values are scaled by.

    CT has one scale for all images: what lies between the percentiles 0.5 and 99.5 of the foreground (nnU-Net). Bytes
    are divided by 255 where the images' contrasts are alike. Anything else is scaled image by image: volumes by mean
    and deviation (nnU-Net), pictures by the percentiles 1 and 99.8 (StarDist's examples): of a picture with few small
    objects the deviation is that of the ground, and whatever is faint looks like an object
    (docs/results/plan-settings.md).
    """
    if _hounsfield(found):
        spread = found.spread(0, foreground=True)
        low, high = (float(f"{spread[share]:.5g}") for share in (0.005, 0.995))
        if not high > low:
            low, high = low - 1, high + 1
        volumes = counted(len(found.cases), "volume")
        why = f"CT: percentiles 0.5 and 99.5 of the foreground over {volumes}, one scale for all"
        return Chosen({"scheme": "range", "low": low, "high": high, "clip": True}, why)
    own: dict[str, Any] = {"scheme": "percentiles" if found.dimensions == 2 else "zscore"}
    brightest = max(row[-1] for case in found.cases for row in case.quantiles)
    if all(case.dtype == "uint8" for case in found.cases) and brightest >= _FAINT:
        contrasts = np.array([max(row[-2] - row[1] for row in case.quantiles) for case in found.cases])
        ratio = float(np.percentile(contrasts, 95) / max(np.percentile(contrasts, 5), 1.0))
        if ratio <= _CONTRASTS:
            return Chosen({"scheme": "range", "low": 0, "high": 255}, "all images have values of 8 bits on one scale")
        return Chosen(own, f"contrasts differ by a factor of {ratio:.0f} between images: each by itself")
    if found.dimensions == 2:
        return Chosen(own, "values have no scale in common: each picture by its own percentiles")
    # of zeros and one other value nothing would be left without the zeros
    firsts = [case.quantiles[0] for case in found.cases]
    nonzero = float(np.mean([row[4] == 0 and len(set(row)) > 2 for row in firsts])) > 0.5
    why = "values have no scale in common: each image by its own mean and deviation"
    if nonzero:
        return Chosen({**own, "nonzero": True}, f"{why}, zeros around the object left out")
    return Chosen(own, why)


def _hounsfield(found: Fingerprint) -> bool:
    named = any("CT" in name.upper().replace("-", " ").split() for name in found.modality)
    reaches = float(np.mean([case.quantiles[0][2] <= CT_AIR for case in found.cases]))
    return named and found.channels == 1 and reaches > 0.5


def polarity(found: Fingerprint) -> Chosen:
    """Return whether images are turned into negatives so that objects are the same side of grey in all of them.

    An image is turned where its median is above the middle of its range. That tells dark objects on a bright ground
    from bright ones on a dark ground, where objects are the lesser part of an even ground; of a slice of a CT it tells
    how much of the slice is air, and tissue that is bright in one image would be dark in the next. So images are turned
    only where, by what was measured, that brings the objects of nearly all of them to one side.

    Args:
        found: the fingerprint.
    """
    if found.background is None or found.dimensions == 3:
        return Chosen(None, "values are taken as they are")
    held = [case for case in found.cases if case.foreground]
    brighter = np.array([case.foreground[0][_MEDIAN] > case.quantiles[0][_MEDIAN] for case in held], bool)
    share = float(brighter.mean()) if held else 1.0
    if not _MINORITY < share < 1 - _MINORITY:
        return Chosen(None, "objects are on the same side of grey in all images")
    said = f"objects are brighter than the rest in {100 * share:.0f} % of the images and darker in the others"
    rows = [case.quantiles[0] for case in held]
    turned = np.array([row[_MEDIAN] > (row[0] + row[-1]) / 2 for row in rows], bool)
    after = float((brighter ^ turned).mean())
    if after < 1 - _MINORITY:
        return Chosen(
            None,
            f"{said}; negatives of images whose median is high would leave them darker in {100 * (1 - after):.0f} %",
        )
    return Chosen(
        "bright", f"{said}; they are brighter in {100 * after:.0f} % where images with a high median are turned"
    )


def foreground(found: Fingerprint) -> Chosen:
    """Return the share of patches that is centred on a voxel of a class, drawn evenly among those of the case.

    A third, as nnU-Net; two thirds of pictures with several classes, of which the rarest is else not found within
    hundreds of steps (docs/results/plan-settings.md). Volumes were not tried so.

    Args:
        found: the fingerprint.
    """
    if found.background is None:
        return Chosen(0.0, "every class is everywhere")
    if found.dimensions == 2 and len(found.classes) > 2:
        return Chosen(0.67, "two thirds of the patches are centred on a class drawn evenly: there are several to find")
    return Chosen(0.33, "a third of the patches is centred on a class drawn evenly (nnU-Net)")


def balance(found: Fingerprint) -> Chosen:
    """Return how far kinds of pictures are drawn alike: as the square roots of how many pictures a kind has.

    Where it was tried, on nuclei, stained tissue gained most and the frequent kind lost nothing
    (docs/results/plan-settings.md). What tells volumes apart is how they are stored, which is undone before they are
    drawn.

    Args:
        found: the fingerprint.
    """
    if found.dimensions == 3:
        return Chosen(0.0, "volumes are drawn alike: what their kinds differ in is undone as they are loaded")
    kinds = Counter(kind_of(case) for case in found.cases).most_common()
    if len(kinds) == 1:
        return Chosen(0.0, "all pictures are of one kind")
    said = ", ".join(f"{number} {kind}" for kind, number in kinds)
    return Chosen(0.5, f"a kind is drawn as the square root of how many pictures it has: {said}")


def full_patch(edges: Sequence[float], axes: int) -> list[int]:
    """Return the largest patch worth training on: the median image, bounded, before levels are known."""
    return [max(1, min(LARGEST_PATCH[axes], math.ceil(edge))) for edge in edges]


def levels(patch: Sequence[int], voxel: Sequence[float] | None) -> tuple[list[int], list[list[int]]]:
    """Return the patch, rounded up to what the poolings divide, and the strides between levels, from the finest.

    nnU-Net: an axis is halved while it keeps `LEAST_EDGE` voxels, and not before the others have come to its voxel
    size by a factor of 2; the last level is where no axis can be halved. There are two levels at least.

    Args:
        patch: edges in voxels.
        voxel: size of a voxel in mm, an axis each; ``None`` where axes are alike.
    """
    axes = len(patch)
    size = [float(edge) for edge in patch]
    width = [1.0] * axes if voxel is None else [float(edge) for edge in voxel]
    strides: list[list[int]] = []
    while len(strides) < MOST_LEVELS[axes] - 1:
        able = [axis for axis in range(axes) if size[axis] >= 2 * LEAST_EDGE]
        if not able:
            break
        finest = min(width[axis] for axis in able)
        halved = [2 if axis in able and width[axis] < 2 * finest else 1 for axis in range(axes)]
        strides.append(halved)
        size = [edge / step for edge, step in zip(size, halved, strict=True)]
        width = [edge * step for edge, step in zip(width, halved, strict=True)]
    strides = strides or [[2 if edge > 1 else 1 for edge in patch]]  # of what is smaller than two levels: no less
    whole = [math.prod(stride[axis] for stride in strides) for axis in range(axes)]
    return [math.ceil(edge / multiple) * multiple for edge, multiple in zip(patch, whole, strict=True)], strides


def smaller(patch: Sequence[int], edges: Sequence[float]) -> list[int] | None:
    """Return the next smaller patch; ``None`` at the end.

    Of volumes three quarters of the axis that is largest beside the image; of pictures 85 % of both edges.

    Args:
        patch: edges in voxels.
        edges: of the median image.
    """
    if len(patch) == 2:
        shrunk = [max(4 * LEAST_EDGE, int(edge * 0.85)) for edge in patch]
        return shrunk if shrunk != list(patch) else None
    order = sorted(range(len(patch)), key=lambda axis: (patch[axis] / max(edges[axis], 1), patch[axis]), reverse=True)
    for axis in order:
        if patch[axis] > 4 * LEAST_EDGE:
            shrunk = list(patch)
            shrunk[axis] = max(4 * LEAST_EDGE, int(patch[axis] * 0.75))
            return shrunk
    return None


def mirrors(found: Fingerprint, seen: Chosen | None = None) -> Chosen:
    """Return the axes that training images are mirrored along.

    A body has a left and a right, a front and a back: mirrored volumes show what no patient has, and where classes are
    told apart by where they lie, as the hippocampus's front and back, they become one. So volumes are mirrored from
    left to right alone, and not even so where a class is named left or right. Pictures have no axes of a patient:
    those of one kind of surface or cells look alike from every side, others are mirrored from left to right.

    Args:
        found: the fingerprint.
        seen: plane of the slices, see `plane`.
    """
    if sided(found.classes):
        return Chosen([], "nowhere: classes are named by side, which mirroring would exchange")
    if found.dimensions == 3:
        if any(code == "" for code in found.orientations):
            return Chosen([], "nowhere: which axis of a stack is which is not known")
        if seen is not None and seen.value == "sagittal":
            return Chosen([], "nowhere: left and right lie in different slices")
        return Chosen([0], "from left to right alone: front and back, head and foot are not alike")
    if _tissue(found):
        return Chosen([0, 1], "along both axes: tissue and cells look alike from every side")
    return Chosen([1], "from left to right: which way is up may matter")


def _tissue(found: Fingerprint) -> bool:
    words = {word for name in found.modality for word in name.lower().replace("-", " ").replace("/", " ").split()}
    return bool(words & _TISSUE)
