"""Drawings of a study: the scores of rows as boxes, the differences between them case by case, training curves.

Rows differ by colour and by place or marker, so that they are told apart in grey, too. Every line and point is dark
enough on white. Points are moved aside by their
place in the list, never by chance: equal scores give equal pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.reports.figures import MARKERS, default_style, new_figure, to_image, whole_numbers
from medseg.reports.palette import line_colours

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Difference", "boxes", "differences", "learning"]

Values = NDArray[np.float64]
Difference = tuple[str, Values, tuple[float, float] | None, bool]
"""Name, second less first of each case, interval of the mean, and whether it holds."""

_INK = "#1a1a1a"
_POINTS = 200  # cases up to which each is a point
_GOLDEN = 0.618033988749895
_HEIGHT = 0.55  # inches a row
_LETTERS = 34  # of a name before it is broken


def boxes(panels: Mapping[str, Mapping[str, Values]]) -> Image:
    """Draw the scores of each row's cases: quartiles, whiskers to the last case within 1.5 times their range, mean.

    Args:
        panels: by heading, by row: of each case its score; NaN where there is none.
    """
    rows = list(next(iter(panels.values())))
    with default_style():
        figure, all_axes = _panels(len(panels), len(rows))
        for axes, (label, held) in zip(all_axes, panels.items(), strict=True):
            for place, (row, colour) in enumerate(zip(rows, _colours(len(rows)), strict=True)):
                values = held[row][~np.isnan(held[row])]
                if not len(values):
                    continue
                _box(axes, values, place, colour)
            _finish(axes, rows, label)
        return to_image(figure)


def differences(panels: Mapping[str, Sequence[Difference]]) -> Image:
    """Draw what one row has more than another, case by case, with the mean and its interval.

    Filled diamonds are differences that hold.

    Args:
        panels: by heading, of each pair of rows.
    """
    names = [name for name, *_ in next(iter(panels.values()))]
    with default_style():
        figure, all_axes = _panels(len(panels), len(names))
        for axes, (label, pairs) in zip(all_axes, panels.items(), strict=True):
            axes.axvline(0, color="0.4", linewidth=1)
            for place, (_, values, interval, holds) in enumerate(pairs):
                there = values[~np.isnan(values)]
                if not len(there):
                    continue
                _points(axes, there, place, _colours(1)[0])
                mean = float(there.mean())
                if interval is not None:
                    axes.plot(interval, [place, place], color=_INK, linewidth=2.2, solid_capstyle="butt", zorder=4)
                fill = _INK if holds else "white"
                axes.plot(
                    [mean], [place], "D", markersize=7, markerfacecolor=fill, markeredgecolor=_INK, zorder=5,
                )  # fmt: skip
            _finish(axes, names, label)
        return to_image(figure)


def learning(curves: Mapping[str, Mapping[str, Sequence[tuple[Values, Values]]]]) -> Image:
    """Draw what the trainings of each row went through: a thin line each, and their mean where all of them have one.

    Args:
        curves: by heading, by row, of each training its epochs and values, without NaN.
    """
    rows = list(next(iter(curves.values())))
    with default_style():
        figure = new_figure(4.7 * len(curves) + 1.4, 4.0)
        all_axes = figure.subplots(1, len(curves), squeeze=False)[0]
        for axes, (label, held) in zip(all_axes, curves.items(), strict=True):
            for number, (row, colour) in enumerate(zip(rows, _colours(len(rows)), strict=True)):
                runs = held[row]
                for epochs, values in runs:
                    axes.plot(epochs, values, color=colour, linewidth=0.7)
                epochs, mean = _together(runs)
                marker = MARKERS[number % len(MARKERS)]
                axes.plot(
                    epochs, mean, color=colour, linewidth=2.2, label=row, marker=marker, markersize=5,
                    markeredgecolor=_INK, markeredgewidth=0.6, markevery=max(1, len(epochs) // 8),
                )  # fmt: skip
            axes.set(xlabel="epoch", ylabel=label)
            whole_numbers(axes)
            _bare(axes)
        all_axes[-1].legend(frameon=False, fontsize=9, loc="upper left", bbox_to_anchor=(1.0, 1.0))
        return to_image(figure)


def _together(runs: Sequence[tuple[Values, Values]]) -> tuple[Values, Values]:
    """Return the epochs that all trainings have a value of, and the mean of these."""
    if not runs:
        return np.array([]), np.array([])
    held = [dict(zip(epochs.tolist(), values.tolist(), strict=True)) for epochs, values in runs]
    common = sorted(set.intersection(*(set(each) for each in held)))
    return np.array(common), np.array([math.fsum(each[epoch] for each in held) / len(held) for epoch in common])


def _panels(count: int, rows: int) -> tuple[Any, Sequence[Any]]:
    figure = new_figure(3.4 + 3.6 * count, 1.1 + _HEIGHT * rows)
    return figure, figure.subplots(1, count, sharey=True, squeeze=False)[0]


def _colours(count: int) -> list[tuple[float, float, float]]:
    return [(red / 255, green / 255, blue / 255) for red, green, blue in line_colours(count)]


def _box(axes: Any, values: Values, place: int, colour: tuple[float, float, float]) -> None:
    """Draw a lying box by matplotlib's statistics of it; cases beyond the whiskers are points in any case."""
    from matplotlib.cbook import boxplot_stats

    (found,) = boxplot_stats(values)
    _points(axes, values if len(values) <= _POINTS else found["fliers"], place, colour)
    box, thin = {"facecolor": (*colour, 0.25), "edgecolor": _INK, "zorder": 2}, {"color": _INK, "linewidth": 1.2}
    axes.broken_barh([(found["q1"], found["q3"] - found["q1"])], (place - 0.25, 0.5), **box)
    axes.plot([found["med"]] * 2, [place - 0.25, place + 0.25], color=_INK, linewidth=2, zorder=4)
    for end, whisker in ((found["q1"], found["whislo"]), (found["q3"], found["whishi"])):
        axes.plot([end, whisker], [place, place], **thin)
        axes.plot([whisker] * 2, [place - 0.12, place + 0.12], **thin)
    axes.plot([found["mean"]], [place], "D", markersize=6, markerfacecolor="white", markeredgecolor=_INK, zorder=5)


def _points(axes: Any, values: Values, place: int, colour: tuple[float, float, float]) -> None:
    aside = (np.arange(1, len(values) + 1) * _GOLDEN % 1.0 - 0.5) * 0.4
    axes.plot(values, place + aside, "o", color=colour, markersize=3, zorder=3, markeredgewidth=0)


def _finish(axes: Any, names: Sequence[str], label: str) -> None:
    from textwrap import fill

    axes.set_yticks(range(len(names)), [fill(name, _LETTERS) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(label)
    _bare(axes)


def _bare(axes: Any) -> None:
    axes.grid(color="#e4e4e4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
