"""Polygons with holes as one ring, filled again by rules that differ: matplotlib's and scikit-image's."""

import numpy as np
import pytest
from matplotlib.path import Path
from skimage.draw import polygon2mask

from medseg.prediction.keyhole import keyhole
from medseg.prediction.outlines import outlines


def rings_of(mask):
    return [keyhole(polygon) for part in outlines(mask) for polygon in part]


def area(ring):
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


@pytest.mark.parametrize("share", [0.02, 0.3, 0.5, 0.7, 0.9, 0.98, 1])
def test_rings_give_the_mask_again(share):
    """Noise has islands in holes in islands, and reaches the picture's edge."""
    for seed in range(5):
        mask = np.random.default_rng(seed).random((23, 31)) < share
        rows, columns = (axis.ravel() for axis in np.indices(mask.shape))
        by_crossings, by_edges = np.zeros(mask.shape, int), np.zeros(mask.shape, int)
        rings = rings_of(mask)
        for ring in rings:
            places = ring[:, ::-1] - 0.5
            by_edges += polygon2mask(mask.shape, places)
            by_crossings += Path(places).contains_points(np.stack([rows, columns], 1)).reshape(mask.shape)
        np.testing.assert_array_equal(by_crossings, mask)  # each in one ring, and holes in none
        np.testing.assert_array_equal(by_edges, mask)
        assert sum(map(area, rings)) == pytest.approx(mask.sum())


def test_a_ring_has_no_point_too_many():
    mask = np.zeros((40, 40), bool)
    mask[3:37, 5:30] = True
    (ring,) = rings_of(mask)
    assert len(ring) == 4
    mask[10:20, 10:20] = False
    (ring,) = rings_of(mask)
    assert len(ring) == 4 + 4 + 4  # and the channel, there and back
