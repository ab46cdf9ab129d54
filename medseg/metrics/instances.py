"""From a foreground mask to instances, and how well instances were found.

Average precision here is AP = TP / (TP + FP + FN) at one IoU threshold, as the 2018 Data Science Bowl
(https://www.kaggle.com/c/data-science-bowl-2018, J. Caicedo et al., https://doi.org/10.1038/s41592-019-0612-7),
StarDist (https://arxiv.org/abs/1806.03535) and Cellpose (https://doi.org/10.1038/s41592-020-01018-x) report it; it is
not the area under a precision-recall curve. Panoptic quality is from A. Kirillov et al.,
https://arxiv.org/abs/1801.00868, eq. 1.
Two averages go by the same name, so both are given:

- ``pooled``: TP, FP and FN are added up over the set first (StarDist's ``matching_dataset`` with ``by_image=False``),
  so an image of many objects weighs more;
- ``per_image``: each image is scored by itself and the scores are averaged (Data Science Bowl, Cellpose, StarDist's
  ``by_image=True``), so every image weighs the same.

Deviations: a match is IoU >= threshold, as in StarDist and Cellpose; the Data Science Bowl and panoptic quality ask for
more than the threshold, which differs where an IoU is exactly on it. An image with neither true nor predicted objects
scores 1 (StarDist: 0, Cellpose: NaN), so that all methods are averaged over the same images. Among the assignments with
most matches the one with the largest sum of matched IoU is taken; below threshold 0.5 StarDist's also weighs pairs that
are no match.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment
from skimage.morphology import local_maxima, reconstruction
from skimage.segmentation import watershed

from medseg.errors import MedsegError

IOU_THRESHOLDS = tuple(percent / 100 for percent in range(50, 100, 5))
"""0.5, 0.55 ... 0.95: those of the Data Science Bowl and of COCO."""

SCORES = ("precision", "recall", "f1", "average_precision", "mean_matched_iou", "panoptic_quality")

MOST_ID = 2**31 - 1  # the key of a pair of ids then fits 63 bits

Array = NDArray[Any]
Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


def label_instances(
    mask: Array,
    method: Literal["components", "watershed"] = "components",
    *,
    connectivity: int = 1,
    min_size: int = 0,
    h: float | None = None,
    spacing: Sequence[float] | None = None,
) -> NDArray[np.int32]:
    """Split a foreground mask into instances.

    ``"components"`` makes one instance of all that is connected. ``"watershed"`` cuts connected objects at their
    necks: it floods the negative distance to the background from markers, which are the maxima that rise more
    than ``h`` above the neck to the next higher one (h-maxima; P. Soille, "Morphological Image Analysis", 2003). Every
    component keeps a marker, however thin it is.

    Args:
        mask: boolean, or integers of which one value is not zero; of a map of classes pass ``label == c``.
        method: ``"components"`` or ``"watershed"``.
        connectivity: 1 joins pixels that share a side (a face in 3D), ``mask.ndim`` also those that share a corner.
        min_size: smallest instance to keep, in pixels (voxels); smaller ones become background, they join no other.
        h: for ``"watershed"``: depth of a neck that is cut, in the unit of ``spacing``; 1 if ``None``. Larger
            values cut less.
        spacing: for ``"watershed"``: edges of a pixel (voxel) along each axis; 1 if ``None``.

    Raises:
        TypeError: if the mask is no array of booleans or integers.
        ValueError: if the mask is neither 2D nor 3D or holds several classes, or if an option is out of its range or
            belongs to the other method.

    Shape:
        mask ``(H, W)`` or ``(D, H, W)``; result the same, int32, 0 for background and 1, 2 ... without gaps.
    """
    inside = _foreground(mask)
    if method not in ("components", "watershed"):
        raise MedsegError(f"method is {method!r}; it must be 'components' or 'watershed'")
    if not 1 <= connectivity <= inside.ndim:
        raise MedsegError(f"connectivity is {connectivity}; it must be 1 to {inside.ndim} for a {inside.ndim}D mask")
    if min_size < 0:
        raise MedsegError(f"min_size is {min_size}; it must be 0 or more pixels")
    if method == "components" and (h is not None or spacing is not None):
        raise MedsegError(f"h is {h}, spacing is {spacing}; 'components' has no use for them: set method='watershed'")
    if h is not None and not 0 < h < math.inf:
        raise MedsegError(f"h is {h}; it must be above 0 and finite")
    if spacing is not None and (len(spacing) != inside.ndim or not all(0 < edge < math.inf for edge in spacing)):
        raise MedsegError(f"spacing {spacing} must hold {inside.ndim} values above 0 for a {inside.ndim}D mask")
    instances: NDArray[np.int32]
    instances, _ = ndimage.label(inside, ndimage.generate_binary_structure(inside.ndim, connectivity))
    if method == "watershed" and not inside.all():  # no background is one object, with no distance to it
        distance = ndimage.distance_transform_edt(inside, sampling=spacing)
        markers = _h_maxima(distance, instances, 1.0 if h is None else h, connectivity)
        instances = watershed(-distance, markers, mask=inside, connectivity=connectivity)
    return _drop_small(instances.astype(np.int32, copy=False), min_size)


def _foreground(mask: Array) -> NDArray[np.bool_]:
    if not isinstance(mask, np.ndarray) or mask.dtype.kind not in "bui":
        what = mask.dtype if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"the mask is {what}, not a numpy array of booleans or integers; threshold it first")
    if mask.ndim not in (2, 3):
        raise MedsegError(f"a mask of shape {mask.shape} is neither 2D nor 3D; pass one image without a channel axis")
    inside: NDArray[np.bool_] = mask != 0
    if mask.dtype != bool and inside.any():
        some = mask[inside]
        if (some != some[0]).any():
            values = np.unique(some)[:10].tolist()
            raise MedsegError(
                f"the mask holds classes {values}; split one after the other, with mask == {values[0]} ..."
            )
    return inside


def _h_maxima(distance: Floats, components: NDArray[np.int32], h: float, connectivity: int) -> NDArray[np.int32]:
    """Number the maxima of height ``h`` in each component.

    `skimage.morphology.h_maxima` gives one marker for each of several equal peaks of one dome, which distances on a
    grid often have, and none where all is lower than ``h``. Here the maxima are those of the reconstruction, which is
    flat over a dome, and it never sinks to the background. Box by box it takes a third of the whole image's time.
    """
    footprint = ndimage.generate_binary_structure(distance.ndim, connectivity)
    boxes = ndimage.find_objects(components)
    highest = np.zeros(len(boxes) + 1)
    np.maximum.at(highest, components.ravel(), distance.ravel())
    thick = highest - distance.min(initial=math.inf, where=components > 0) > h
    markers = np.where(thick[components], 0, components)  # what is too thin to be cut stays whole: specks are many
    count = len(boxes)
    for index in np.flatnonzero(thick):
        box = boxes[index - 1]
        inside = np.pad(components[box] == index, 1)  # a constant array has no maximum for skimage
        height = np.where(inside, np.pad(distance[box], 1), 0)
        seed = np.where(inside, np.maximum(height - h, height[inside].min()), 0)
        domes = reconstruction(seed, height, footprint=footprint)
        found, number = ndimage.label(local_maxima(domes, connectivity=connectivity).astype(bool) & inside, footprint)
        found = found[(slice(1, -1),) * distance.ndim]
        markers[box][found > 0] = found[found > 0] + count
        count += number
    return markers


def _drop_small(instances: NDArray[np.int32], min_size: int) -> NDArray[np.int32]:
    sizes = np.bincount(instances.ravel(), minlength=1)
    kept = (sizes >= min_size) & (sizes > 0)
    kept[0] = False
    lookup = np.where(kept, np.cumsum(kept), 0).astype(np.int32)
    return lookup[instances]


@dataclass(frozen=True)
class _Overlaps:
    """The objects of an image, and the pairs of them that share a pixel: their indices and their IoU."""

    true_objects: int
    predicted_objects: int
    true: Ints
    predicted: Ints
    iou: Floats


def _overlaps(prediction: Array, truth: Array) -> _Overlaps:
    for name, value in (("prediction", prediction), ("truth", truth)):
        _check_map(name, value)
    if prediction.shape != truth.shape:
        raise MedsegError(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    somewhere = (prediction != 0) | (truth != 0)
    base = int(prediction.max()) + 1
    keys, counts = np.unique(
        truth[somewhere].astype(np.int64) * base + prediction[somewhere].astype(np.int64), return_counts=True
    )
    true_ids, true = np.unique(np.append(0, keys // base), return_inverse=True)  # 0 first, also where it is not
    predicted_ids, predicted = np.unique(np.append(0, keys % base), return_inverse=True)
    true, predicted = true[1:], predicted[1:]
    true_size = np.bincount(true, counts, minlength=len(true_ids))
    predicted_size = np.bincount(predicted, counts, minlength=len(predicted_ids))
    both = (true > 0) & (predicted > 0)
    true, predicted, counts = true[both], predicted[both], counts[both]
    iou = counts / (true_size[true] + predicted_size[predicted] - counts)
    return _Overlaps(len(true_ids) - 1, len(predicted_ids) - 1, true, predicted, iou)


def _check_map(name: str, value: Array) -> None:
    if not isinstance(value, np.ndarray) or value.dtype.kind not in "ui":
        what = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise TypeError(
            f"the {name} is {what}, not a numpy array of instance ids; label_instances makes them of a mask"
        )
    if value.ndim not in (2, 3) or not value.size:
        raise MedsegError(
            f"the {name} of shape {value.shape} is no 2D or 3D image; pass one image at a time, without a channel axis"
        )
    low, high = int(value.min()), int(value.max())
    if low < 0:
        raise MedsegError(f"the {name} holds the instance id {low}; ids are 1 and above, 0 is background")
    if high > MOST_ID:
        raise MedsegError(
            f"the {name} holds the instance id {high}, above {MOST_ID}; renumber it with relabel_sequential"
        )


def _assign(found: _Overlaps, threshold: float) -> Ints:
    """Return which pairs are the most matches of IoU >= threshold, ties broken by the sum of IoU."""
    candidates = np.flatnonzero(found.iou >= threshold)
    true, predicted = found.true[candidates], found.predicted[candidates]
    rivals = (np.bincount(true)[true] > 1) | (np.bincount(predicted)[predicted] > 1) if len(true) else true > 0
    if not rivals.any():  # always so above 0.5
        return candidates
    contested = candidates[rivals]
    rows, row = np.unique(found.true[contested], return_inverse=True)
    columns, column = np.unique(found.predicted[contested], return_inverse=True)
    gain = np.zeros((len(rows), len(columns)))
    gain[row, column] = 1 + found.iou[contested] / (2 * min(gain.shape))  # all ties together weigh half a match
    pair = np.zeros(gain.shape, dtype=np.int64)
    pair[row, column] = contested + 1
    chosen = pair[linear_sum_assignment(gain, maximize=True)]
    return np.sort(np.concatenate([candidates[~rivals], chosen[chosen > 0] - 1]))


def _checked_thresholds(thresholds: Sequence[float]) -> tuple[float, ...]:
    rounded = tuple(round(float(value), 9) for value in thresholds)  # numpy.arange(0.5, 1, 0.05) holds 0.6 + 1e-16
    if not rounded or not all(0 < value <= 1 for value in rounded) or sorted(set(rounded)) != list(rounded):
        raise MedsegError(f"IoU thresholds {rounded} must be in (0, 1] and ascend")
    return rounded


@dataclass(frozen=True)
class InstanceAverages:
    """Scores by IoU threshold, and under ``means`` their mean over the thresholds.

    Without predicted objects precision, without true objects recall, and without one of them AP, F1 and panoptic
    quality are 0; without both all are 1. ``mean_matched_iou`` is over the matches alone and NaN where there is none,
    which means leave out.
    """

    precision: list[float]
    recall: list[float]
    f1: list[float]
    average_precision: list[float]
    mean_matched_iou: list[float]
    panoptic_quality: list[float]

    @property
    def means(self) -> dict[str, float]:
        """Mean over the thresholds of each score; that of ``average_precision`` is the Data Science Bowl's score."""
        return {name: float(_mean(np.array(getattr(self, name)))) for name in SCORES}


