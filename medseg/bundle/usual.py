"""What cases a model was trained on, and whether another is quite unlike them: a whole head for crops, grey for colour.

Beside the intensities (`medseg.bundle.intensities`) the ranges of sizes, voxel sizes and volumes of each class are kept
with the weights. What lies far beyond them (twice the size or voxel size, or half; three times the largest volume) is
told: not that a mask is wrong, but that nobody tried such a case.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from medseg.affines import voxel_edges, voxel_volume
from medseg.bundle import intensities
from medseg.bundle.description import Description
from medseg.data.datalist import Datalist, Entry
from medseg.data.file_facts import FileFacts, facts_of
from medseg.io.channels import paths_of
from medseg.reports.palette import background_index

__all__ = ["facts_of_training", "shown_ranges", "trained_on", "unlike_image", "unlike_mask", "widest"]

Affine = npt.NDArray[np.float64]

_TIMES = 2  # as large, or as small
_MORE = 3  # times as much of a class


def facts_of_training(data: Datalist, entries: Sequence[Entry]) -> intensities.Facts:
    """Return what the check of a datalist has measured of a training's files, in one pass over what it has kept.

    Args:
        data: the datalist.
        entries: of the training.
    """
    files = [(path, number > 0) for case in _cases(entries) for number, path in enumerate(case)]
    files += [(path, False) for paths in intensities.looked_at(entries) for path in paths]
    return facts_of(data.path, files, mapping=data.values)


def _cases(entries: Sequence[Entry]) -> list[tuple[Path, ...]]:
    """Return of each labelled case its first image and its labels."""
    return [(paths_of(entry["image"])[0], *paths_of(entry["label"])) for entry in entries if "label" in entry]


def trained_on(facts: intensities.Facts, entries: Sequence[Entry], description: Description) -> dict[str, Any]:
    """Return the ranges of a training's cases: plain values, which name none of them.

    Args:
        facts: see `facts_of_training`.
        entries: of the training.
        description: the model: its classes, and whether it takes colours.

    Returns:
        ``cases``, how many; ``unit`` of ``extent``, the least and greatest edges: of volumes ``mm`` along R, A and S,
        of pictures ``px`` of height and width; ``spacing`` of volumes; ``found``, by class the least and greatest
        volume in the labels, in ml, of pictures as share of the picture; ``colour``, whether all show colours, and
        ``grey``, where none does. Empty where there are too few cases to say.
    """
    pairs = [(facts.get((image, False)), facts.get((label, True))) for image, label, *_ in _cases(entries)]
    known = [(a, b) for a, b in pairs if a is not None and b is not None and a.error is None and b.error is None]
    sizes = [_size(image.shape, _affine(image)) for image, _ in known]
    units = {unit for unit, *_ in sizes}
    if len(known) < intensities.FEWEST or len(units) != 1:
        return {}
    (unit,) = units
    background = background_index(description.classes)
    colours = [_coloured(image) for image, _ in known] if description.input.colour else []
    amounts = {
        str(index): [_amount(_count(label, index), image.shape, _affine(image))[0] for image, label in known]
        for index in range(len(description.classes))
        if index != background
    }
    return {
        "cases": len(known),
        "unit": unit,
        "extent": _range([extent for _, extent, _ in sizes]),
        **({"spacing": _range([spacing for _, _, spacing in sizes])} if unit == "mm" else {}),
        "found": {index: [min(each), max(each)] for index, each in amounts.items()},
        **({"colour": all(colours)} if colours else {}),
        **({"grey": True} if colours and not any(colours) else {}),
    }


def widest(seen: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what cases the members of an ensemble were trained on, each range as wide as any of theirs.

    Folds see most cases of one data set: what one member knows is not unlike the ensemble, and the first alone would
    have the others' cases told. How many cases that makes together is not known, so that the most of one member are
    counted.

    Args:
        seen: of each member, as `trained_on` gives it.

    Returns:
        The same; empty where a member does not say it, which may know any case, or where pictures stand beside volumes.
    """
    if not all(seen) or len({each["unit"] for each in seen}) != 1:
        return {}
    ranges = [name for name in ("extent", "spacing") if all(name in each for each in seen)]
    indices = [index for index in seen[0]["found"] if all(index in each["found"] for each in seen)]
    together: dict[str, Any] = {"cases": max(each["cases"] for each in seen), "unit": seen[0]["unit"]}
    for name in ranges:
        lows, highs = zip(*(each[name] for each in seen), strict=True)
        together[name] = [_range(lows)[0], _range(highs)[1]]
    together["found"] = {
        index: [min(each["found"][index][0] for each in seen), max(each["found"][index][1] for each in seen)]
        for index in indices
    }
    if any("colour" in each for each in seen):
        together["colour"] = all(each.get("colour", False) for each in seen)
    return {**together, **({"grey": True} if all(each.get("grey", False) for each in seen) else {})}


