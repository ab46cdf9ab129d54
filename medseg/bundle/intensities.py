"""What intensities a model was trained on, and whether an image has others: CT for a model of MR, 0 to 1 for 0 to 255.

Compared is what the network sees of the values, so that what the feeding makes alike (a window, an image's own scale)
counts for nothing. Every image of the training gives a row of quantiles; an image whose row lies far outside all of
them, measured by their own spread, is unlike them. This finds images of another kind, not poor ones; what it finds on
real data is in tests/bundle/test_intensities.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medseg.bundle.description import Description, Input
from medseg.data.case_facts import QUANTILES, lone, lone_said, quantiles
from medseg.data.datalist import Entry
from medseg.data.file_facts import FileFacts
from medseg.io.channels import paths_of
from medseg.io.images import ImageError

__all__ = [
    "FEWEST",
    "Facts",
    "beyond",
    "beyond_range",
    "doubts_of",
    "limits",
    "looked_at",
    "trained_on",
    "widest",
]

Rows = npt.NDArray[np.float64]
Facts = Mapping[tuple[Path, bool], FileFacts]
"""What is known of files: images and, where the key says so, labels."""

_LOOKED_AT = (0.005, 0.25, 0.5, 0.75, 0.995)
FEWEST = 8  # images that say what is usual
_MOST = 256
_SPREAD, _WIDTH = 0.25, 0.5  # allowed beyond: of the spread of all values, and of what this quantile itself varied by
_RANGE_SLACK = 0.05  # resizing and averages overshoot a little
_OWN_SCALE = ("image", "percentiles", "zscore")


def looked_at(entries: Sequence[Entry]) -> list[list[Path]]:
    """Return the files of the images that say what is usual, by image.

    Args:
        entries: of a training.
    """
    return [paths_of(entry["image"]) for entry in entries[:: max(1, -(-len(entries) // _MOST))]]


def trained_on(facts: Facts, entries: Sequence[Entry], fed: Input) -> dict[str, Any]:
    """Return the intensities of a training: what `doubts_of` compares; plain values, which name no image.

    Args:
        facts: of the files that `looked_at` names, as the check of the datalist has measured them.
        entries: of the training.
        fed: how the model is fed.

    Returns:
        ``low`` and ``high``, the least and greatest value of each quantile by channel, ``values``, in which the values
        lay as files hold them, and ``images``; empty where there are too few images to say.
    """
    known = {path: held.quantiles for (path, label), held in facts.items() if not label}
    measured = [np.array([row for path in paths for row in known.get(path, ())]) for paths in looked_at(entries)]
    rows = [_coloured(row[:, _places()], fed.colour) for row in measured if row.size]
    count = max((len(row) for row in rows), default=0)
    rows = [row for row in rows if len(row) == count]
    if len(rows) < FEWEST:
        return {}
    seen = np.stack([_as_fed(row, fed) for row in rows])
    values = [float(np.min(rows)), float(np.max(rows))]
    return {"low": seen.min(0).tolist(), "high": seen.max(0).tolist(), "values": values, "images": len(rows)}


def widest(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the intensities that the members of an ensemble were trained on, as `medseg.bundle.usual.widest` does.

    Args:
        seen: of each member, as `trained_on` gives it; all are fed alike.

    Returns:
        The same; empty where a member does not say it.
    """
    if not all(seen) or len({np.shape(each[name]) for each in seen for name in ("low", "high")}) != 1:
        return {}
    return {
        "low": np.min([each["low"] for each in seen], axis=0).tolist(),
        "high": np.max([each["high"] for each in seen], axis=0).tolist(),
        "values": [min(each["values"][0] for each in seen), max(each["values"][1] for each in seen)],
        "images": max(each["images"] for each in seen),
    }


def doubts_of(image: Tensor, description: Description) -> tuple[str, ...]:
    """Return what an image's values make one doubt: that they are unlike the training's, or a few make its scale.

    Args:
        image: as its file holds it, ``(C, *S)``, of finite values.
        description: the model; of one that does not say what it was trained on, nothing is unlike.
    """
    own_scale = description.input.intensity["scheme"] in _OWN_SCALE
    if not description.intensities and not own_scale:
        return ()
    values = image.numpy()
    try:
        rows = quantiles(values, None, "image")
    except ImageError:
        return ()  # infinite values, which are refused, or which the model's range cuts off
    found = (_unlike(rows, description), _lone_value(values, rows) if own_scale else None)
    return tuple(said for said in found if said)


