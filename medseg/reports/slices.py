"""Slices of a case as a reader leafs through them: in radiological view, few and small enough for one page.

A case is reduced when it is scored, so that a report needs neither the data nor the model again. The file holds plain
arrays; nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.affines import voxel_edges
from medseg.atomic import atomic_write
from medseg.errors import MedsegError, shown
from medseg.reports.planes import Plane, anatomical_planes, tilt
from medseg.reports.windows import as_window, contrast, stretched

__all__ = ["FILE", "Slices", "load_slices", "make_slices", "save_slices"]

FILE = "cases.npz"
MOST = 32
"""Slices of a case."""
EDGE = 224
"""Pixels of a slice along its longer edge."""
_THICK = 2.0  # slices so many times as thick as a pixel is wide: shown is the plane that was acquired
_AROUND = 0.15  # of the slices with something in them, that are shown before and behind
_ARRAYS = ("image", "truth", "prediction")
_OBLIQUE = 3  # degrees

Array = NDArray[Any]


@dataclass(frozen=True)
class Slices:
    """Some slices of a case, in the order from foot to head, left to right or back to front.

    Args:
        name: of the case.
        image: ``(N, H, W)`` or ``(N, H, W, 3)``, uint8.
        prediction: class indices ``(N, H, W)``.
        truth: likewise; ``None`` where it is not known. The ignore label is among them.
        indices: which slice of the volume each is, from 1.
        of: slices of the volume.
        start: place in ``indices`` of the slice with most to see.
        plane: ``"axial"``, ``"page"`` or the like; empty of a picture.
        pixel: height and width of a pixel, in any unit.
        letters: of the patient's sides at the left, right, top and bottom edge; empty where they are not known.
        oblique: degrees between the array's axes and the patient's.
        score: of the case, by which it was chosen; ``None`` without.
        window: values that are shown black and white, where they are not the image's percentiles.
    """

    name: str
    image: Array
    prediction: Array
    truth: Array | None = None
    indices: Sequence[int] = (1,)
    of: int = 1
    start: int = 0
    plane: str = ""
    pixel: tuple[float, float] = (1.0, 1.0)
    letters: Sequence[str] = ()
    oblique: int = 0
    score: float | None = None
    window: Sequence[float] = ()


def make_slices(
    case: Mapping[str, Any], *, background: int | None = None, most: int = MOST, edge: int = EDGE
) -> Slices:
    """Reduce a case to some of its slices: of volumes axial ones, or in the plane that they were acquired in if thick.

    Args:
        case: ``name``, ``image`` ``(C, *S)`` or ``(*S)``, ``prediction`` ``(*S)`` or ``(1, *S)``; where known ``label``
            likewise, ``affine`` ``(4, 4)`` (voxel to patient in mm, RAS+) and ``score``; with ``window`` what is shown
            black and white.
        background: class around the objects; ``None`` for that which is most of the case.
        most: slices that are kept.
        edge: pixels of a slice, at most.

    Raises:
        MedsegError: if sizes differ.
    """
    prediction = _indices(case["prediction"])
    label = None if case.get("label") is None else _indices(case["label"])
    image = np.asarray(case["image"])
    image = image[None] if image.ndim == prediction.ndim else image
    sizes = {image.shape[1:], prediction.shape, *([] if label is None else [label.shape])}
    if len(sizes) > 1 or prediction.ndim not in (2, 3):
        raise MedsegError(
            f"case {shown(case['name'])}: its image is {image.shape[1:]}, its prediction {prediction.shape}"
            f"{'' if label is None else f', its label {label.shape}'}; they must be one size in 2D or 3D"
        )
    affine = case.get("affine")
    if prediction.ndim == 2 and affine is not None:  # a slice that knows its place
        image, prediction = image[..., None], prediction[..., None]
        label = None if label is None else label[..., None]
    shown_as = image if image.shape[0] == 3 else image[:1]
    window = as_window(case.get("window")) or ()
    sparse = (slice(None), *(slice(None, None, 1 + length // 128) for length in shown_as.shape[1:]))
    lies = None if affine is None else np.asarray(affine, np.float64)
    interest = _interesting(prediction, label, background)
    cut, place = _cut(shown_as, prediction, label, interest, lies, most, window or contrast(shown_as[sparse]))
    rows, columns = cut["image"].shape[1:3]
    held: dict[str, Any] = {
        name: None if each is None else _smaller(each, edge, name == "image") for name, each in cut.items()
    }
    height, width = place.pop("pixel", (1.0, 1.0))
    small = held["image"].shape[1:3]
    score = case.get("score")
    return Slices(
        str(case["name"]),
        **held,
        **place,
        pixel=(float(height * rows / small[0]), float(width * columns / small[1])),
        score=None if score is None or np.isnan(score) else float(score),
        window=window,
    )


def _cut(
    image: Array, prediction: Array, truth: Array | None, interest: NDArray[np.bool_], affine: Array | None, most: int,
    edges: Sequence[float],
) -> tuple[dict[str, Any], dict[str, Any]]:  # fmt: skip
    """Return the slices of a case ``(N, H, W)``, and what is said of their place."""
    low, high = edges
    if prediction.ndim == 2:
        picture = stretched(image, low, high)
        grey = picture.transpose(1, 2, 0) if len(picture) == 3 else picture[0]
        return {
            "image": grey[None],
            "prediction": prediction[None],
            "truth": None if truth is None else truth[None],
        }, {}
    plane = None if affine is None else _plane(affine, interest)
    axis = 0 if plane is None else plane.axis
    counts = np.moveaxis(interest, axis, 0).reshape(prediction.shape[axis], -1).sum(1)
    richest = int(counts.argmax()) if plane is None else plane.index
    chosen = _chosen(counts, richest, most)
    # towards the head, the front or the left of the patient, whatever the array's order
    if plane is not None and plane.flipped[plane.order.index(axis)]:
        chosen.reverse()

    def take(volume: Array) -> Array:
        return np.stack([volume[n] if plane is None else replace(plane, index=n).cut(volume) for n in chosen])

    place: dict[str, Any] = {
        "indices": [index + 1 for index in chosen],
        "of": prediction.shape[axis],
        "start": chosen.index(richest),
        "plane": "page" if plane is None else plane.name,
    }
    if plane is not None and affine is not None:
        angle = round(tilt(affine))
        place |= {"pixel": plane.pixel, "letters": plane.letters, "oblique": angle if angle >= _OBLIQUE else 0}
    channels = [stretched(take(channel), low, high) for channel in image]
    pictures = channels[0] if len(channels) == 1 else np.stack(channels, axis=-1)
    return {"image": pictures, "prediction": take(prediction), "truth": None if truth is None else take(truth)}, place


def _plane(affine: Array, interest: NDArray[np.bool_]) -> Plane | None:
    planes = {plane.axis: plane for plane in anatomical_planes(affine, interest)}
    edges = voxel_edges(affine)
    thick = int(edges.argmax())
    if thick in planes and edges[thick] >= _THICK * np.median(edges):
        return planes[thick]
    return next(iter(planes.values()), None)  # axial comes first


def _interesting(prediction: Array, truth: Array | None, background: int | None) -> NDArray[np.bool_]:
    """Return where there is anything but the background, or what is most of the case."""
    usual = _most(prediction if truth is None else truth) if background is None else background
    found = prediction != usual
    return np.asarray(found if truth is None else found | (truth != usual))


def _most(indices: Array) -> int:
    counts: Counter[int] = Counter()
    for piece in indices:
        values, numbers = np.unique(piece, return_counts=True)
        counts.update(dict(zip(values.tolist(), numbers.tolist(), strict=True)))
    return counts.most_common(1)[0][0]


def _chosen(counts: Array, richest: int, most: int) -> list[int]:
    """Return evenly spaced slices through what is interesting, the richest among them."""
    inside = np.flatnonzero(counts)
    first, last = (int(inside[0]), int(inside[-1])) if inside.size else (0, len(counts) - 1)
    more = round(_AROUND * (last - first + 1)) + 1
    first, last = max(0, first - more), min(len(counts) - 1, last + more)
    step = -(-(last - first + 1) // most)
    return list(range(first + (richest - first) % step, last + 1, step))


def _smaller(array: Array, edge: int, image: bool) -> Array:
    """Return slices ``(N, H, W[, 3])`` with edges of at most so many pixels."""
    from PIL import Image

    height, width = array.shape[1:3]
    if max(height, width) <= edge:
        return array
    scale = edge / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if image:
        box = Image.Resampling.BOX
        return np.stack([np.asarray(Image.fromarray(each).resize(size, box)) for each in array])
    rows, columns = (((np.arange(n) + 0.5) * old / n).astype(int) for n, old in ((size[1], height), (size[0], width)))
    return array[:, rows][:, :, columns]


def _indices(array: Any) -> Array:
    label = np.asarray(array)
    label = label[0] if label.ndim > 2 and label.shape[0] == 1 else label
    return label if label.dtype.kind in "ui" else label.astype(np.int32)


def save_slices(cases: Sequence[Slices], path: Path) -> None:
    """Write cases into one file, atomically.

    Args:
        cases: to write.
        path: of the file.
    """
    held: dict[str, Array] = {}
    facts = []
    for number, case in enumerate(cases):
        arrays = {name: getattr(case, name) for name in _ARRAYS}
        held |= {f"{name}_{number}": array for name, array in arrays.items() if array is not None}
        facts.append({key: value for key, value in vars(case).items() if key not in _ARRAYS})
    held["facts"] = np.frombuffer(json.dumps(facts).encode(), np.uint8)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **held)  # type: ignore[arg-type]


def load_slices(path: Path) -> list[Slices]:
    """Read what `save_slices` wrote.

    Args:
        path: of the file.

    Raises:
        MedsegError: if it is no such file.
    """
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as held:
            facts = json.loads(held["facts"].tobytes())
            return [
                Slices(**{name: held[f"{name}_{n}"] for name in _ARRAYS if f"{name}_{n}" in held}, **each)
                for n, each in enumerate(facts)
            ]
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise MedsegError(
            f"{shown(path)} does not hold the slices of an evaluation ({type(error).__name__}); remove it, or score "
            "the run again: medseg evaluate RUN"
        ) from error
