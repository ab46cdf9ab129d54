"""Draws outlines and run lengths into a mask of classes.

An outline covers the pixels whose centres lie inside it. Coordinates are those of pictures: 0, 0 is the corner of the
first pixel, whose centre is 0.5, 0.5. scikit-image draws; a centre exactly on the outline may fall on either side.
Objects of different classes that overlap are refused by name, unless a person gives an order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medseg.errors import shown
from medseg.importers.layout import Draw, ImportingError, Options, Question
from medseg.io.image_file import ImageFile
from medseg.reports.palette import is_background

__all__ = ["IGNORED", "Mask", "Segment", "decode_rle", "fill_polygons", "numbered", "paint", "painter"]

Mask = npt.NDArray[np.bool_]

IGNORED = 255
"""Value of what counts nowhere in a drawn mask."""

_MOST_CLASSES = 255
_FILE = ("file",)


@dataclass(frozen=True)
class Segment:
    """One object to draw.

    Args:
        name: of its class, ``None`` for a region that counts nowhere; such a region lies below all objects.
        draw: takes the shape of the image, returns the pixels of the object.
        level: what lies on a higher one is on top, where the file says so.
    """

    name: str | None
    draw: Callable[[tuple[int, ...]], Mask]
    level: int = 0


def fill_polygons(polygons: Sequence[Any], shape: tuple[int, ...], where: str, holes: Sequence[Any] = ()) -> Mask:
    """Set the pixels whose centres lie inside one of the polygons and in no hole.

    Args:
        polygons: ``[x0, y0, x1, y1, ...]`` each, in pixels; the corner of the image is 0, 0. What reaches beyond
            the image, and a polygon of less than three points, covers nothing.
        shape: height and width of the image.
        where: file and annotation, for messages.
        holes: as the polygons.

    Raises:
        ImportingError: if a polygon is no list of pairs of finite numbers, or lies outside the image as a whole.
    """
    from skimage.draw import polygon

    mask = np.zeros(shape, bool)
    for corners, inside in (*((each, True) for each in polygons), *((each, False) for each in holes)):
        try:
            points = np.asarray(corners, np.float64)
        except (TypeError, ValueError) as error:
            raise ImportingError(f"{where}: a polygon is {str(corners)[:60]}, but must be a list of numbers") from error
        if points.ndim != 1 or points.size % 2 or not np.isfinite(points).all():
            raise ImportingError(f"{where}: a polygon is {str(corners)[:60]}, but must be pairs x, y of finite numbers")
        if points.size >= 6:
            _refuse_outside(points, shape, where)
            mask[polygon(points[1::2] - 0.5, points[::2] - 0.5, shape)] = inside
    return mask


def _refuse_outside(points: npt.NDArray[np.float64], shape: tuple[int, ...], where: str) -> None:
    """Refuse an outline of which nothing can lie in the picture: it was drawn on a larger one, or elsewhere."""
    for values, extent in ((points[::2], shape[1]), (points[1::2], shape[0])):
        if values.min() > extent or values.max() < 0:
            raise ImportingError(
                f"{where}: an outline from {points[0]:.6g}, {points[1]:.6g} on lies outside its picture of "
                f"{shape[1]}x{shape[0]} pixels; take the picture that it was drawn on, or delete the outline"
            )


def decode_rle(rle: dict[str, Any], shape: tuple[int, ...], where: str) -> Mask:
    """Set the pixels of COCO's run lengths: of unset and set runs in turn, column by column; lists or compressed text.

    Raises:
        ImportingError: if they are of another size than the image, or do not fill it.
    """
    counts, size = rle.get("counts"), rle.get("size")
    if size != list(shape):
        raise ImportingError(
            f"{where}: its run lengths are for the size {size}, but the image is {list(shape)}; "
            "put the image there that they were drawn on"
        )
    runs = _unpack(counts) if isinstance(counts, str) else counts
    valid = isinstance(runs, list) and all(isinstance(count, int) and count >= 0 for count in runs)
    if not valid or sum(runs or []) != shape[0] * shape[1]:
        raise ImportingError(f"{where}: its run lengths do not fill {shape[0]}x{shape[1]} pixels; export it again")
    values = np.arange(len(runs or [])) % 2 == 1
    return np.repeat(values, runs or []).reshape(shape, order="F")


def _unpack(text: str) -> list[int]:
    """Return the counts of compressed run lengths: 5 bits a character, the sixth says that more follow (cocoapi)."""
    runs: list[int] = []
    value, place = 0, 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << (5 * place)
        place += 1
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << (5 * place)
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value, place = 0, 0
    return runs


def numbered(names: Iterable[str], options: Options, where: Path) -> dict[int, str]:
    """Return index to class name: as a person said, else background and then the names as they come.

    Raises:
        ImportingError: if a person named classes, but not all that are there, or a class for what nothing covers; if
            `Options.order` names what is no class; if there are too many.
    """
    drawn = list(dict.fromkeys(names))
    background = next((name for name in drawn if is_background(name)), "background")  # spelled as the file does
    made = list(options.classes) or [background, *(name for name in drawn if name != background)]
    missing = [name for name in drawn if name not in made]
    if missing:
        raise ImportingError(
            f"{shown(where)}: holds the class {shown(missing[0])!r}, which --classes does not name; add it"
        )
    if made[0] in drawn and not is_background(made[0]):
        raise ImportingError(
            f"{shown(where)}: --classes begins with {shown(made[0])!r}, which is drawn, but class 0 is what no object "
            f"covers; say --classes background,{shown(','.join(made))}"
        )
    strange = [name for name in options.order if name not in made and tuple(options.order) != _FILE]
    if strange:
        raise ImportingError(
            f"{shown(where)}: --order names {shown(strange[0])!r}, which is no class; there are "
            f"{', '.join(map(shown, made[1:]))}"
        )
    if len(made) > _MOST_CLASSES:
        raise ImportingError(
            f"{shown(where)}: has {len(made)} classes, but a drawn mask holds {_MOST_CLASSES}; leave some out"
        )
    return dict(enumerate(made))


def painter(
    segments: Sequence[Segment],
    labels: dict[int, str],
    order: Sequence[str],
    where: Path | str,
    size: tuple[Any, Any] = (None, None),
    lost: Counter[str] | None = None,
) -> Draw:
    """Return what draws a picture's segments.

    Args:
        segments: in the order of the file.
        labels: index to class name.
        order: see `paint`.
        where: the file, and the picture where one file is of many, for messages.
        size: width and height that the file states of its picture; an image of another size is refused.
        lost: see `paint`.
    """

    def draw(image: ImageFile) -> npt.NDArray[np.integer[Any]]:
        if len(image.shape) != 2:
            raise ImportingError(
                f"{shown(where)}: outlines are of a picture, but its image has {len(image.shape)} axes; convert it"
            )
        if any(said not in (None, there) for said, there in zip(size, image.shape[::-1], strict=True)):
            raise ImportingError(
                f"{shown(where)}: its objects were drawn on a picture of {size[0]}x{size[1]} pixels, but the one here "
                f"has {image.shape[1]}x{image.shape[0]}; restore that picture, or draw on this one"
            )
        return paint(segments, image.shape, labels, order, where, lost)

    return draw


def paint(
    segments: Sequence[Segment],
    shape: tuple[int, ...],
    labels: dict[int, str],
    order: Sequence[str],
    where: Path | str,
    lost: Counter[str] | None = None,
) -> npt.NDArray[np.integer[Any]]:
    """Draw segments into a mask of class indices, `IGNORED` where nothing counts.

    Args:
        segments: in the order of the file.
        shape: of the mask.
        labels: index to class name; index 0 is what no segment covers.
        order: names of classes, the last on top; ``("file",)`` is the order of the segments.
        where: the file, and the picture where one file is of many, for messages.
        lost: counts, by class, the objects that cover no pixel's centre.

    Raises:
        Question: if segments of two classes overlap, on one level, and the order does not say which is on top.
    """
    index_of = {name: index for index, name in labels.items()}
    mask = np.zeros(shape, np.uint8)
    rank_of = np.full(shape, -1, np.int32)
    ranks = [_rank(segment, number, order) for number, segment in enumerate(segments)]
    place = {rank: number for number, rank in enumerate(sorted(set(ranks)))}
    for number in sorted(range(len(segments)), key=lambda number: (ranks[number], number)):
        segment = segments[number]
        pixels = segment.draw(shape)
        if lost is not None and segment.name is not None and not pixels.any():
            lost[segment.name] += 1
        value = IGNORED if segment.name is None else index_of[segment.name]
        rank = place[ranks[number]]
        clash = pixels & (rank_of == rank) & (mask != value)
        if segment.name is not None and clash.any():
            other = labels[int(mask[clash][0])]
            raise Question(
                f"{shown(where)}: {shown(other)} and {shown(segment.name)} overlap in {np.count_nonzero(clash)} "
                "pixels; "
                f"say which lies on top with --order {shown(other)},{shown(segment.name)} (the last is on top), or "
                "--order file",
                "order",
            )
        mask[pixels] = value
        rank_of[pixels] = rank
    return mask


def _rank(segment: Segment, number: int, order: Sequence[str]) -> tuple[int, int, int]:
    if segment.name is None:
        return (-1, 0, 0)
    if tuple(order) == _FILE:
        return (0, segment.level, number)
    return (0, segment.level, order.index(segment.name) if segment.name in order else -1)
