"""Splitting of masks into instances against scikit-image and shapes whose necks are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import label as skimage_label

from medseg.metrics.instances import label_instances

Array = NDArray[Any]


def balls(shape: tuple[int, ...], *centres_and_radius: tuple[tuple[float, ...], float]) -> Array:
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
    mask = np.zeros(shape, dtype=bool)
    for centre, radius in centres_and_radius:
        mask |= np.linalg.norm(grid - np.array(centre), axis=-1) <= radius
    return mask


def assert_partition(instances: Array, mask: Array, connectivity: int = 1) -> None:
    """Hold that ids are 1 ... n, cover the mask and are connected."""
    assert instances.dtype == np.int32
    assert np.array_equal(instances > 0, mask > 0)
    assert np.array_equal(np.unique(instances[instances > 0]), np.arange(1, instances.max(initial=0) + 1))
    for index in range(1, instances.max(initial=0) + 1):
        assert skimage_label(instances == index, connectivity=connectivity).max() == 1


@pytest.mark.parametrize("shape", [(30, 31), (11, 12, 13)])
def test_components(shape: tuple[int, ...]) -> None:
    mask = np.random.default_rng(0).random(shape) < 0.3
    for connectivity in range(1, len(shape) + 1):
        ours = label_instances(mask, connectivity=connectivity)
        assert_partition(ours, mask, connectivity)
        assert ours.max() == skimage_label(mask, connectivity=connectivity).max()
    for same in (mask.astype(np.uint8) * 255, mask.astype(np.int64), np.asfortranarray(mask)):
        assert np.array_equal(label_instances(same), label_instances(mask))


@pytest.mark.parametrize("method", ["components", "watershed"])
def test_corner_to_corner(method: Any) -> None:
    mask = np.zeros((8, 8), dtype=bool)
    mask[:4, :4] = mask[4:, 4:] = True
    assert label_instances(mask, method).max() == 2
    assert label_instances(mask, connectivity=2).max() == 1


def test_min_size() -> None:
    mask = np.tile([1, 0, 1, 1, 0, 1, 1, 1], (2, 1))  # 2, 4 and 6 pixels
    for min_size, sizes in [(0, [2, 4, 6]), (2, [2, 4, 6]), (3, [4, 6]), (5, [6]), (7, [])]:
        ours = label_instances(mask, min_size=min_size)
        assert np.bincount(ours.ravel())[1:].tolist() == sizes
        assert np.array_equal(ours, label_instances(mask, "watershed", min_size=min_size))


@pytest.mark.parametrize(
    ("shape", "centres"),
    [((40, 61), ((20, 20), (20, 40))), ((30, 30, 51), ((15, 15, 15), (15, 15, 35)))],
)
def test_watershed_cuts_two_balls_in_the_middle(shape: tuple[int, ...], centres: tuple[tuple[float, ...], ...]) -> None:
    mask = balls(shape, *((centre, 12) for centre in centres))
    assert label_instances(mask).max() == 1
    ours = label_instances(mask, "watershed")
    assert_partition(ours, mask)
    left, right = np.bincount(ours.ravel())[1:]
    plane = mask[..., (centres[0][-1] + centres[1][-1]) // 2].sum()  # pixels as far from one as from the other
    assert abs(int(left) - int(right)) <= plane
    assert label_instances(mask, "watershed", h=8).max() == 1  # the neck is not 8 pixels below the centres


def test_h_is_the_depth_of_the_neck() -> None:
    """Chambers of half-width 6 and a passage of half-width 3: the neck is 3 below the peaks."""
    mask = np.zeros((15, 41), dtype=bool)
    mask[2:13, 2:13] = mask[2:13, 28:39] = True
    mask[5:10, 13:28] = True  # 5 rows: the middle one is 3 from the background, of 11 rows it is 6
    assert label_instances(mask, "watershed", h=2.9).max() == 2
    assert label_instances(mask, "watershed", h=3.0).max() == 1
    assert label_instances(mask, "watershed", h=5.8, spacing=(2, 2)).max() == 2  # in the unit of the spacing
    assert label_instances(mask, "watershed", h=6.0, spacing=(2, 2)).max() == 1


def test_necks_of_more_than_one_pixel_are_cut_by_default() -> None:
    """Chambers of half-width 5 and passages of half-width 4 or 3: necks 1 and 2 below the peaks."""
    for rows, instances in ((slice(2, 9), 1), (slice(3, 8), 2)):
        mask = np.zeros((11, 25), dtype=bool)
        mask[1:10, 1:10] = mask[1:10, 15:24] = mask[rows, 10:15] = True
        assert label_instances(mask, "watershed").max() == instances


def test_equal_peaks_of_one_dome_are_one_object() -> None:
    """Two chambers whose neck is less than h below their equal peaks; skimage's h_maxima gives two markers here."""
    from skimage.morphology import h_maxima

    mask = np.zeros((11, 25), dtype=bool)
    mask[1:10, 1:10] = mask[1:10, 15:24] = True
    mask[2:9, 10:15] = True  # 7 rows between 9: the neck is 1 below
    assert skimage_label(h_maxima(ndimage.distance_transform_edt(mask), 1.5)).max() == 2
    assert label_instances(mask, "watershed", h=1.5).max() == 1
    assert label_instances(mask, "watershed", h=0.9).max() == 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 2), (2, 9), (6, 6), (6, 17), (3, 4, 5)])
