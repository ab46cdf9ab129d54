"""A sheet of cases: image, truth, prediction and error side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.reports.names import hidden_name
from medseg.reports.palette import WRONG, Colour, Named, class_palette
from medseg.reports.views import View, make_views, show_classes, show_wrong

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

COLUMNS = ("image", "truth", "prediction", "error")
_BACKGROUND, _INK, _SOFT = (255, 255, 255), (26, 26, 26), (95, 95, 95)
_MARGIN, _GAP = 28, 14
_TITLE, _HEADING, _TEXT = 34, 27, 23  # font sizes in pixels
_SWATCH = 26
_ALL_CLASSES = 20  # up to here the legend names every class, beyond those that occur
_STRETCH = 2.0  # a row is at most this many times as high as wide


def overlay_sheet(
    cases: Sequence[Mapping[str, Any]],
    class_names: Sequence[str],
    *,
    colours: Named | None = None,
    ignore_index: int | None = None,
    title: str = "",
    cell: int = 384,
    score_name: str = "score",
    lower_is_better: bool = False,
    most: int | None = None,
    hide_names: bool = False,
) -> Image:
    """Draw one row a picture: image, truth, prediction and error, with a legend below; the worst case first.

    Volumes with an affine have three rows: axial, coronal and sagittal through most of the foreground or the error, the
    patient's right on the left, to scale. Other volumes are shown by their richest slice. A class named ``background``
    stays uncoloured. Pixels without a label are hatched and count for nothing. Equal input gives equal pixels.

    Args:
        cases: mappings of ``name``, ``image``, ``label`` and ``prediction``, and, where known, ``affine`` (of volumes
            alone), ``window`` and ``score``; see `make_views` and `worst_first`.
        class_names: by index.
        colours: that classes name, by index: ``"#RRGGBB"`` or three values; the others get the package's.
        ignore_index: label value that counts for nothing.
        title: heading of the sheet.
        cell: width of a picture in pixels.
        score_name: what ``score`` is called beside a case.
        lower_is_better: whether a low score is a good one, as of a distance.
        most: show at most this many cases.
        hide_names: show `hidden_name` of each name instead.

    Returns:
        The sheet, to save or show.

    Raises:
        ValueError: if there is no case, or a case or a colour does not fit.
    """
    from PIL import Image, ImageDraw

    if not cases:
        raise MedsegError("there is no case to show; give at least one")
    palette = class_palette(class_names, colours)
    rows: list[tuple[View, str]] = []
    for case in worst_first(cases, lower_is_better=lower_is_better)[:most]:
        shown = {**case, "name": hidden_name(str(case["name"]))} if hide_names else case
        score = "" if _score(case) is None else f"{score_name} {_score(case):.3f}"
        views = make_views(shown, len(class_names), ignore_index)
        rows += [(view, score if view is views[0] else "") for view in views]
    sizes = [_fit(view.truth.shape, view.pixel, cell) for view, _ in rows]
    width = 2 * _MARGIN + 4 * cell + 3 * _GAP
    legend = _legend_rows(_legend_entries([view for view, _ in rows], class_names, palette), width)
    top = _MARGIN + (_TITLE + 22 if title else 0)
    height = top + _HEADING + 14 + sum(_TEXT + 12 + size[1] + _GAP for size in sizes)
    height += 10 + len(legend) * (_SWATCH + 14) + _MARGIN - 14
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), shorten(title, _TITLE, width - 2 * _MARGIN), _INK, _font(_TITLE, bold=True))
    lefts = [_MARGIN + index * (cell + _GAP) for index in range(4)]
    for left, heading in zip(lefts, COLUMNS, strict=True):
        draw.text((left + cell / 2, top), heading, _INK, _font(_HEADING, bold=True), anchor="ma")
    y = top + _HEADING + 14
    for (view, score), size in zip(rows, sizes, strict=True):
        _caption(draw, view, score, lefts, cell, y)
        y += _TEXT + 12
        for left, picture in zip(lefts, _pictures(view, palette, size), strict=True):
            sheet.paste(picture, (left + (cell - size[0]) // 2, y))
        if view.letters is not None:
            _draw_letters(draw, view.letters, (lefts[0] + (cell - size[0]) // 2, y), size)
        y += size[1] + _GAP
    _draw_legend(draw, legend, y + 10)
    return sheet


def worst_first(cases: Sequence[Mapping[str, Any]], *, lower_is_better: bool = False) -> list[Mapping[str, Any]]:
    """Return cases by their ``score``, the worst first; those without one come last, in the order given.

    Args:
        cases: mappings that may hold ``score``.
        lower_is_better: whether a low score is a good one.
    """

    def place(case: Mapping[str, Any]) -> tuple[bool, float]:
        score = _score(case)
        return score is None, 0.0 if score is None else (-score if lower_is_better else score)

    return sorted(cases, key=place)


def _score(case: Mapping[str, Any]) -> float | None:
    score = case.get("score")
    return None if score is None or math.isnan(score) else float(score)


def _fit(shape: Sequence[int], pixel: Sequence[float], cell: int) -> tuple[int, int]:
    """Return width and height of a picture of ``(H, W)`` in a column, to scale."""
    rows, columns = (count * edge for count, edge in zip(shape, pixel, strict=True))
    scale = min(cell / columns, _STRETCH * cell / rows)
    return max(1, round(columns * scale)), max(1, round(rows * scale))


def _pictures(view: View, palette: Sequence[Colour | None], size: tuple[int, int]) -> list[Image]:
    from PIL import Image

    smaller = size[0] < view.truth.shape[1] or size[1] < view.truth.shape[0]
    smooth = Image.Resampling.BOX if smaller else Image.Resampling.NEAREST
    image = np.asarray(Image.fromarray(view.image).resize(size, smooth))
    share = np.asarray(Image.fromarray(view.wrong.astype(np.float32)).resize(size, smooth))
    truth, prediction = _sample(view.truth, size), _sample(view.prediction, size)
    ignored = _sample(view.ignored, size)
    nothing = np.zeros_like(ignored)
    pixels = (
        image,
        show_classes(image, truth, palette, ignored),
        show_classes(image, prediction, palette, nothing),
        show_wrong(image, share, ignored),
    )
    return [Image.fromarray(each) for each in pixels]


def _sample(array: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize by nearest neighbour at pixel centres to ``size`` (width, height)."""
    columns, rows = (
        ((np.arange(new) + 0.5) * old / new).astype(int) for new, old in zip(size, array.shape[::-1], strict=True)
    )
    return array[np.ix_(rows, columns)]


