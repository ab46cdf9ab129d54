"""The fingerprint of a data set as a page for a person: a table and a picture; no case is named."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.atomic import atomic_write
from medseg.data.case_facts import QUANTILES
from medseg.data.fingerprint import Fingerprint
from medseg.errors import shown
from medseg.reports.figures import default_style, new_figure, to_image, whole_numbers
from medseg.reports.palette import class_colours
from medseg.reports.tables import Table

__all__ = ["PAGE", "draw", "table", "write"]

PAGE = "fingerprint.md"
_PICTURE = "fingerprint.png"
_AXES = {2: ("rows", "columns"), 3: ("right-left", "back-front", "foot-head")}
_GREY = "0.45"
_LEAST = 0.001  # of what a table's three digits show
_NOTHING = 1e-9
_LETTERS = 36  # of class names that have room beside each other
_WIDE = 10.0  # ratio from which amounts are drawn on a logarithmic scale


def write(found: Fingerprint, folder: Path) -> Path:
    """Write the page and its picture.

    Args:
        found: the data set's fingerprint.
        folder: which is there.

    Returns:
        The page.
    """
    with atomic_write(folder / _PICTURE) as temporary:
        to_image(draw(found)).save(temporary, format="PNG")
    title = f"# What was measured of {shown(found.name)}"
    text = f"{title}\n\n{table(found).to_markdown()}\n![The same, drawn]({_PICTURE})\n"
    with atomic_write(folder / PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / PAGE


def table(found: Fingerprint) -> Table:
    """Return what was measured: least, middle and largest over the images, and the classes."""
    axes = _AXES[found.dimensions]
    rows: list[Sequence[Any]] = [
        [f"{name}, {_elements(found)}", *_spread(found.shapes[:, axis])] for axis, name in enumerate(axes)
    ]
    if found.spacings is not None:
        rows += [[f"{name}, mm", *_spread(found.spacings[:, axis])] for axis, name in enumerate(axes)]
    for channel in range(found.channels):
        for name, foreground in (("values", False), ("values of the foreground", True)):
            share = found.spread(channel, foreground=foreground)
            if share:
                cells = _short([share[at] for at in (0.005, 0.5, 0.995)])
                rows.append([f"{name}, channel {channel} (0.5, 50, 99.5 %)", *cells])
    amounts, unit = _amounts(found)
    for index, name in enumerate(found.classes):
        rows.append([f"{unit} of {name}", *_spread(amounts[:, index])])
        if index != found.background:
            rows.append([f"connected parts of {name}", *_spread([case.parts[index] for case in found.cases])])
    notes = [f"{len(found.cases)} labelled images"]
    if any(found.orientations):
        notes.append(f"stored as {', '.join(found.orientations)}")
    counted = zip(found.classes, found.class_cases(), strict=True)
    few = [f"{name} in {number}" for name, number in counted if number < len(found.cases)]
    if few:
        notes.append(f"classes that are not in all of them: {', '.join(few)}")
    return Table(["measured", "least", "middle", "most"], rows, notes=["; ".join(notes)])


def draw(found: Fingerprint) -> Any:
    """Draw edges, voxel sizes, amounts of the classes and values, an image a point or a line."""
    known = found.spacings is not None
    with default_style():
        figure = new_figure(9, 6)
        edges, voxels, amounts, values = figure.subplots(2, 2).ravel()
        _points(edges, found.shapes, _AXES[found.dimensions], f"edges, {_elements(found)}")
        if known:
            _points(voxels, found.spacings, _AXES[found.dimensions], f"{_elements(found)[:-1]} size, mm")
        else:
            voxels.text(0.5, 0.5, f"the files state no {_elements(found)[:-1]} size", ha="center", color=_GREY)
            voxels.set_axis_off()
        _classes(amounts, found)
        _values(values, found)
    return figure


def _short(numbers: Sequence[float]) -> list[int | float | str]:
    """Return numbers to four digits; one that is nothing beside the largest is what its interpolation left of 0."""
    largest = max(map(abs, numbers))
    return [_digits(0.0 if abs(number) < _NOTHING * largest else float(number)) for number in numbers]


def _digits(number: float) -> int | float | str:
    shown_as = float(f"{number:.4g}")
    if 0 < abs(shown_as) < _LEAST:
        return f"{number:.4g}"
    return int(shown_as) if shown_as.is_integer() else shown_as


def _spread(values: Any) -> list[int | float | str]:
    return _short([float(number) for number in (np.min(values), np.median(values), np.max(values))])


def _amounts(found: Fingerprint) -> tuple[np.ndarray[Any, np.dtype[np.float64]], str]:
    """Return how much of each class an image holds, a row an image, in ml where that is known, and the unit."""
    voxels = np.array([case.voxels for case in found.cases], np.float64)
    if found.spacings is None or found.dimensions == 2:
        return voxels, _elements(found)
    return voxels * found.spacings.prod(axis=1, keepdims=True) / 1000, "ml"


def _elements(found: Fingerprint) -> str:
    """Return what an image consists of."""
    return "pixels" if found.dimensions == 2 else "voxels"


def _points(place: Any, rows: Any, names: Sequence[str], title: str) -> None:
    """Draw a column of points for each of a few measures, one an image, moved aside so that equal ones show."""
    aside = np.random.default_rng(0).uniform(-0.25, 0.25, len(rows))
    for number in range(len(names)):
        place.plot(number + aside, rows[:, number], ".", color=_GREY, markersize=4)
        place.plot([number - 0.3, number + 0.3], [np.median(rows[:, number])] * 2, color="black")
    place.set_xticks(range(len(names)), names)
    place.set_ylim(bottom=0)
    place.set_title(title)


def _classes(place: Any, found: Fingerprint) -> None:
    amounts, unit = _amounts(found)
    indices = [index for index in range(len(found.classes)) if index != found.background]
    colours = class_colours(len(found.classes))
    for number, index in enumerate(indices):
        held = amounts[amounts[:, index] > 0, index]
        if held.size:
            box = place.boxplot(held, positions=[number], widths=0.6, patch_artist=True, medianprops={"color": "black"})
            box["boxes"][0].set_facecolor([value / 255 for value in colours[index]])
    held = amounts[:, indices]
    if held.size and held.max() > _WIDE * held[held > 0].min(initial=np.inf):
        place.set_yscale("log")
    few = len(indices) <= 8
    names = [shown(found.classes[index])[:24] if few else str(index) for index in indices]
    level = few and sum(len(name) + 2 for name in names) <= _LETTERS
    turned: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if few else {"rotation": 90}
    place.set_xticks(range(len(indices)), names, **({} if level else turned))
    place.set_title(f"{unit} of a class, in images that hold it")


def _values(place: Any, found: Fingerprint) -> None:
    """Draw each image's values as a line from its 0.5th to its 99.5th percentile, its foreground's median on it."""
    low, middle, high = (QUANTILES.index(at) for at in (0.005, 0.5, 0.995))
    cases = sorted(found.cases, key=lambda case: case.quantiles[0][high])
    number = range(len(cases))
    place.vlines(
        number, [c.quantiles[0][low] for c in cases], [c.quantiles[0][high] for c in cases], color=_GREY, linewidth=1
    )
    inside = [(n, case.foreground[0][middle]) for n, case in enumerate(cases) if case.foreground]
    if inside:
        place.plot(*zip(*inside, strict=True), ".", color="#d55e00", markersize=3)
    tops = np.abs([[case.quantiles[0][at] for at in (low, high)] for case in cases]).max(axis=1)
    if tops.max() > _WIDE * np.median(tops):
        place.set_yscale("symlog", linthresh=100)
    points = "\npoints: median of the foreground" if inside else ""
    place.set_xlabel(f"images, by their brightest values{points}")
    whole_numbers(place)
    place.set_title("values, 0.5 to 99.5 %" + (" (channel 0)" if found.channels > 1 else ""))