def _unlike(quantiled: Sequence[Sequence[float]], description: Description) -> str | None:
    """Return how an image's intensities are unlike those that a model was trained on; ``None`` where they are not."""
    seen = description.intensities
    if not seen:
        return None
    low, high = np.array(seen["low"]), np.array(seen["high"])
    raw = _coloured(np.array(quantiled)[:, _places()], description.input.colour)
    row = _as_fed(raw, description.input)
    if row.shape != low.shape:
        return None  # another number of channels, which is refused
    spread = float(high.max() - low.min())
    allowed = _SPREAD * spread + _WIDTH * (high - low)
    if bool((np.maximum(low - row, row - high) <= allowed).all()):
        return None
    own = f"its values go from {raw.min():.4g} to {raw.max():.4g} (median {np.median(raw[:, 2]):.4g})"
    least, most = seen["values"]
    alike = abs(raw.min() - least) + abs(raw.max() - most) < (most - least) / 2  # two such ranges would say nothing
    if alike or description.input.intensity["scheme"] in _OWN_SCALE:
        return f"{own} and are spread otherwise than those of the {seen['images']} images that the model was trained on"
    return f"{own}, those of the {seen['images']} images that the model was trained on from {least:.4g} to {most:.4g}"


def _lone_value(values: npt.NDArray[Any], quantiled: Sequence[Sequence[float]]) -> str | None:
    """Return which few voxels make most of the scale of an image that is scaled by its own values, or ``None``."""
    found = lone(values, quantiled)
    if not found or not np.isfinite(found[0]):
        return None
    return (
        f"{lone_said(found)}, so that the rest is grey to the model: replace them, such as by the median of their "
        "neighbours"
    )


def _places() -> list[int]:
    return [QUANTILES.index(share) for share in _LOOKED_AT]


def _coloured(rows: Rows, colour: str | None) -> Rows:
    """Return quantiles a channel as the model takes colours: a grey picture is three channels, or three are one."""
    if colour is None:
        return rows
    if len(rows) in (2, 4):
        rows = rows[:-1]
    if colour == "rgb":
        return np.repeat(rows, 3, axis=0) if len(rows) == 1 else rows
    mean: Rows = rows.mean(axis=0, keepdims=True)
    return mean


def _as_fed(rows: Rows, fed: Input) -> Rows:
    """Return of quantiles ``(C, 5)`` what the network sees, ``(C, features)``."""
    scheme = fed.intensity
    if scheme["scheme"] in _OWN_SCALE:
        width = (rows[:, -1] - rows[:, 0])[:, None]
        safe = np.where(width > 0, width, 1)
        shape = np.where(width > 0, (rows[:, 1:-1] - rows[:, :1]) / safe, 0.5)
        if fed.polarity is not None:
            turned = (shape[:, 1:2] > 0.5) == (fed.polarity == "bright")
            shape = np.where(turned, 1 - shape[:, ::-1], shape)
        zero = np.clip(-rows[:, :1] / safe, 0, 1)  # how much of the range lies below 0, which a scale does not change
        return np.concatenate([shape, zero], axis=1)
    if scheme["scheme"] == "range":
        rows = (rows - scheme["low"]) / (scheme["high"] - scheme["low"])
        return np.clip(rows, 0, 1) if scheme["clip"] else rows
    return rows


def limits(description: Description) -> tuple[float, float] | None:
    """Return the least and greatest value of files that the model's scale is for; ``None`` where any are scaled right.

    Args:
        description: the model; only a range that is not clipped tells, which ImageNet's 0 to 255 is, too.
    """
    intensity = description.input.intensity
    if intensity["scheme"] == "imagenet":
        return 0.0, 255.0
    if intensity["scheme"] != "range" or intensity["clip"]:
        return None
    return float(intensity["low"]), float(intensity["high"])


def beyond(least: float, most: float, description: Description) -> str | None:
    """Return why an image has other values than the model takes, or ``None``: 16 bits where 8 are scaled, say.

    Args:
        least: value of the image, as its file holds it.
        most: value.
        description: the model.
    """
    taken = limits(description)
    if taken is None:
        return None
    low, high = taken
    slack = _RANGE_SLACK * (high - low)
    if least >= low - slack and most <= high + slack:
        return None
    own = f"its values go from {least:g} to {most:g}, but the model"
    if description.input.intensity["scheme"] == "imagenet":
        return (
            f"{own} takes pictures of 0 to 255 (scheme imagenet); convert it, or train with "
            "model#input#intensity#scheme=image"
        )
    return (
        f"{own} scales {low:g} to {high:g}; convert it, or train with model#input#intensity#low and #high of these "
        "images, or with scheme image"
    )


def beyond_range(image: Tensor, description: Description) -> str | None:
    """Return what `beyond` says of an image as fed, so scaled already."""
    taken = limits(description)
    if taken is None:
        return None
    least, most = float(image.min()), float(image.max())
    if description.input.intensity["scheme"] == "range":
        low, high = taken
        least, most = (low + edge * (high - low) for edge in (least, most))
    return beyond(least, most, description)
