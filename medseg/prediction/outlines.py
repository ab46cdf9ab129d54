"""Outlines of a mask along the edges of its pixels: exact, so that what is drawn back is the mask and areas are equal.

Contours at half height (scikit-image's ``find_contours``) cut every corner, an eighth of a pixel each: a single pixel
loses half of its area.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["Polygon", "outlines"]

Ring = list[tuple[int, int]]
Polygon = list[Ring]
"""The outer ring, then its holes; each closed, (column, row), 0, 0 being the corner of the first pixel."""

_STEPS = ((0, 1), (1, 0), (0, -1), (-1, 0))  # along the top, right, bottom and left edge of a pixel: inside is right


def outlines(mask: NDArray[np.bool_]) -> list[list[Polygon]]:
    """Return the polygons of each connected part.

    A part is joined where pixels touch, also at corners. Pixels that share an edge are one polygon, whose rings cross
    neither each other nor themselves; they may touch at corners, as OGC's simple features allow.

    Args:
        mask: ``(H, W)``.

    Returns:
        of each part, in the order of its first pixel, one polygon or several that touch at corners.
    """
    pieces, number = ndimage.label(mask)
    parts, count = ndimage.label(mask, np.ones((3, 3)))
    rings: list[list[Ring]] = [[] for _ in range(number)]
    for piece, ring in _rings(pieces):
        for simple in _simple(ring):
            rings[piece - 1].append(_corners(simple))
    first = ndimage.maximum(parts, pieces, np.arange(1, number + 1)).astype(int) if number else []
    found: list[list[Polygon]] = [[] for _ in range(count)]
    for part, own in zip(first, rings, strict=True):
        own.sort(key=_area, reverse=True)  # the outer ring alone has a positive area
        found[part - 1].append(own)
    return found


def _rings(pieces: NDArray[np.int32]) -> Iterator[tuple[int, Ring]]:
    """Yield each ring with the number of its piece, every corner of a pixel on it once, the piece to the right."""
    starts, steps, labels = _edges(pieces)
    width = pieces.shape[1] + 1
    shift = np.array([row * width + column for row, column in _STEPS])
    ends = starts + shift[steps]
    # edges by where they start, by piece, by direction
    order = np.lexsort((steps, labels, starts))
    starts, steps, labels, ends = starts[order], steps[order], labels[order], ends[order]
    key = starts * (int(labels.max(initial=0)) + 1) + labels
    wanted = ends * (int(labels.max(initial=0)) + 1) + labels
    after = np.searchsorted(key, wanted)
    # where a piece touches itself at a corner two edges go on: to the right, diagonal pixels are kept apart
    second = np.minimum(after + 1, len(key) - 1)
    right = (steps + 1) % 4
    after = np.where((key[second] == wanted) & (steps[second] == right), second, after)
    done = np.zeros(len(key), bool)
    following, row, column = after.tolist(), (starts // width).tolist(), (starts % width).tolist()
    for begin in range(len(key)):
        if done[begin]:
            continue
        ring, edge = [], begin
        while not done[edge]:
            done[edge] = True
            ring.append((column[edge], row[edge]))
            edge = following[edge]
        yield int(labels[begin]), ring


def _edges(pieces: NDArray[np.int32]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return of each edge between a piece and something else: the corner where it starts, its direction, its piece."""
    width = pieces.shape[1] + 1
    around = np.pad(pieces, 1)
    inner = around[1:-1, 1:-1]
    neighbours = (around[:-2, 1:-1], around[1:-1, 2:], around[2:, 1:-1], around[1:-1, :-2])
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))  # where the edge of each direction starts
    starts, steps, labels = [], [], []
    for step, (other, (down, right)) in enumerate(zip(neighbours, corners, strict=True)):
        rows, columns = np.nonzero((inner > 0) & (inner != other))
        starts.append((rows + down) * width + columns + right)
        steps.append(np.full(len(rows), step))
        labels.append(inner[rows, columns])
    return np.concatenate(starts), np.concatenate(steps), np.concatenate(labels).astype(np.int64)


def _simple(ring: Ring) -> Iterator[Ring]:
    """Cut a ring where it comes to a corner again: what lies between is a ring of its own."""
    if len(set(ring)) == len(ring):
        yield ring
        return
    place: dict[tuple[int, int], int] = {}
    path: Ring = []
    for point in ring:
        if point in place:
            start = place[point]
            yield path[start:]
            for gone in path[start:]:
                del place[gone]
            del path[start:]
        place[point] = len(path)
        path.append(point)
    yield path


def _corners(ring: Ring) -> Ring:
    """Leave out points on straight lines, and close the ring."""
    points = np.array(ring)
    before, after = points - np.roll(points, 1, 0), np.roll(points, -1, 0) - points
    kept = [(int(column), int(row)) for column, row in points[(before != after).any(1)]]
    return [*kept, kept[0]]


def _area(ring: Ring) -> float:
    """Return the area of a closed ring, positive where it runs clockwise as pictures are drawn."""
    points = np.array(ring)
    x, y = points[:, 0], points[:, 1]
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum()) / 2
