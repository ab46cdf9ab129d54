"""Rules on where things lie: label and instances against their image, one orientation in a set, doubtful headers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.data.check_findings import (
    Case,
    Finding,
    error,
    mixture,
    names,
    shape_text,
    spacing_text,
    warning,
)
from medseg.data.file_facts import FileFacts
from medseg.errors import counted
from medseg.io.placement import ROUNDING, compare, describe, orientation, right_handed

__all__ = ["orientations", "pair", "stored_turned", "told_by_reader"]

_SPACING_TOLERANCE = 1e-2
_TRANSPOSING = (5, 6, 7, 8)


def pair(case: Case) -> Iterator[Finding]:
    """Compare place and size of an entry's label and instances with its image.

    Args:
        case: an entry with its facts.
    """
    image = case.readable_image
    for role, path, facts in case.readable_targets:
        if facts.lossy:
            message = (
                f"{path}: {role} in a lossy format (JPEG), which changes values at every edge and cannot hold class "
                "indices; export it again as PNG from where it was drawn"
            )
            yield error(f"lossy-{role}", message, path)
        if image is not None:
            yield from _same_place(case.image, image, role, path, facts)


def _same_place(image_path: Path, image: FileFacts, role: str, path: Path, facts: FileFacts) -> Iterator[Finding]:
    first, second = affine_of(image), affine_of(facts)
    if (first is None) != (second is None):
        message = (
            f"{path}: {role} is {shape_text(facts.shape)} {_axes(facts)}, but its image {image_path.name} is "
            f"{shape_text(image.shape)} {_axes(image)}: their axes run in another order; store both in one format, "
            "with the geometry of the image"
        )
        yield error("axis-order", message, image_path, path)
    elif image.shape != facts.shape:
        yield error("shape-mismatch", _sizes(image_path, image, role, path, facts), image_path, path)
    elif first is not None and second is not None:
        apart = compare(first, second, image.shape)
        if not apart.same:
            origin = ", ".join(f"{edge:.4g}" for edge in np.asarray(apart.origin) + 0.0)
            message = (
                f"{path}: {role} lies elsewhere than its image {image_path.name}: {role} {describe(second)}; image "
                f"{describe(first)}; origins differ by ({origin}) mm, corners by up to {apart.mm:.4g} mm "
                f"({apart.voxels:.3g} voxels, allowed {ROUNDING}); bring the {role} to the image's grid, or, where the "
                "voxels belong together and a header is wrong, correct it"
            )
            yield error("geometry-mismatch", message, image_path, path)
    elif image.spacing and facts.spacing and not _alike(image.spacing, facts.spacing):
        message = (
            f"{path}: spacing {spacing_text(facts.spacing)}, but its image {image_path.name} has "
            f"{spacing_text(image.spacing)}; resample one of them or correct the header"
        )
        yield error("spacing-mismatch", message, image_path, path)


def _axes(facts: FileFacts) -> str:
    if facts.affine is not None:
        return "of a volume (X,Y,Z)"
    return "of a picture (H,W)" if len(facts.shape) == 2 else "of a stack of pictures (Z,H,W)"


def _alike(first: Sequence[float], second: Sequence[float]) -> bool:
    return len(first) == len(second) and np.allclose(first, second, rtol=_SPACING_TOLERANCE)


def _sizes(image_path: Path, image: FileFacts, role: str, path: Path, facts: FileFacts) -> str:
    message = f"{path}: {role} is {shape_text(facts.shape)}, but its image {image_path.name} is "
    message += shape_text(image.shape)
    first, second = affine_of(image), affine_of(facts)
    if first is not None and second is not None and orientation(first) != orientation(second):
        message += f" (axes {orientation(second)} against {orientation(first)})"
    stored = (*image.shape[:-2], *image.shape[:-3:-1])
    if image.orientation in _TRANSPOSING and facts.orientation == 1 and facts.shape == stored:
        return (
            f"{message}: the image is stored rotated (EXIF orientation {image.orientation}), and the {role} was drawn "
            f"on the stored pixels; turn the {role} upright, or remove the tag from the image"
        )
    return f"{message}; {role} and image must have the same size"


def stored_turned(cases: Sequence[Case]) -> Iterator[Finding]:
    """Tell of images stored turned whose label fits both ways: nothing in the files says which way is right.

    Args:
        cases: all entries.
    """
    doubtful: dict[Path, int] = {}
    for case in cases:
        image, label = case.readable_image, case.readable_label
        if image is None or label is None or image.orientation in (1, label.orientation):
            continue
        fits_stored = image.orientation not in _TRANSPOSING or image.shape[-1] == image.shape[-2]
        if fits_stored and image.shape == label.shape:
            doubtful[case.image] = image.orientation
    if doubtful:
        tags = ", ".join(map(str, sorted(set(doubtful.values()))))
        message = (
            f"{counted(len(doubtful), 'image')} ({names(list(doubtful))}) stored turned or mirrored (EXIF orientation "
            f"{tags}), but their labels carry no such tag and fit both ways: images are read upright; look whether the "
            "labels are upright too, and if not, remove the tag from the images"
        )
        yield warning("exif-orientation", message, *doubtful)


def orientations(cases: Sequence[Case]) -> Iterator[Finding]:
    """Compare axis order, orientation and handedness of the images with each other.

    Args:
        cases: all entries.
    """
    images = {case.image: facts for case in cases if (facts := case.readable_image) is not None}
    if len({len(facts.shape) for facts in images.values()}) == 1:  # otherwise mixed-dimensions says more
        kinds = {path: _axes(facts) for path, facts in images.items()}
        remedy = "pictures come rows first, volumes x first: store all in one format"
        yield from mixture("error", "mixed-axis-order", kinds, "their axes", remedy)
    affines = {path: affine for path, facts in images.items() if (affine := affine_of(facts)) is not None}
    axes = {path: orientation(affine) for path, affine in affines.items()}
    mirrored = len({right_handed(affine) for affine in affines.values()}) > 1
    remedy = "some are mirror images of the others as arrays: " if mirrored else ""
    remedy += "a model brings volumes to its own (model#input#orientation, RAS unless its bundle says otherwise)"
    yield from mixture("warning", "mixed-orientation", axes, "orientation", remedy)


def told_by_reader(cases: Sequence[Case]) -> Iterator[Finding]:
    """Hand on what the reader found doubtful, once for each kind of doubt.

    Args:
        cases: all entries.
    """
    told: dict[str, dict[Path, None]] = defaultdict(dict)
    for case in cases:
        files = [("image", case.image, case.readable_image), *case.readable_targets]
        for _, path, facts in files:
            for note in facts.notes if facts is not None else ():
                told[note][path] = None
    for note, paths in told.items():
        where = f"{next(iter(paths))}: " if len(paths) == 1 else f"{counted(len(paths), 'file')} ({names([*paths])}): "
        yield warning("doubtful-header", f"{where}{note}", *paths)


def affine_of(facts: FileFacts) -> NDArray[np.float64] | None:
    """Return the ``(4, 4)`` affine of measured facts, ``None`` for pictures."""
    return None if facts.affine is None else np.array(facts.affine, np.float64).reshape(4, 4)
