"""Arrays to pictures: the slice of a volume to show, contrast, colours over an image, wrong pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.reports.palette import IGNORED, WRONG, Colour
from medseg.reports.planes import anatomical_planes, tilt
from medseg.reports.windows import Pixels, Window, about, as_window, to_rgb

_ALPHA = 0.6  # of a class colour over the image
_LIFT = 80  # the darkest grey under a class colour: on black all colours look alike
_OBLIQUE = 3  # degrees off the anatomical axes that are worth a word
_STRIPE = 8  # width of a hatching stripe, in pixels of the sheet


@dataclass(frozen=True)
class View:
    """One case in two dimensions.

    Attributes:
        name: shown above the row.
        image: ``(H, W, 3)``, contrast stretched.
        truth: class indices ``(H, W)``.
        prediction: class indices ``(H, W)``.
        ignored: pixels without a label ``(H, W)``.
        pixel: height and width of a pixel, in any unit.
        letters: of the patient's sides at the left, right, top and bottom edge.
    """

    name: str
    image: Pixels
    truth: NDArray[np.int64]
    prediction: NDArray[np.int64]
    ignored: NDArray[np.bool_]
    pixel: tuple[float, float] = (1.0, 1.0)
    letters: tuple[str, str, str, str] | None = None

    @property
    def wrong(self) -> NDArray[np.bool_]:
        """Pixels whose prediction differs from their label ``(H, W)``."""
        return np.asarray((self.truth != self.prediction) & ~self.ignored)

    @property
    def wrong_share(self) -> float | None:
        """Part of the labelled pixels that is wrong; ``None`` where no pixel is labelled."""
        labelled = int((~self.ignored).sum())
        return float(self.wrong.sum()) / labelled if labelled else None


def make_views(case: Mapping[str, Any], classes: int, ignore_index: int | None) -> list[View]:
    """Check a case and reduce it to two dimensions: of a volume with an affine the three anatomical planes.

    Args:
        case: as for `make_view`; with ``affine`` ``(4, 4)`` (voxel to patient in mm, RAS+) the spatial axes are those
            of NIfTI. Leave it out, or ``None``, for pictures.
        classes: number of classes.
        ignore_index: label value that counts for nothing.

    Raises:
        ValueError: as `make_view`.
    """
    affine = case.get("affine")
    if affine is None:
        return [make_view(case, classes, ignore_index)]
    name, image, truth, prediction, ignored = _checked(case, classes, ignore_index)
    if truth.ndim == 2:  # a slice that knows its place
        image, ignored = image[..., None], ignored[..., None]
        truth, prediction = truth[..., None], prediction[..., None]
    window, through = _window(case)
    matrix = np.asarray(affine, np.float64)
    values, counts = np.unique(truth[~ignored], return_counts=True)
    background = values[counts.argmax()] if values.size else 0
    interest = ((truth != background) | (truth != prediction)) & ~ignored
    views: list[View] = []
    for plane in anatomical_planes(matrix, interest):
        where = f"{plane.name}, slice {plane.index + 1} of {truth.shape[plane.axis]}"
        angle = round(tilt(matrix))
        where += f", oblique by {angle}°" if angle >= _OBLIQUE else ""
        where += through
        picture = to_rgb(np.stack([plane.cut(channel) for channel in image]), window)
        labels, found = (plane.cut(each).astype(np.int64) for each in (truth, prediction))
        title = where if views else f"{name}, {where}"
        views.append(View(title, picture, labels, found, plane.cut(ignored), plane.pixel, plane.letters))
    return views or [make_view(case, classes, ignore_index)]  # of a line of voxels there is no plane


def make_view(case: Mapping[str, Any], classes: int, ignore_index: int | None) -> View:
    """Check a case and reduce it to two dimensions: of a volume the richest slice along its shortest axis.

    Args:
        case: ``name``, ``image`` ``(H, W)``, ``(C, H, W)`` or ``(C, *S)`` in 3D, ``label`` and ``prediction`` ``(*S)``
            or ``(1, *S)`` with class indices; with ``window`` the values that are shown black and white.
        classes: number of classes.
        ignore_index: label value that counts for nothing.

    Raises:
        ValueError: if sizes differ or a class index is out of range.
    """
    name, image, truth, prediction, ignored = _checked(case, classes, ignore_index)
    if truth.ndim == 3:
        axis, index = richest_slice(np.where(ignored, -1, truth.astype(np.int64)))
        name = f"{name}, slice {index + 1} of {truth.shape[axis]}"
        truth, prediction, ignored = (cut_plane(array, axis, index) for array in (truth, prediction, ignored))
        image = np.stack([cut_plane(channel, axis, index) for channel in image])
    window, through = _window(case)
    return View(name + through, to_rgb(image, window), truth.astype(np.int64), prediction.astype(np.int64), ignored)


def _window(case: Mapping[str, Any]) -> tuple[Window | None, str]:
    """Return the window that a case is shown through, and what is said of it beside other words."""
    window = as_window(case.get("window"))
    return window, f", {about(window)}" if window else ""


def _checked(
    case: Mapping[str, Any], classes: int, ignore_index: int | None
) -> tuple[str, NDArray[Any], NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    """Return name, image ``(C, *S)``, truth, prediction and ignored pixels ``(*S)``, as they are: a volume is large."""
    name = str(case["name"])
    truth = _indices(case["label"])
    prediction = _indices(case["prediction"])
    image = np.asarray(case["image"])
    image = image[None] if image.ndim == truth.ndim else image
    if not image.shape[1:] == truth.shape == prediction.shape or truth.ndim not in (2, 3):
        raise MedsegError(
            f"case {name}: image {image.shape[1:]}, label {truth.shape} and prediction {prediction.shape} "
            "must have one size in 2D or 3D; bring them to the size of the image first"
        )
    ignored = np.zeros(truth.shape, bool) if ignore_index is None else truth == ignore_index
    for what, values in (("label", truth[~ignored]), ("prediction", prediction)):
        odd = values[(values < 0) | (values >= classes)]
        if odd.size:
            raise MedsegError(
                f"case {name}: {what} holds value {odd.flat[0]}, but there are {classes} classes (0-{classes - 1}); "
                "name the value as ignore_index if it means no label"
            )
    return name, image, truth, prediction, ignored


def richest_slice(label: NDArray[np.int64]) -> tuple[int, int]:
    """Choose the slice with most classes, then most pixels outside the largest class, then nearest to the middle.

    Args:
        label: class indices ``(S1, S2, S3)``; negative values count for nothing.

    Returns:
        Axis (the shortest one; the last of equals, which is axial in most volumes) and index.
    """
    axis = max(range(3), key=lambda each: (-label.shape[each], each))
    slices = np.moveaxis(label, axis, 0).reshape(label.shape[axis], -1)
    values, counts = np.unique(slices[slices >= 0], return_counts=True)
    largest = values[counts.argmax()] if values.size else 0
    present = sum(((slices == value).any(axis=1) for value in values), np.zeros(len(slices), int))
    small = ((slices >= 0) & (slices != largest)).sum(axis=1)
    middle = (len(slices) - 1) / 2
    return axis, max(range(len(slices)), key=lambda each: (present[each], small[each], -abs(each - middle)))


def show_classes(
    image: Pixels, label: NDArray[np.int64], colours: Sequence[Colour | None], hidden: NDArray[np.bool_]
) -> Pixels:
    """Lay class colours over an image, with a contour of the full colour around each region.

    Args:
        image: ``(H, W, 3)``.
        label: class indices ``(H, W)``.
        colours: by class; ``None`` leaves the class uncoloured.
        hidden: pixels to hatch in grey instead.
    """
    out = image.astype(np.float32)
    lifted = _LIFT + out * ((255 - _LIFT) / 255)
    edge = _edges(np.where(hidden, -1, label.astype(np.int64)))
    for index, colour in enumerate(colours):
        if colour is None:
            continue
        region = (label == index) & ~hidden
        out[region] = (1 - _ALPHA) * lifted[region] + _ALPHA * np.asarray(colour, np.float32)
        out[region & edge] = colour
    return _hatch(out, hidden)


def show_wrong(image: Pixels, share: NDArray[np.float32], hidden: NDArray[np.bool_]) -> Pixels:
    """Mark wrong pixels on a faded image.

    Args:
        image: ``(H, W, 3)``.
        share: part of each pixel that is wrong ``(H, W)``, between 0 and 1 where the image was made smaller.
        hidden: pixels to hatch.
    """
    grey = image.astype(np.float32).mean(axis=2, keepdims=True)
    faded = np.repeat(170 + grey * (85 / 255), 3, axis=2)
    alpha = share[..., None] * 0.9
    return _hatch((1 - alpha) * faded + alpha * np.asarray(WRONG, np.float32), hidden)


def _hatch(picture: NDArray[np.float32], hidden: NDArray[np.bool_]) -> Pixels:
    rows, columns = np.indices(hidden.shape)
    stripe = ((rows + columns) // _STRIPE) % 2 == 0
    picture[hidden] = IGNORED
    picture[hidden & stripe] = np.asarray(IGNORED) + 60
    return np.asarray(picture.round().clip(0, 255), np.uint8)


def _edges(label: NDArray[np.int64]) -> NDArray[np.bool_]:
    edge = np.zeros(label.shape, bool)
    down, right = label[1:] != label[:-1], label[:, 1:] != label[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    return edge


def _indices(array: Any) -> NDArray[Any]:
    label = np.asarray(array)
    label = np.asarray(label[0] if label.ndim > 2 and label.shape[0] == 1 else label)
    return label if label.dtype.kind in "ui" else label.astype(np.int64)


def cut_plane(volume: NDArray[Any], axis: int, index: int) -> NDArray[Any]:
    """Take a slice; one along the last axis is turned, for volumes come as ``(x, y, z)`` with y upwards.

    Args:
        volume: ``(X, Y, Z)``.
        axis: that the slice is perpendicular to.
        index: of the slice.
    """
    piece = np.take(volume, index, axis=axis)
    return np.rot90(piece) if axis == 2 else piece