@dataclass(frozen=True)
class InstanceScores:
    """What an `InstanceMatching` says; lists are in the order of ``thresholds``, NaN where no image was counted.

    ``empty_images`` have neither true nor predicted objects. ``image_average_precision`` is, for each image in the
    order of the updates, the mean AP over the thresholds.
    """

    thresholds: list[float]
    images: int
    empty_images: int
    true_objects: int
    predicted_objects: int
    true_positives: list[int]
    false_positives: list[int]
    false_negatives: list[int]
    pooled: InstanceAverages
    per_image: InstanceAverages
    image_average_precision: list[float]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: ``None`` stands for NaN."""
        rows = [
            {
                "threshold": threshold,
                "true_positives": self.true_positives[i],
                "false_positives": self.false_positives[i],
                "false_negatives": self.false_negatives[i],
                "pooled": {name: _plain(getattr(self.pooled, name)[i]) for name in SCORES},
                "per_image": {name: _plain(getattr(self.per_image, name)[i]) for name in SCORES},
            }
            for i, threshold in enumerate(self.thresholds)
        ]
        counts = ("images", "empty_images", "true_objects", "predicted_objects")
        return {
            **{name: getattr(self, name) for name in counts},
            "thresholds": rows,
            "pooled": {name: _plain(value) for name, value in self.pooled.means.items()},
            "per_image": {name: _plain(value) for name, value in self.per_image.means.items()},
            "image_average_precision": list(self.image_average_precision),
        }


class InstanceMatching:
    """Count matched, invented and missed instances of an evaluation set.

    Args:
        thresholds: IoU from which a pair is a match, ascending in (0, 1]; rounded to nine digits.

    Raises:
        ValueError: if the thresholds are not valid.
    """

    def __init__(self, thresholds: Sequence[float] = IOU_THRESHOLDS) -> None:
        self.thresholds = _checked_thresholds(thresholds)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._objects: list[tuple[int, int]] = []  # of each image: true, predicted
        self._matches: list[list[tuple[int, float]]] = []  # of each image by threshold: matches, their sum of IoU

    def update(self, prediction: Array, truth: Array) -> None:
        """Count one image.

        Args:
            prediction: instance map: 0 for background, another id for each instance; gaps do not matter. An id is one
                instance wherever its pixels lie, and other ids may touch it.
            truth: the same of the truth.

        Raises:
            TypeError: if a map is no array of integers.
            ValueError: if the maps differ in shape, are neither 2D nor 3D, or hold ids below 0 or above 2^31 - 1.

        Shape:
            both ``(H, W)`` or both ``(D, H, W)``; no batches, in which images would share ids.
        """
        found = _overlaps(prediction, truth)
        matched = [found.iou[_assign(found, threshold)] for threshold in self.thresholds]
        self._objects.append((found.true_objects, found.predicted_objects))
        self._matches.append([(len(iou), float(iou.sum())) for iou in matched])

    def take_turns(self, others: Sequence[InstanceMatching]) -> None:
        """Add the images of counts with the same thresholds in turn, the first of each, then the second of each."""
        for other in others:
            if other.thresholds != self.thresholds:
                raise MedsegError(f"cannot add counts at IoU {other.thresholds} to counts at IoU {self.thresholds}")
        order = sorted((number, turn) for turn, other in enumerate(others) for number in range(len(other._objects)))
        self._objects += [others[turn]._objects[number] for number, turn in order]
        self._matches += [others[turn]._matches[number] for number, turn in order]

    def compute(self) -> InstanceScores:
        """Return the scores."""
        objects = np.array(self._objects, dtype=np.int64).reshape(-1, 2)
        matches = np.array(self._matches, dtype=np.float64).reshape(-1, len(self.thresholds), 2)
        images, total = len(objects), matches.sum(0)
        true, predicted = (int(value) for value in objects.sum(0))
        hits = [int(value) for value in total[:, 0]]
        each = _scores(objects, matches)
        pooled = _scores(objects.sum(0), total) if images else each
        return InstanceScores(
            thresholds=list(self.thresholds),
            images=images,
            empty_images=int((objects.sum(1) == 0).sum()),
            true_objects=true,
            predicted_objects=predicted,
            true_positives=hits,
            false_positives=[predicted - hit for hit in hits],
            false_negatives=[true - hit for hit in hits],
            pooled=InstanceAverages(**{name: (v if images else _mean(v)).tolist() for name, v in pooled.items()}),
            per_image=InstanceAverages(**{name: _mean(value).tolist() for name, value in each.items()}),
            image_average_precision=each["average_precision"].mean(1).tolist(),
        )


def _scores(objects: Ints, matches: Floats) -> dict[str, Floats]:
    """Return the scores ``(..., thresholds)`` of objects ``(..., 2)`` and matches ``(..., thresholds, 2)``."""
    true, predicted = objects[..., 0, None], objects[..., 1, None]
    hit, iou = matches[..., 0], matches[..., 1]
    nothing = true + predicted == 0

    def share(part: Floats, whole: Array) -> Floats:
        counted = np.divide(part, whole, out=np.zeros(hit.shape), where=np.broadcast_to(whole > 0, hit.shape))
        return np.where(nothing, 1.0, counted)

    return {
        "precision": share(hit, predicted),
        "recall": share(hit, true),
        "f1": share(2 * hit, true + predicted),
        "average_precision": share(hit, true + predicted - hit),
        "mean_matched_iou": np.divide(iou, hit, out=np.full(hit.shape, math.nan), where=hit > 0),
        "panoptic_quality": share(iou, (true + predicted) / 2),
    }


def _mean(values: Floats) -> Floats:
    """Return the mean over the first axis, NaN left out, and NaN where nothing is left."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(0)
    mean: Floats = np.divide(total, there.sum(0), out=np.full(np.shape(total), math.nan), where=there.any(0))
    return mean


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else value
