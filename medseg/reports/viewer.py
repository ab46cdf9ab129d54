"""Slices of a case as pictures inside a page: image, truth, prediction and error, one below the other in each file.

A page shows one slice of such a strip at a time. Classes are areas with a contour in their colour, which readers of any
colour vision tell apart; errors have a picture of their own, dark on faded, so that they show in grey, too.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.reports.palette import IGNORED, WRONG, Colour
from medseg.reports.slices import Slices
from medseg.reports.windows import about, as_window

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Layer", "Panel", "Viewer", "make_viewer", "picture_uri"]

WIDTH, TALLEST = 240.0, 300.0  # of a panel, in the units of the page's drawing
_STRIP = 8  # small pictures of further slices
_SHARP = 400  # pixels that a contour's picture has along a slice's longer edge, about
_QUALITIES = ((82, 1), (60, 1), (40, 1), (40, 2), (30, 4), (20, 8))  # of the pictures; of how many slices one is kept
_FILL, _LINE = 90, 255  # opacity of areas and contours
_HATCH = 150
_PALETTE = 256  # colours of a PNG that has one
_LIGHT = 110  # grey value from which a colour has a dark line around its contour instead of a light one

Pixels = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A strip of pictures, one slice below the other: its data URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Panel:
    """One picture of a viewer: a heading, and the layers that lie over each other."""

    title: str
    layers: Sequence[str]


@dataclass(frozen=True)
class Viewer:
    """What the page draws of a case.

    Args:
        title: of the case.
        about: a line on plane and place.
        size: width and height of a slice in the layers' pixels.
        drawn: width and height of a panel on the page, true to scale.
        numbers: of each slice, as the file counts them.
        of: slices of the volume.
        start: place of the slice that is shown first.
        letters: of the patient's sides: left, right, top, bottom.
        layers: pictures by name.
        panels: what is shown beside each other.
        strip: places of the slices that small pictures show.
    """

    title: str
    about: str
    size: tuple[int, int]
    drawn: tuple[float, float]
    numbers: Sequence[int]
    of: int
    start: int
    letters: Sequence[str]
    layers: Sequence[Layer]
    panels: Sequence[Panel]
    strip: Sequence[int]

    kind = "viewer"

    @property
    def nbytes(self) -> int:
        """Bytes that its pictures take in the page."""
        return sum(len(layer.uri) for layer in self.layers)


def make_viewer(
    case: Slices,
    palette: Sequence[Colour | None],
    *,
    title: str,
    ignore_index: int | None = None,
    most_bytes: int = 600_000,
) -> Viewer:
    """Draw a case.

    Args:
        case: its slices.
        palette: a colour a class; ``None`` is not drawn.
        title: what it is called on the page.
        ignore_index: label value that counts for nothing: it is drawn grey.
        most_bytes: that its pictures may take; they lose quality, then slices, until they fit.
    """
    for quality, every in _QUALITIES:
        kept = _thinned(case, every)
        viewer = _draw(kept, palette, title, ignore_index, quality)
        if viewer.nbytes <= most_bytes:
            break
    return viewer


def _thinned(case: Slices, every: int) -> Slices:
    kept = list(range(case.start % every, len(case.image), every))
    if len(kept) == len(case.image):
        return case
    return Slices(
        **{
            **vars(case),
            "image": case.image[kept],
            "prediction": case.prediction[kept],
            "truth": None if case.truth is None else case.truth[kept],
            "indices": [case.indices[n] for n in kept],
            "start": kept.index(case.start),
        }
    )


def _draw(case: Slices, palette: Sequence[Colour | None], title: str, ignore_index: int | None, quality: int) -> Viewer:
    height, width = case.image.shape[1:3]
    layers = [Layer("image", picture_uri(_picture(case.image), quality))]
    panels = [Panel("image", ["image"])]
    unlabelled = np.zeros(case.prediction.shape, bool)
    if case.truth is not None and ignore_index is not None:
        unlabelled = case.truth == ignore_index
    if case.truth is not None:
        layers.append(Layer("truth", _areas(np.where(unlabelled, -1, case.truth.astype(np.int64)), palette)))
        panels.append(Panel("truth", ["image", "truth"]))
    layers.append(Layer("prediction", _areas(case.prediction, palette)))
    panels.append(Panel("prediction", ["image", "prediction"]))
    if case.truth is not None:
        layers.append(Layer("wrong", _wrong((case.truth != case.prediction) & ~unlabelled)))
        panels.append(Panel("error", ["image", "wrong"]))
    number = len(case.image)
    strip = sorted({round(place) for place in np.linspace(0, number - 1, _STRIP)}) if number > 1 else []
    return Viewer(
        title, _about(case), (width, height), _drawn(case), list(case.indices), case.of, case.start,
        list(case.letters), layers, panels, strip,
    )  # fmt: skip


def _about(case: Slices) -> str:
    plane = {"": "", "page": "pages"}.get(case.plane, f"{case.plane} slices")
    said = [plane] if plane else []
    said += ["patient's right on the left"] if list(case.letters[:2]) == ["R", "L"] else []
    said += ["patient's front on the left"] if list(case.letters[:2]) == ["A", "P"] else []
    said += [f"axes of the scanner, oblique by {case.oblique}°"] if case.oblique else []
    said += [about(as_window(case.window))] if case.window else []
    return ", ".join(said)


def _drawn(case: Slices) -> tuple[float, float]:
    height, width = (count * edge for count, edge in zip(case.image.shape[1:3], case.pixel, strict=True))
    scale = min(WIDTH / width, TALLEST / height)
    return round(width * scale, 1), round(height * scale, 1)


def _picture(slices: Pixels) -> Image:
    from PIL import Image

    return Image.fromarray(np.ascontiguousarray(slices.reshape(-1, *slices.shape[2:])))


def _areas(classes: Pixels, palette: Sequence[Colour | None]) -> str:
    """Return class areas with contours; negative values are hatched in grey.

    A dark contour has a light line around it and a light one a dark line, so that it shows on any tissue, in grey too.
    """
    sharp = _sharp(classes)
    indices = np.zeros(sharp.shape, np.uint16)
    colours: list[tuple[int, int, int, int]] = [(0, 0, 0, 0)]

    def colour(value: tuple[int, int, int, int]) -> int:
        if value not in colours:
            colours.append(value)
        return colours.index(value)

    times = sharp.shape[1] // classes.shape[1]
    edge = _edges(sharp, times)
    drawn = {int(v): palette[v] if v < len(palette) else IGNORED for v in np.unique(classes) if v >= 0}
    free = np.isin(sharp, [value for value, shade in drawn.items() if shade is None])
    for value, shade in drawn.items():
        if shade is None:
            continue
        region = sharp == value
        around = (0, 0, 0, _LINE) if _grey(shade) > _LIGHT else (255, 255, 255, _LINE)
        indices[free & edge & _grown(region, times)] = colour(around)
        indices[region] = colour((*shade, _FILL))
        indices[region & edge] = colour((*shade, _LINE))
    rows, columns = np.indices(sharp.shape[1:])
    indices[(sharp < 0) & ((rows + columns) // 4 % 2 == 0)] = colour((*IGNORED, _HATCH))
    return _palette_uri(indices, colours)


def _wrong(wrong: NDArray[np.bool_]) -> str:
    """Return a white veil over everything, and what is wrong in strong colour."""
    return _palette_uri(_sharp(wrong).astype(np.uint8), [(255, 255, 255, 150), (*WRONG, 235)])


def _sharp(slices: Pixels) -> Pixels:
    times = max(1, round(_SHARP / max(slices.shape[1:3])))
    return slices.repeat(times, axis=1).repeat(times, axis=2)


def _grey(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def _grown(region: NDArray[np.bool_], times: int) -> NDArray[np.bool_]:
    """Return a region and what is next to it, as wide as its contour."""
    grown = region.copy()
    for reach in range(1, 1 + min(times, 2)):
        grown[:, reach:] |= region[:, :-reach]
        grown[:, :-reach] |= region[:, reach:]
        grown[:, :, reach:] |= region[:, :, :-reach]
        grown[:, :, :-reach] |= region[:, :, reach:]
    return grown


def _edges(classes: Pixels, times: int) -> NDArray[np.bool_]:
    """Return the pixels at borders of classes, twice as wide where slices are shown larger."""
    edge = np.zeros(classes.shape, bool)
    for reach in range(1, 1 + min(times, 2)):
        down, right = classes[:, reach:] != classes[:, :-reach], classes[:, :, reach:] != classes[:, :, :-reach]
        edge[:, reach:] |= down
        edge[:, :-reach] |= down
        edge[:, :, reach:] |= right
        edge[:, :, :-reach] |= right
    return edge


def _palette_uri(indices: Pixels, colours: Sequence[tuple[int, int, int, int]]) -> str:
    file = io.BytesIO()
    if len(colours) > _PALETTE:  # of some 130 classes: an area and a contour each
        _picture(np.array(colours, np.uint8)[indices]).save(file, "PNG", optimize=True)
        return _uri("png", file.getvalue())
    picture = _picture(indices.astype(np.uint8))
    picture.putpalette([value for colour in colours for value in colour[:3]], "RGB")
    picture.save(file, "PNG", optimize=True, transparency=bytes(colour[3] for colour in colours))
    return _uri("png", file.getvalue())


def picture_uri(picture: Image, quality: int | None = None) -> str:
    """Return a picture as a data URI.

    Args:
        picture: the picture.
        quality: of JPEG; ``None`` is a PNG of at most 256 colours, for drawings.
    """
    from PIL import Image

    file = io.BytesIO()
    if quality is None:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        return _uri("png", file.getvalue())
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return _uri("jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode('ascii')}"
