"""Synthetic electron-microscopy sections of cells with exact labels, for demonstrations and tests.

Nothing here is measured: cells are a warped Voronoi diagram with some neighbours fused, the rest is drawn into it. The
grey values of the classes overlap about as much as in the Drosophila ventral nerve cord sections (means 63 membrane,
81 mitochondria, 38 synapse, 74 extracellular, 151 intracellular; standard deviations 32 to 42), so that intensity
alone does not separate them, and vesicles, tubules and reticulum inside the cells look like membranes and organelles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from medseg.errors import MedsegError

__all__ = ["make_cell_section"]

MEMBRANE, MITOCHONDRIA, SYNAPSE, EXTRACELLULAR, INTRACELLULAR = range(5)

Field = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]

_CELL_AREA = 2600.0  # pixels; a cell is about 50 pixels wide, as at 4.6 nm a pixel


@dataclass
class _Scene:
    """What is drawn so far: grey values, labels, the cell of each pixel and its distance to the cell's border."""

    image: Field
    label: Pixels
    cell: npt.NDArray[np.intp]
    depth: Field


def make_cell_section(size: int, seed: int) -> tuple[Pixels, Pixels]:
    """Draw one section.

    Args:
        size: edge in pixels, 64 at least.
        seed: what decides everything; the same seed gives the same bytes.

    Returns:
        Grey values and class indices (0 membrane, 1 mitochondria, 2 synapse, 3 extracellular, 4 intracellular).

    Shape:
        two arrays ``(size, size)``.

    Raises:
        ValueError: if the size is below 64.
    """
    if size < 64:
        raise MedsegError(f"size is {size}; a section needs 64 pixels at least to hold cells")
    rng = np.random.default_rng(seed)
    cell, depth = _cells(rng, size)
    scene = _Scene(np.zeros((size, size), np.float32), np.full((size, size), INTRACELLULAR, np.uint8), cell, depth)
    _paint_cytoplasm(rng, scene)
    _paint_tubules(rng, scene)
    _paint_vesicles(rng, scene)
    _paint_mitochondria(rng, scene)
    _paint_extracellular(rng, scene)
    _paint_membranes(rng, scene)
    _paint_synapses(rng, scene)
    return _expose(rng, scene.image), scene.label


def _smooth(rng: np.random.Generator, size: int, scale: float) -> Field:
    """Return noise with mean 0, deviation about 1 and features of `scale` pixels."""
    from scipy import ndimage

    step = max(1.0, scale / 2)
    coarse = rng.standard_normal((math.ceil(size / step) + 6,) * 2).astype(np.float32)
    coarse = ndimage.gaussian_filter(coarse, 1.0)
    grid = np.arange(size, dtype=np.float32) / np.float32(step) + 2
    rows = ndimage.map_coordinates(coarse, np.meshgrid(grid, grid, indexing="ij"), order=1)
    result: Field = (rows / max(float(coarse.std()), 1e-6)).astype(np.float32)
    return result


