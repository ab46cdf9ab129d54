"""A confusion matrix as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.errors import MedsegError
from medseg.reports.figures import default_style, new_figure, to_image

if TYPE_CHECKING:
    from PIL.Image import Image

_WRITTEN = 16  # classes up to which cells hold numbers
_NAMED = 60  # classes up to which axes hold names


def confusion_picture(matrix: ArrayLike, class_names: Sequence[str], *, title: str = "") -> Image:
    """Draw a confusion matrix: colour and percentage by row (truth), and the count of pixels below.

    Args:
        matrix: counts ``(classes, classes)``, rows are truth, columns prediction.
        class_names: by index.
        title: heading.

    Returns:
        The picture.

    Raises:
        ValueError: if the matrix is not square, holds negative counts, or has another size than the names.
    """
    counts = np.asarray(matrix)
    number = len(class_names)
    if counts.shape != (number, number):
        raise MedsegError(f"the confusion matrix is {counts.shape}, expected {(number, number)} for {number} classes")
    if (counts < 0).any():
        raise MedsegError(f"the confusion matrix holds {counts.min()}, but counts are never negative")
    totals = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    with default_style():
        return to_image(_figure(counts, share, class_names, title))


def save_confusion(matrix: ArrayLike, class_names: Sequence[str], path: str | Path, *, title: str = "") -> None:
    """Save `confusion_picture` to ``path``, whose suffix chooses the format."""
    confusion_picture(matrix, class_names, title=title).save(path)


def short_count(count: float) -> str:
    """Write a count in at most five characters: ``1234`` is ``1.2k``."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size * 0.9995:
            value = count / size
            return f"{value:.1f}{letter}" if value < 99.95 else f"{value:.0f}{letter}"
    return f"{count:.0f}"


def _figure(counts: NDArray[Any], share: NDArray[np.float64], class_names: Sequence[str], title: str) -> Any:
    number = len(class_names)
    written = number <= _WRITTEN
    edge = min(16.0, max(3.2, number * (0.85 if written else 0.22)))
    figure = new_figure(edge + 2.8, edge + 1.6)
    axes = figure.add_subplot()
    picture = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axes.set_facecolor("#ececec")  # what is undefined is transparent
    _label_axes(axes, class_names, counts.sum(axis=1))
    if written:
        _write_cells(axes, counts, share)
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, aspect=30)
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    if title:
        figure.suptitle(title, fontweight="bold", fontsize=13)
    return figure


def _label_axes(axes: Any, names: Sequence[str], totals: NDArray[Any]) -> None:
    number = len(names)
    axes.set_xlabel("prediction", fontsize=12)
    axes.set_ylabel("truth", fontsize=12)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    if number > _NAMED:
        return
    size = 11 if number <= _WRITTEN else 7
    short = [name if len(name) <= 24 else name[:23] + "…" for name in names]
    rows = [f"{name} (no pixel)" if total == 0 else name for name, total in zip(short, totals, strict=True)]
    axes.set_xticks(
        range(number),
        short,
        rotation=35 if number <= _WRITTEN else 60,
        ha="right",
        rotation_mode="anchor",
        fontsize=size,
    )
    axes.set_yticks(range(number), rows, fontsize=size)
    axes.set_xticks(np.arange(number + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(number + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)


def _write_cells(axes: Any, counts: NDArray[Any], share: NDArray[np.float64]) -> None:
    for (row, column), count in np.ndenumerate(counts):
        part = share[row, column]
        if np.isnan(part):
            continue
        colour = "white" if part > 0.55 else "#1a1a1a"
        percent = f"{100 * part:.1f} %" if count == 0 or part >= 0.0005 else "< 0.1 %"
        axes.text(column, row - 0.09, percent, ha="center", va="center", color=colour, fontsize=11)
        axes.text(column, row + 0.24, short_count(count), ha="center", va="center", color=colour, fontsize=8)
