"""Drawings of a report: volumes found beside true ones, and probabilities beside what came true.

Classes differ by colour and by marker, so that they are told apart in grey, too; a colour that is faint on white is
darkened.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from medseg.reports.figures import MARKERS, default_style, new_figure, to_image
from medseg.reports.palette import Colour, class_colours, on_white

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["agreement", "palette_of", "reliability"]

_LISTED = 12  # classes that a legend can hold
_FEW = 100  # pixels of a bin, below which its share says little


def agreement(volumes: Mapping[str, Sequence[tuple[float, float]]], unit: str, colours: Mapping[str, Colour]) -> Image:
    """Draw volumes: found against true, and their difference against the truth.

    Args:
        volumes: true and found volume of each case, by class.
        unit: of both.
        colours: by class.
    """
    with default_style():
        figure = new_figure(9.4, 4.2)
        both, apart = figure.subplots(1, 2)
        top = max((value for pairs in volumes.values() for pair in pairs for value in pair), default=1.0) * 1.05
        both.plot([0, top], [0, top], color="0.4", linewidth=1, label="equal")
        apart.axhline(0, color="0.4", linewidth=1)
        for number, (name, pairs) in enumerate(volumes.items()):
            true, found = zip(*pairs, strict=True) if pairs else ((), ())
            look = _look(colours[name], number)
            both.plot(true, found, label=name, **look)
            apart.plot(true, [b - a for a, b in pairs], **look)
        both.set(xlim=(0, top), ylim=(0, top), xlabel=f"true, {unit}", ylabel=f"found, {unit}", aspect="equal")
        apart.set(xlim=(0, top), xlabel=f"true, {unit}", ylabel=f"found less true, {unit}")
        _finish(both, apart, entries=len(volumes))
        return to_image(figure)


def reliability(details: Mapping[str, Any], shown: Sequence[str], colours: Mapping[str, Colour]) -> Image:
    """Draw the share that is right against the probability, by class; and how many pixels each bin holds.

    Args:
        details: of the score `calibration` in ``scores.json``.
        shown: names of the classes to draw.
        colours: by class.
    """
    with default_style():
        figure = new_figure(9.4, 4.2)
        right, many = figure.subplots(1, 2)
        right.plot([0, 1], [0, 1], color="0.4", linewidth=1, label="as sure as right")
        rows = [row for row in details["classes"] if row["name"] in shown]
        for number, row in enumerate(rows):
            held = [
                (p, r, n)
                for p, r, n in zip(row["probability"], row["right"], row["pixels"], strict=True)
                if n >= _FEW and not math.isnan(p)
            ]
            if not held:
                continue
            sure, share, pixels = zip(*held, strict=True)
            look = {**_look(colours[row["name"]], number), "linestyle": "-", "linewidth": 1.2}
            right.plot(sure, share, label=row["name"], **look)
            many.plot(sure, pixels, **look)
        right.set(xlim=(0, 1), ylim=(0, 1), xlabel="probability", ylabel="share that is right", aspect="equal")
        many.set(xlim=(0, 1), yscale="log", xlabel="probability", ylabel="pixels found so")
        _finish(right, many, entries=len(rows))
        return to_image(figure)


def _look(colour: Colour, number: int) -> dict[str, Any]:
    return {
        "color": [part / 255 for part in on_white(colour)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": "",
        "markersize": 6,
        "markeredgecolor": "#1a1a1a",
        "markeredgewidth": 0.6,
    }


def _finish(first: Any, second: Any, *, entries: int) -> None:
    for axes in (first, second):
        axes.grid(color="#e4e4e4", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    if entries <= _LISTED:
        figure = first.get_figure()
        figure.legend(
            *first.get_legend_handles_labels(), frameon=False, fontsize=9, loc="outside lower center", ncols=6
        )


def palette_of(names: Sequence[str], palette: Sequence[Colour | None]) -> dict[str, Colour]:
    """Return a colour by class name; of a class that overlays leave uncoloured, the package's.

    Args:
        names: of the classes.
        palette: by index.
    """
    usual = class_colours(len(names))
    return {name: palette[index] or usual[index] for index, name in enumerate(names)}
