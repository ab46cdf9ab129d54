"""Polygons with holes as one ring each: every hole is joined to what is around it by a channel without width.

Channels run along rows, a quarter of a pixel off the pixels' centres: whoever fills the ring gets the same pixels,
whether by counting crossings, by winding, or drawing each ring apart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.prediction.outlines import Polygon

__all__ = ["keyhole"]

Points = NDArray[np.float64]

_LINE = 0.25  # of a row


@dataclass(frozen=True)
class _Channel:
    """A line along a row from a hole to the next ring on its left.

    Args:
        hole: number of the hole.
        start_edge: number of its edge that the channel begins on, and `start` where.
        start: see `start_edge`.
        end: where it ends on the other ring.
    """

    hole: int
    start_edge: int
    start: Points
    end: Points


def keyhole(polygon: Polygon) -> Points:
    """Return a polygon as one ring, whose last point is joined to the first.

    Args:
        polygon: the outer ring, then its holes, from `medseg.prediction.outlines.outlines`.

    Shape:
        ``(points, 2)``, column and row, 0, 0 being the corner of the first pixel.
    """
    rings = [np.array(ring[:-1], np.float64) for ring in polygon]
    channels = _channels(rings)
    parts: list[Points] = []
    walks = [_steps(0, 0, rings, channels)]
    ways_back: list[tuple[Points, Points]] = []
    while walks:
        step = next(walks[-1], None)
        if step is None:
            walks.pop()
            parts += ways_back.pop() if ways_back else ()
        elif isinstance(step, _Channel):
            parts += [step.end, step.start]
            ways_back.append((step.start, step.end))
            walks.append(_steps(step.hole, step.start_edge + 1, rings, channels))
        else:
            parts.append(step)
    return np.array(parts)


def _steps(
    number: int, first: int, rings: Sequence[Points], channels: Mapping[tuple[int, int], Sequence[_Channel]]
) -> Iterator[Points | _Channel]:
    """Yield the points of a ring from one on, and the channels that end between them."""
    ring = rings[number]
    for edge in range(first, first + len(ring)):
        yield ring[edge % len(ring)]
        yield from channels.get((number, edge % len(ring)), ())


def _channels(rings: Sequence[Points]) -> dict[tuple[int, int], list[_Channel]]:
    """Return the channels by the ring and edge that they end on, in the order in which the ring comes to them.

    A hole's channel begins where the hole is furthest to the left, so that it ends on the outer ring, or on a hole that
    reaches further to the left: all of them hang on the outer ring.
    """
    starts = np.concatenate(rings)
    ends = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    owners = np.concatenate([np.full(len(ring), number) for number, ring in enumerate(rings)])
    edges = np.concatenate([np.arange(len(ring)) for ring in rings])
    (upright,) = np.nonzero(starts[:, 0] == ends[:, 0])
    starts, ends, owners, edges = starts[upright], ends[upright], owners[upright], edges[upright]
    columns, low, high = starts[:, 0], np.minimum(starts[:, 1], ends[:, 1]), np.maximum(starts[:, 1], ends[:, 1])
    found: dict[tuple[int, int], list[_Channel]] = defaultdict(list)
    for hole in range(1, len(rings)):
        own = np.nonzero(owners == hole)[0]
        begin = own[columns[own].argmin()]
        line = low[begin] + _LINE
        met = np.where((low < line) & (line < high) & (columns < columns[begin]), columns, -np.inf).argmax()
        start, end = np.array([columns[begin], line]), np.array([columns[met], line])
        found[int(owners[met]), int(edges[met])].append(_Channel(hole, int(edges[begin]), start, end))
    for (number, edge), several in found.items():
        ring = rings[number]
        down = ring[(edge + 1) % len(ring), 1] > ring[edge, 1]
        several.sort(key=lambda channel: float(channel.end[1]), reverse=not down)
    return dict(found)
