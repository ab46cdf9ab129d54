"""A sheet of cases: image, truth, prediction and error side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import MedsegError
from medseg.reports.palette import WRONG, Colour, class_colours, parse_colour
from medseg.reports.views import View, make_view, show_classes, show_wrong

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
    colours: Sequence[str | Sequence[int]] | None = None,
    ignore_index: int | None = None,
    title: str = "",
    cell: int = 384,
) -> Image:
    """Draw one row a case: image, truth, prediction and error, with a legend below.

    Volumes are shown by their richest slice. A class named ``background`` stays uncoloured. Pixels without a label
    are hatched and count for nothing. Equal input gives equal pixels.

    Args:
        cases: mappings of ``name``, ``image``, ``label`` and ``prediction``; see `make_view`.
        class_names: by index.
        colours: one a class, ``"#RRGGBB"`` or three values; ``None`` for the package's palette.
        ignore_index: label value that counts for nothing.
        title: heading of the sheet.
        cell: width of a picture in pixels.

    Returns:
        The sheet, to save or show.

    Raises:
        ValueError: if there is no case, a case does not fit, or the number of colours differs from the classes'.
    """
    from PIL import Image, ImageDraw

    if not cases:
        raise MedsegError("there is no case to show; give at least one")
    palette = class_palette(class_names, colours)
    views = [make_view(case, len(class_names), ignore_index) for case in cases]
    sizes = [_fit(view.truth.shape, cell) for view in views]
    width = 2 * _MARGIN + 4 * cell + 3 * _GAP
    legend = _legend_entries(views, class_names, palette)
    rows = _legend_rows(legend, width)
    top = _MARGIN + (_TITLE + 22 if title else 0)
    height = top + _HEADING + 14 + sum(_TEXT + 12 + size[1] + _GAP for size in sizes)
    height += 10 + len(rows) * (_SWATCH + 14) + _MARGIN - 14
    sheet = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    if title:
        draw.text((_MARGIN, _MARGIN), shorten(title, _TITLE, width - 2 * _MARGIN), _INK, _font(_TITLE, bold=True))
    lefts = [_MARGIN + index * (cell + _GAP) for index in range(4)]
    for left, heading in zip(lefts, COLUMNS, strict=True):
        draw.text((left + cell / 2, top), heading, _INK, _font(_HEADING, bold=True), anchor="ma")
    y = top + _HEADING + 14
    for view, size in zip(views, sizes, strict=True):
        _caption(draw, view, lefts, cell, y)
        y += _TEXT + 12
        for left, picture in zip(lefts, _pictures(view, palette, size), strict=True):
            sheet.paste(picture, (left + (cell - size[0]) // 2, y))
        y += size[1] + _GAP
    _draw_legend(draw, rows, y + 10)
    return sheet


def class_palette(names: Sequence[str], colours: Sequence[str | Sequence[int]] | None) -> list[Colour | None]:
    """Return a colour for each class, ``None`` for the background.

    Args:
        names: of the classes.
        colours: the wanted ones; ``None`` for distinct ones.

    Raises:
        ValueError: if there is not one for each class.
    """
    if colours is not None and len(colours) != len(names):
        raise MedsegError(f"{len(colours)} colours for {len(names)} classes; give one a class, or none")
    coloured = [name for name in names if not _is_background(name)]
    fresh = iter(class_colours(len(coloured)))
    if colours is not None:
        return [parse_colour(colour) for colour in colours]
    return [None if _is_background(name) else next(fresh) for name in names]


def _is_background(name: str) -> bool:
    return name.strip().lower() == "background"


def _fit(shape: Sequence[int], cell: int) -> tuple[int, int]:
    """Return width and height of a picture of ``(H, W)`` in a column."""
    rows, columns = shape
    scale = min(cell / columns, _STRETCH * cell / rows)
    return max(1, round(columns * scale)), max(1, round(rows * scale))


def _pictures(view: View, palette: Sequence[Colour | None], size: tuple[int, int]) -> list[Image]:
    from PIL import Image

    smaller = size[0] < view.truth.shape[1]
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


def _caption(draw: ImageDraw, view: View, lefts: Sequence[int], cell: int, y: int) -> None:
    share = view.wrong_share
    name = shorten(view.name, _TEXT, 3 * cell)
    draw.text((lefts[0], y), name, _SOFT, _font(_TEXT))
    text = "no labelled pixel" if share is None else f"{100 * share:.1f} % of pixels wrong"
    draw.text((lefts[3] + cell, y), text, _SOFT, _font(_TEXT), anchor="ra")


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