def _cells(rng: np.random.Generator, size: int) -> tuple[npt.NDArray[np.intp], Field]:
    """Return a cell number and the distance to the cell's border for each pixel."""
    from scipy import ndimage, spatial

    margin = 60
    count = int((size + 2 * margin) ** 2 / _CELL_AREA)
    points = rng.uniform(-margin, size + margin, (4 * count, 2))
    crowding = _smooth(rng, size, 200)[tuple(np.clip(points, 0, size - 1).astype(int).T)]
    keep = rng.uniform(size=len(points)) < 0.25 * np.exp(0.9 * np.clip(crowding, -1.5, 1.5))
    points = points[keep] if keep.sum() > 3 else points[:4]
    owner = np.arange(len(points))
    tree = spatial.cKDTree(points)
    for index in rng.permutation(len(points))[: len(points) // 4]:  # fused neighbours give long and bent cells
        neighbour = tree.query(points[index], k=2)[1][1]
        owner[owner == owner[index]] = owner[neighbour]
    rows, columns = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    warp = [14 * _smooth(rng, size, 70) + 4 * _smooth(rng, size, 22) + 0.9 * _smooth(rng, size, 7) for _ in range(2)]
    nearest = tree.query(np.stack([rows + warp[0], columns + warp[1]], axis=-1))[1]
    cell = owner[nearest]
    border = np.zeros((size, size), bool)
    border[:-1] |= cell[:-1] != cell[1:]
    border[:, :-1] |= cell[:, :-1] != cell[:, 1:]
    depth = ndimage.distance_transform_edt(~border).astype(np.float32) if border.any() else np.full_like(warp[0], size)
    return cell, depth


def _paint_cytoplasm(rng: np.random.Generator, scene: _Scene) -> None:
    size = len(scene.image)
    tone = rng.normal(162, 10, scene.cell.max() + 1).astype(np.float32)
    tone -= np.float32(48) * (rng.uniform(size=len(tone)) < 0.06)  # dark cells, about as grey as extracellular space
    scene.image += tone[scene.cell] + 7 * _smooth(rng, size, 40) + 9 * _smooth(rng, size, 5)
    blotches = np.clip(_smooth(rng, size, 16) - 1.3, 0, 1)
    scene.image -= 60 * blotches


def _paint_tubules(rng: np.random.Generator, scene: _Scene) -> None:
    """Draw reticulum: thin dark lines inside some cells, which are no membranes."""
    size = len(scene.image)
    chosen = rng.uniform(size=scene.cell.max() + 1) < 0.35
    line = np.abs(_smooth(rng, size, 26)) < 0.07 + 0.03 * np.abs(_smooth(rng, size, 60))
    where = line & chosen[scene.cell] & (scene.depth > 7) & (_smooth(rng, size, 45) > 0)
    scene.image[where] -= rng.uniform(45, 75)


def _paint_vesicles(rng: np.random.Generator, scene: _Scene) -> None:
    """Draw small dark rings, granules and dense bodies in the cytoplasm; their label stays intracellular."""
    size = len(scene.image)
    for row, column in rng.integers(4, size - 4, (size * size // 9000, 2)):
        if scene.depth[row, column] > 7:  # dense bodies: like small mitochondria without rim and cristae
            window, rows, columns = _window(size, row, column, 14)
            distance = np.hypot(rows, columns * rng.uniform(0.7, 1.4)) / rng.uniform(4, 8)
            scene.image[window] -= rng.uniform(45, 90) * np.exp(-(distance**4))
    crowded = rng.uniform(size=scene.cell.max() + 1)
    for row, column in rng.integers(4, size - 4, (size * size // 130, 2)):
        if scene.depth[row, column] < 6 or crowded[scene.cell[row, column]] > 0.55:
            continue
        radius = rng.uniform(1.6, 3.4)
        window, rows, columns = _window(size, row, column, 6)
        distance = np.hypot(rows, columns)
        ring = np.exp(-(((distance - radius) / 0.9) ** 2))
        core = distance < radius if rng.uniform() < 0.12 else np.zeros_like(distance, dtype=bool)
        scene.image[window] -= rng.uniform(35, 75) * ring + 70 * core


def _paint_mitochondria(rng: np.random.Generator, scene: _Scene) -> None:
    size = len(scene.image)
    wobble = _smooth(rng, size, 14)
    wanted = max(1, round(size * size * 0.068 / 560))
    for row, column in rng.integers(0, size, (60 * wanted, 2)):
        if scene.depth[row, column] < 9 or wanted == 0:
            continue
        long_axis, short_axis = rng.uniform(11, 24), rng.uniform(8, 14)
        window, rows, columns = _window(size, row, column, 28)
        if (scene.label[window] == MITOCHONDRIA)[np.hypot(rows, columns) < long_axis + 5].any():
            continue
        wanted -= 1
        turn = rng.uniform(0, math.pi)
        along = rows * math.cos(turn) + columns * math.sin(turn)
        across = columns * math.cos(turn) - rows * math.sin(turn)
        radius = np.hypot(along / long_axis, across / short_axis) + 0.09 * wobble[window]
        same_cell = scene.cell[window] == scene.cell[row, column]
        inside = (radius < 1) & same_cell & (scene.depth[window] > 4)
        cristae = np.sin(along * rng.uniform(0.9, 1.4) + 1.2 * wobble[window])
        tone = rng.normal(92, 12) + rng.uniform(8, 26) * cristae - 38 * np.clip((radius - 0.78) / 0.15, 0, 1)
        scene.image[window] = np.where(inside, tone, scene.image[window])
        scene.label[window][inside] = MITOCHONDRIA


def _paint_extracellular(rng: np.random.Generator, scene: _Scene) -> None:
    """Turn a few cells and some gaps between cells into dark, finely grained space."""
    from scipy import ndimage

    size = len(scene.image)
    numbers, areas = np.unique(scene.cell, return_counts=True)
    left = size * size * rng.uniform(0.02, 0.05)
    chosen: list[int] = []
    for index in rng.permutation(len(numbers)):
        if areas[index] <= left:
            left -= areas[index]
            chosen.append(int(numbers[index]))
    gap = np.clip(_smooth(rng, size, 60) - 1.1, 0, 1) * 14
    reach = ndimage.gaussian_filter(gap, 2)
    # A gap opens along a border: membranes then run on both of its sides.
    opened = (scene.depth < reach) & (scene.label == INTRACELLULAR)
    where = (np.isin(scene.cell, chosen) & (scene.depth > 2)) | opened
    scene.label[where] = EXTRACELLULAR
    grain = 82 + 9 * _smooth(rng, size, 30) + 19 * _smooth(rng, size, 4)
    scene.image[where] = grain[where]
    scene.depth = np.where(opened, np.maximum(reach - scene.depth, 0), np.abs(scene.depth - reach)).astype(np.float32)


def _paint_membranes(rng: np.random.Generator, scene: _Scene) -> None:
    size = len(scene.image)
    width = np.clip(2.5 + 0.6 * _smooth(rng, size, 50) + 0.3 * _smooth(rng, size, 12), 1.7, 4.5)
    where = scene.depth < width
    sharpness = np.clip(1.0 + 0.4 * _smooth(rng, size, 60), 0.35, 1.5)  # a low one is a membrane cut obliquely
    darkness = np.exp(-((scene.depth / (0.75 * width)) ** 2) * sharpness)
    strength = np.clip(0.92 + 0.17 * _smooth(rng, size, 35), 0.35, 1.0)
    tone = 42 + 14 * _smooth(rng, size, 9)
    scene.image += strength * darkness * (tone - scene.image)
    scene.label[where] = MEMBRANE


def _paint_synapses(rng: np.random.Generator, scene: _Scene) -> None:
    """Draw dark plaques on membranes, each with a cloud on one side."""
    size = len(scene.image)
    wobble = _smooth(rng, size, 9)
    rows_all, columns_all = np.nonzero((scene.label == MEMBRANE) & (scene.depth < 1.5))
    if len(rows_all) == 0:
        return
    for index in rng.integers(0, len(rows_all), max(1, round(size * size * 0.006 / 150))):
        row, column = int(rows_all[index]), int(columns_all[index])
        window, rows, columns = _window(size, row, column, 24)
        distance = np.hypot(rows, columns) + 2 * wobble[window]
        depth = scene.depth[window]
        length, thickness = rng.uniform(8, 15), rng.uniform(4.5, 7.5)
        plaque = (distance < length) & (depth < thickness) & (scene.label[window] != MITOCHONDRIA)
        cloud = np.exp(-((depth / (1.5 * thickness)) ** 2) - (distance / length) ** 2)
        scene.image[window] -= 70 * cloud * (rows * math.cos(index) + columns * math.sin(index) > 0)
        scene.image[window] = np.where(plaque, 34 + 9 * wobble[window], scene.image[window])
        scene.label[window][plaque] = SYNAPSE


def _expose(rng: np.random.Generator, image: Field) -> Pixels:
    """Apply focus, noise, uneven illumination and the section's own contrast."""
    from scipy import ndimage

    size = len(image)
    blurred = ndimage.gaussian_filter(image, rng.uniform(0.8, 1.3))
    noise = rng.standard_normal(image.shape, np.float32) * rng.uniform(14, 20)
    noise += 11 * _smooth(rng, size, 2.5)
    light = 1 + 0.07 * np.clip(_smooth(rng, size, 260), -2, 2)
    exposed = (blurred + noise) * light + 9 * _smooth(rng, size, 180)
    exposed = (exposed - 128) * rng.uniform(0.8, 1.15) + 128 + rng.uniform(-12, 12)
    pixels: Pixels = np.clip(np.rint(exposed), 0, 255).astype(np.uint8)
    return pixels


def _window(size: int, row: int, column: int, reach: int) -> tuple[tuple[slice, slice], Field, Field]:
    """Return a window around a pixel, cut at the image's edge, and the offsets from that pixel inside it."""
    window = np.s_[
        max(0, row - reach) : min(size, row + reach + 1), max(0, column - reach) : min(size, column + reach + 1)
    ]
    rows = np.arange(window[0].start, window[0].stop, dtype=np.float32)[:, None] - row
    columns = np.arange(window[1].start, window[1].stop, dtype=np.float32)[None] - column
    return window, rows, columns
