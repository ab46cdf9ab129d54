"""Training curves as a picture: loss and its terms, learning rates, and validation scores."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.errors import MedsegError
from medseg.reports.figures import MARKERS, default_style, new_figure, to_image, whole_numbers
from medseg.reports.palette import Colour, class_colours, line_colours, on_white

if TYPE_CHECKING:
    from PIL.Image import Image

MEAN = "val_mean_iou"
CLASS = "val_iou_"
RATES = ("learning_rate", "lr")  # or beginning so: one of each parameter group
_VALIDATION = "val_"
_LISTED = 20  # classes that a legend can hold
_MARKED = 30  # points of a line that have a marker
_INK = "#1a1a1a"


def curves_picture(
    rows: Sequence[Mapping[str, float]], *, title: str = "", colours: Mapping[str, Colour] | None = None
) -> Image:
    """Draw the curves of a training over its epochs.

    Args:
        rows: one an epoch, with ``epoch`` and any of: names that hold ``loss``, ``learning_rate`` and
            ``learning_rate_<group>``, ``val_mean_iou``, ``val_iou_<class>`` and other overall scores ``val_<name>``;
            NaN leaves a gap. Scores outside of [0, 1] get axes of their own.
        title: heading.
        colours: of the classes, by their names in the rows; without, those of the package in the rows' order. One that
            is faint on white is darkened.

    Returns:
        The picture.

    Raises:
        ValueError: if no row holds any of these.
    """
    keys = list(dict.fromkeys(key for row in rows for key in row))
    losses = [key for key in keys if "loss" in key]
    rates = [key for key in keys if key in RATES or key.startswith(f"{RATES[0]}_")]
    overall, others = _overall(keys, rows)
    scores = [key for key in keys if key == MEAN or key.startswith(CLASS) or key in overall]
    panels = ((losses, "loss"), (rates, "learning rate"), (others, "validation, other"))
    left = [(names, label) for names, label in panels if names]
    if not left and not scores:
        raise MedsegError(
            f"{len(rows)} epochs without loss, learning rate or validation IoU (found: {', '.join(keys) or 'nothing'})"
        )
    with default_style():
        return to_image(_figure(rows, left, scores, title, colours))


def _overall(keys: Sequence[str], rows: Sequence[Mapping[str, float]]) -> tuple[list[str], list[str]]:
    """Return the scores that are of no single class: those within [0, 1], and the others."""
    classes = tuple(f"_{key.removeprefix(CLASS)}" for key in keys if key.startswith(CLASS))
    found = [key for key in keys if key.startswith(_VALIDATION) and "loss" not in key and key != MEAN]
    found = [key for key in found if not key.endswith(classes)] if classes else found

    def is_share(key: str) -> bool:
        values = [row[key] for row in rows if math.isfinite(row.get(key, math.nan))]
        return all(0 <= value <= 1 for value in values)

    return [key for key in found if is_share(key)], [key for key in found if not is_share(key)]


def save_curves(
    rows: Sequence[Mapping[str, float]],
    path: str | Path,
    *,
    title: str = "",
    colours: Mapping[str, Colour] | None = None,
) -> None:
    """Save `curves_picture` to ``path``, whose suffix chooses the format."""
    curves_picture(rows, title=title, colours=colours).save(path)


def _figure(
    rows: Sequence[Mapping[str, float]],
    left: Sequence[tuple[list[str], str]],
    scores: Sequence[str],
    title: str,
    colours: Mapping[str, Colour] | None,
) -> Any:
    columns = 2 if left and scores else 1
    figure = new_figure(6.25 * columns + 1.25 * (columns == 1), 5.2)
    grid = figure.add_gridspec(max(1, len(left)), columns, width_ratios=[1, 1.35][:columns])
    for index, (names, label) in enumerate(left):
        axes = figure.add_subplot(grid[index, 0])
        for name, colour in zip(names, line_colours(len(names)), strict=True):
            _plot(axes, rows, name, [part / 255 for part in colour] if len(names) > 1 else _INK)
        _finish(axes, label, legend=len(names) > 1, last=index == len(left) - 1)
    if scores:
        _draw_scores(figure.add_subplot(grid[:, -1]), rows, scores, colours or {})
    if title:
        figure.suptitle(title, fontweight="bold", fontsize=13)
    return figure


def _draw_scores(
    axes: Any, rows: Sequence[Mapping[str, float]], scores: Sequence[str], colours: Mapping[str, Colour]
) -> None:
    classes = [key for key in scores if key.startswith(CLASS)]
    for number, (name, usual) in enumerate(zip(classes, class_colours(len(classes)), strict=True)):
        colour = [part / 255 for part in on_white(colours.get(name.removeprefix(CLASS), usual))]
        label = name.removeprefix(CLASS).replace("_", " ")
        _plot(axes, rows, name, colour, label=label, marker=MARKERS[number % len(MARKERS)])
    overall = [key for key in scores if key != MEAN and key not in classes]
    for name, style in zip(overall, itertools.cycle(("--", ":", "-.")), strict=False):
        _plot(axes, rows, name, _INK, label=name.removeprefix(_VALIDATION).replace("_", " "), style=style)
    if MEAN in scores:
        best = max(
            (row for row in rows if math.isfinite(row.get(MEAN, math.nan))), key=lambda row: row[MEAN], default=None
        )
        label = "mean" if best is None else f"mean (best {best[MEAN]:.3f}, epoch {best['epoch']:.0f})"
        _plot(axes, rows, MEAN, _INK, label=label, linewidth=2.6)
        if best is not None:
            axes.plot([best["epoch"]], [best[MEAN]], "o", color=_INK, markersize=8, zorder=5)
    axes.set_ylim(0, 1)
    label = "validation IoU" if not overall else "validation scores (colours: IoU)"
    _finish(axes, label, legend=len(classes) <= _LISTED, last=True)


def _plot(
    axes: Any,
    rows: Sequence[Mapping[str, float]],
    key: str,
    colour: Any,
    *,
    label: str = "",
    linewidth: float = 1.6,
    style: str = "-",
    marker: str = "",
) -> None:
    points = [(row["epoch"], row[key]) for row in rows if math.isfinite(row.get(key, math.nan))]
    if not points:
        return
    look = {"color": colour, "linewidth": linewidth, "linestyle": style, "markersize": 4.5 if marker else 3.5}
    look["marker"] = marker or ("o" if len(points) <= _MARKED else "")
    look["markevery"] = max(1, len(points) // _MARKED)
    axes.plot(*zip(*points, strict=True), label=label or key, **look)


def _finish(axes: Any, label: str, *, legend: bool, last: bool) -> None:
    axes.set_ylabel(label)
    whole_numbers(axes)
    axes.ticklabel_format(axis="y", scilimits=(-3, 4))
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if last:
        axes.set_xlabel("epoch")
    if legend and axes.lines:
        axes.legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