def shown_ranges(description: Description) -> list[tuple[str, str]]:
    """Return what a model was trained on, as a reader is told it: name and value; nothing where it is not known."""
    seen, rows = description.usual, []
    if seen:
        names = ("R, A and S", "mm") if seen["unit"] == "mm" else ("height and width", "px")
        rows.append(("Cases that were measured", str(seen["cases"])))
        rows.append((f"Sizes along {names[0]}, {names[1]}", _from_to(seen["extent"])))
        if "spacing" in seen:
            rows.append(("Voxels, mm", _from_to(seen["spacing"])))
        for index, (least, most) in seen["found"].items():
            low, high = (f"{each:.4g} ml" if names[1] == "mm" else f"{100 * each:.3g} %" for each in (least, most))
            rows.append((f"{description.classes[int(index)]} in a label", f"{low} to {high}"))
        if "colour" in seen:
            colours = "all" if seen["colour"] else "none" if seen.get("grey") else "some"
            rows.append(("Pictures that show colours", colours))
    if description.intensities:
        least, most = description.intensities["values"]
        images = description.intensities["images"]
        rows.append(("Values of files", f"{least:.4g} to {most:.4g} (0.5 to 99.5 % of each of {images} images)"))
    return rows


def unlike_image(image: Tensor, affine: Affine | None, description: Description) -> list[str]:
    """Return how an image is unlike those that a model was trained on, a phrase each.

    Args:
        image: as its file holds it, ``(C, *S)``.
        affine: voxel to patient in mm; ``None`` of pictures.
        description: the model; of one that does not say what it was trained on, nothing is unlike.
    """
    seen = description.usual
    if not seen:
        return []
    those, said = f"those of the {seen['cases']} images that the model was trained on", []
    if seen.get("colour") and (image.shape[0] < 3 or bool((image[1:3] == image[:1]).all())):
        said.append(f"it shows no colours, {those} do")
    if seen.get("grey") and image.shape[0] >= 3 and not bool((image[1:3] == image[:1]).all()):
        said.append(f"it shows colours, {those} show none")
    unit, extent, spacing = _size(tuple(image.shape[1:]), affine)
    if unit != seen["unit"]:
        volume = "volumes in mm", "pictures or pages without a voxel size"
        own, others = volume if unit == "mm" else volume[::-1]
        said.append(f"it is one of {own}, {those} are {others}")
    resized = unit == "px" and description.input.size is not None  # whatever size it has
    if unit == seen["unit"] and not resized and _far(extent, seen["extent"]):
        said.append(f"its size is {_by(extent)} {unit}, {those} from {_from_to(seen['extent'])}")
    if unit == seen["unit"] == "mm" and _far(spacing, seen["spacing"]):
        said.append(f"its voxels are {_by(spacing)} mm, {those} from {_from_to(seen['spacing'])}")
    return said


def unlike_mask(
    counts: Mapping[int, int], shape: Sequence[int], affine: Affine | None, description: Description
) -> list[str]:
    """Return of which classes a mask holds far more than any label of a model's training, a phrase each.

    Args:
        counts: voxels by class.
        shape: of the mask.
        affine: as of `unlike_image`.
        description: the model.
    """
    said: list[str] = []
    seen = description.usual
    if not seen or (seen["unit"] == "mm" and (affine is None or len(shape) != 3)):
        return said
    lies = affine if seen["unit"] == "mm" else None
    for index, (_, most) in seen["found"].items():
        amount, unit = _amount(counts.get(int(index), 0), shape, lies)
        if amount > _MORE * most:
            name = description.classes[int(index)]
            shown = [f"{each:.4g} ml" if unit == "ml" else f"{100 * each:.3g} %" for each in (amount, most)]
            labels = f"the labels of the {seen['cases']} images that the model was trained on"
            said.append(f"{shown[0]} of its mask are {name}, in {labels} at most {shown[1]}")
    return said


def _affine(image: FileFacts) -> Affine | None:
    return None if image.affine is None else np.array(image.affine, np.float64).reshape(4, 4)


def _size(shape: Sequence[int], affine: Affine | None) -> tuple[str, list[float], list[float]]:
    """Return unit, edges and voxel size: of volumes along R, A and S, of pictures and pages height and width."""
    if affine is None or len(shape) != 3:
        return "px", [float(edge) for edge in shape[-2:]], []
    import nibabel

    axes = nibabel.io_orientation(affine)[:, 0]
    order = np.argsort(axes)
    spacing = voxel_edges(affine)
    return "mm", [float(shape[n] * spacing[n]) for n in order], [float(spacing[n]) for n in order]


def _amount(count: int, shape: Sequence[int], affine: Affine | None) -> tuple[float, str]:
    if affine is None or len(shape) != 3:
        return count / max(1, math.prod(shape)), ""
    return count * voxel_volume(affine) / 1000, "ml"


def _count(label: FileFacts, index: int) -> int:
    held = dict(zip(label.values or (), label.counts or (), strict=True))
    return held.get(index, 0)


def _coloured(image: FileFacts) -> bool:
    return image.channels >= 3 and len(set(image.quantiles[:3])) > 1


def _range(rows: Sequence[Sequence[float]]) -> list[list[float]]:
    return [[limit(column) for column in zip(*rows, strict=True)] for limit in (min, max)]


def _far(values: Sequence[float], limits: Sequence[Sequence[float]]) -> bool:
    low, high = limits
    return any(not least / _TIMES <= each <= most * _TIMES for each, least, most in zip(values, low, high, strict=True))


def _by(values: Sequence[float]) -> str:
    return " x ".join(f"{value:.3g}" if value < 1000 else f"{value:.0f}" for value in values)


def _from_to(limits: Sequence[Sequence[float]]) -> str:
    return f"{_by(limits[0])} to {_by(limits[1])}"