def test_watershed_keeps_convex_and_thin_objects_whole(shape: tuple[int, ...]) -> None:
    for margin in (1, 3):
        mask = np.pad(np.ones(shape, dtype=bool), margin)
        for h in (0.1, 1.0, 50.0):
            assert np.array_equal(label_instances(mask, "watershed", h=h), mask.astype(np.int32))


@pytest.mark.parametrize("method", ["components", "watershed"])
@pytest.mark.parametrize("shape", [(5, 6), (4, 5, 6), (0, 5)])
def test_nothing_and_everything(method: Any, shape: tuple[int, ...]) -> None:
    for value in (False, True):
        ours = label_instances(np.full(shape, value), method)
        assert ours.dtype == np.int32
        assert np.array_equal(ours, np.full(shape, int(value)))


def test_watershed_refines_components() -> None:
    mask = balls((60, 60), *(((5 + 7 * (i % 8), 6 + 9 * (i // 8)), 3.0 + i % 4) for i in range(48)))
    whole, cut = label_instances(mask), label_instances(mask, "watershed", h=0.5)
    assert_partition(cut, mask)
    assert cut.max() > whole.max()
    for index in range(1, cut.max() + 1):
        assert len(np.unique(whole[cut == index])) == 1


@pytest.mark.parametrize(
    ("mask", "options", "error", "message"),
    [
        (np.zeros((3, 3)), {}, TypeError, "the mask is float64, not .* threshold it first"),
        (torch.zeros(3, 3), {}, TypeError, "the mask is Tensor"),
        (np.zeros((1, 1, 3, 3), bool), {}, ValueError, r"\(1, 1, 3, 3\) is neither 2D nor 3D"),
        (np.array([[0, 1], [2, 2]]), {}, ValueError, r"classes \[1, 2\].*mask == 1"),
        (np.ones((3, 3), bool), {"method": "flow"}, ValueError, "method is 'flow'"),
        (np.ones((3, 3), bool), {"connectivity": 0}, ValueError, "connectivity is 0; it must be 1 to 2"),
        (np.ones((3, 3), bool), {"connectivity": 3}, ValueError, "connectivity is 3; it must be 1 to 2"),
        (np.ones((3, 3), bool), {"min_size": -1}, ValueError, "min_size is -1"),
        (np.ones((3, 3), bool), {"h": 2.0}, ValueError, "h is 2.0, .* no use for them: set method='watershed'"),
        (np.ones((3, 3), bool), {"spacing": (1, 1)}, ValueError, "'components' has no use for them"),
        (np.ones((3, 3), bool), {"method": "watershed", "h": 0}, ValueError, "h is 0; it must be above 0"),
        (np.ones((3, 3), bool), {"method": "watershed", "h": math.nan}, ValueError, "h is nan"),
        (np.ones((3, 3), bool), {"method": "watershed", "spacing": (1, 1, 1)}, ValueError, "must hold 2 values"),
        (np.ones((3, 3), bool), {"method": "watershed", "spacing": (1, 0)}, ValueError, "above 0 for a 2D mask"),
    ],
)
def test_bad_masks_and_options(mask: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        label_instances(mask, **options)