def _caption(draw: ImageDraw, view: View, score: str, lefts: Sequence[int], cell: int, y: int) -> None:
    share = view.wrong_share
    text = "no labelled pixel" if share is None else f"{100 * share:.1f} % of pixels wrong"
    text = f"{score}, {text}" if score else text
    room = lefts[3] + cell - lefts[0] - round(_font(_TEXT).getlength(text)) - 40
    draw.text((lefts[0], y), shorten(view.name, _TEXT, room), _SOFT, _font(_TEXT))
    draw.text((lefts[3] + cell, y), text, _SOFT, _font(_TEXT), anchor="ra")


def _draw_letters(draw: ImageDraw, letters: Sequence[str], corner: tuple[int, int], size: tuple[int, int]) -> None:
    """Write the patient's sides inside the edges of a picture."""
    (x, y), (width, height) = corner, size
    places = (
        ((x + 6, y + height / 2), "lm"),
        ((x + width - 6, y + height / 2), "rm"),
        ((x + width / 2, y + 4), "mt"),
        ((x + width / 2, y + height - 4), "mb"),
    )
    for letter, (place, anchor) in zip(letters, places, strict=True):
        draw.text(
            place, letter, (255, 255, 255), _font(_TEXT, bold=True), anchor, stroke_width=3, stroke_fill=(0, 0, 0)
        )


def _legend_entries(
    views: Sequence[View], names: Sequence[str], palette: Sequence[Colour | None]
) -> list[tuple[str, Colour | None]]:
    """Return text and colour of each entry; ``None`` is hatched."""
    shown = set(range(len(names)))
    if len(names) > _ALL_CLASSES:
        shown = {int(value) for view in views for value in np.unique(view.truth[~view.ignored])}
        shown |= {int(value) for view in views for value in np.unique(view.prediction)}
    entries: list[tuple[str, Colour | None]] = []
    for index in sorted(shown):
        colour = palette[index]
        if colour is not None:
            entries.append((names[index], colour))
    entries.append(("wrong", WRONG))
    if any(view.ignored.any() for view in views):
        entries.append(("not labelled", None))
    return entries


def _legend_rows(
    entries: Sequence[tuple[str, Colour | None]], width: int
) -> list[list[tuple[int, str, Colour | None]]]:
    """Break the legend into lines of (left edge, text, colour)."""
    rows: list[list[tuple[int, str, Colour | None]]] = [[]]
    x = _MARGIN
    for text, colour in entries:
        text = shorten(text, _TEXT, width // 3)
        step = _SWATCH + 10 + round(_font(_TEXT).getlength(text)) + 30
        if rows[-1] and x + step - 30 > width - _MARGIN:
            rows.append([])
            x = _MARGIN
        rows[-1].append((x, text, colour))
        x += step
    return rows


def _draw_legend(draw: ImageDraw, rows: Sequence[Sequence[tuple[int, str, Colour | None]]], y: int) -> None:
    for row in rows:
        for x, text, colour in row:
            box = (x, y, x + _SWATCH, y + _SWATCH)
            draw.rectangle(box, colour or (128, 128, 128), _SOFT)
            if colour is None:
                for offset in range(6, 2 * _SWATCH, 12):
                    start, end = (min(offset, _SWATCH), max(0, offset - _SWATCH)), (max(0, offset - _SWATCH), 0)
                    draw.line((x + start[0], y + start[1], x + end[0], y + min(offset, _SWATCH)), (188, 188, 188), 4)
                draw.rectangle(box, None, _SOFT)
            draw.text((x + _SWATCH + 10, y + _SWATCH / 2), text, _INK, _font(_TEXT), anchor="lm")
        y += _SWATCH + 14


def shorten(text: str, size: int, width: int) -> str:
    """Cut a text to a width in pixels, with an ellipsis.

    Args:
        text: one line.
        size: of the letters in pixels.
        width: to fit in.
    """
    font = _font(size)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"


@lru_cache(maxsize=8)
def _font(size: int, *, bold: bool = False) -> FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters."""
    import matplotlib as mpl
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(f"{mpl.get_data_path()}/fonts/ttf/{name}", size)
