"""Edges and volume of a voxel, of oblique, flipped and sheared grids."""

import numpy as np
import pytest

from medseg.affines import voxel_edges, voxel_volume


def oblique(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a grid turned at random, some of its axes flipped, and its edges."""
    random = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(random.normal(size=(3, 3)))  # of either handedness
    edges = random.uniform(0.3, 7, 3)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * edges, random.uniform(-300, 300, 3)
    return affine, edges


@pytest.mark.parametrize("seed", range(6))
def test_a_turned_voxel_keeps_its_edges_and_volume(seed: int) -> None:
    affine, edges = oblique(seed)
    np.testing.assert_allclose(voxel_edges(affine), edges, rtol=1e-12)
    assert voxel_volume(affine) == pytest.approx(edges.prod(), rel=1e-12)
    assert voxel_volume(affine[:3, :3]) == voxel_volume(affine)


@pytest.mark.parametrize("seed", range(3))
def test_a_sheared_voxel_has_its_edges_but_the_volume_between_its_planes(seed: int) -> None:
    """As slices of a tilted gantry: their distance counts, and not the way from one origin to the next."""
    affine, edges = oblique(seed)
    affine[:3, 2] += 0.4 * affine[:3, 0]
    assert voxel_edges(affine)[2] == pytest.approx(np.hypot(edges[2], 0.4 * edges[0]))
    assert voxel_volume(affine) == pytest.approx(edges.prod(), rel=1e-12)
