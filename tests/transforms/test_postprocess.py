"""Steps on predicted masks, against figures by hand and scikit-image."""

from typing import Any

import numpy as np
import pytest
from skimage.measure import label as parts_of

from medseg.errors import MedsegError
from medseg.transforms.postprocess import Postprocess, Steps

NAMES = ["background", "one", "two"]


@pytest.fixture
def mask() -> Any:
    """Class 1: a ring of 8 with a hole, a ring round class 2, a speck; class 2: in the ring, and a pair."""
    array = np.zeros((12, 14), np.uint8)
    array[1:4, 1:4] = 1
    array[2, 2] = 0
    array[5:10, 5:10] = 1
    array[6:9, 6:9] = 2
    array[6, 6] = 0
    array[11, 13] = 1
    array[0, 12:14] = 2
    return array


def test_nothing_to_do_is_nothing_done(mask: Any) -> None:
    assert Postprocess({}, NAMES)(mask, None) is mask
    np.testing.assert_array_equal(Postprocess({"one": {}}, NAMES)(mask, None), mask)


def test_largest_part(mask: Any) -> None:
    done = Postprocess({"one": {"largest": True}}, NAMES)(mask, None)
    expected = mask.copy()
    expected[1:4, 1:4] = expected[11, 13] = 0
    np.testing.assert_array_equal(done, expected)
    assert done.dtype == mask.dtype


def test_small_parts_in_pixels_and_cubic_millimetres(mask: Any) -> None:
    done = Postprocess({"one": {"min_size": 8}, "two": {"min_size": 3}}, NAMES)(mask, None)
    assert (done == 1).sum() == (mask == 1).sum() - 1  # the speck alone; the ring has 8
    assert done[0, 12] == 0
    volume = np.repeat(mask[:, :, None], 2, 2)
    affine = np.diag([-0.5, 2.0, 1.5, 1.0])  # 1.5 cubic mm: the speck has 3, the ring 24
    for size, parts in ((3.0, 3), (3.1, 2), (24.0, 2), (24.1, 1)):
        found = Postprocess({"one": {"min_size": size}}, NAMES)(volume, affine)
        assert parts_of(found == 1, connectivity=3).max() == parts


def test_holes_take_background_alone(mask: Any) -> None:
    done = Postprocess({"one": {"fill_holes": True}}, NAMES)(mask, None)
    expected = mask.copy()
    expected[2, 2] = expected[6, 6] = 1  # class 2 inside the ring stays
    np.testing.assert_array_equal(done, expected)
    edge = np.zeros((4, 4), np.uint8)
    edge[0, 0] = edge[0, 2] = edge[1, :3] = 1
    np.testing.assert_array_equal(Postprocess({"one": {"fill_holes": True}}, NAMES)(edge, None), edge)


def test_against_scikit_image() -> None:
    random = np.random.default_rng(0).random((20, 20, 20)) < 0.4
    filled = Steps(fill_holes=True).apply(random, ~random, 1.0)
    outside = parts_of(~np.pad(random, 1), connectivity=1)
    open_air = (outside == outside[0, 0, 0])[1:-1, 1:-1, 1:-1]
    np.testing.assert_array_equal(filled, ~open_air)
    parts = parts_of(random, connectivity=3)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    np.testing.assert_array_equal(Steps(largest=True).apply(random, ~random, 1.0), parts == sizes.argmax())
    np.testing.assert_array_equal(Steps(min_size=4).apply(random, ~random, 1.0), (sizes >= 4)[parts])


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ({"three": {}}, "postprocess names the class 'three'; the classes are background, one, two"),
        ({"background": {"largest": True}}, "has steps for 'background', class 0"),
        ({"one": {"larges": True}}, "postprocess of 'one' has no step 'larges'; there are min_size, largest"),
        ({"one": {"largest": 1}}, "postprocess of 'one': largest is 1; give true or false"),
        ({"one": {"min_size": -1}}, "postprocess of 'one': min_size is -1"),
        ({"one": {"min_size": True}}, "min_size is True"),
        ({"one": "largest"}, "postprocess of 'one' is 'largest'; give steps among"),
        ("largest", "postprocess is 'largest'; give steps by class"),
    ],
)
def test_bad_steps(steps: Any, message: str) -> None:
    with pytest.raises(MedsegError, match=message):
        Postprocess(steps, NAMES)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_holes_of_a_picture_that_is_stored_as_a_volume(mask: Any, axis: int) -> None:
    """Each hole reaches the border along the axis of one voxel, so that none was filled."""
    steps = {"one": {"fill_holes": True, "largest": True}}
    done = Postprocess(steps, NAMES)(np.expand_dims(mask, axis), np.eye(4))
    np.testing.assert_array_equal(done, np.expand_dims(Postprocess(steps, NAMES)(mask, None), axis))
    assert done.sum() != mask.sum()
