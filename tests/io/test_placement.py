"""Affines compared where it shows, orientation letters, EXIF undone."""

import nibabel
import numpy as np
import pytest
from PIL import Image, ImageOps

from medseg.io.placement import compare, describe, orientation, right_handed, spacing_of, to_stored, to_upright


def test_difference_is_measured_at_the_corners():
    first = np.diag([1.0, 2.0, 4.0, 1.0])
    second = np.diag([1.0, 2.0, 4.4, 1.0])
    apart = compare(first, second, (5, 5, 10))
    assert apart.voxels == pytest.approx(0.95)  # 9.5 voxels x 0.4 mm / 4 mm
    assert apart.mm == pytest.approx(3.8)
    assert apart.origin == (0, 0, 0)
    assert not apart.same
    assert compare(first, first, (5, 5, 10)).voxels == 0
    assert compare(first, second, (5, 5)).voxels == pytest.approx(0.05)  # a picture has one voxel along z


@pytest.mark.parametrize("broken", [np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)])
def test_what_places_nothing_lies_nowhere(broken):
    assert not compare(broken, np.eye(4), (3, 3, 3)).same
    assert not compare(np.eye(4), np.where(np.isnan(broken), np.nan, 2 * broken), (3, 3, 3)).same


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PSR", "LAS", "IPL"])
def test_letters_and_hands(axes):
    affine = nibabel.orientations.inv_ornt_aff(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(axes)
        ),
        (3, 4, 5),
    )
    assert orientation(affine) == axes
    assert right_handed(affine) == (np.linalg.det(affine) > 0)
    assert describe(affine).startswith(f"{axes}, origin (")


def test_right_handed():
    assert right_handed(np.diag([-1.0, -1, 1, 1]))
    assert not right_handed(np.diag([-1.0, 1, 1, 1]))
    assert spacing_of(np.array([[0, -2, 0, 9], [3, 0, 0, 9], [0, 0, 4, 9], [0, 0, 0, 1.0]])) == (3, 2, 4)


@pytest.mark.parametrize("tag", range(1, 9))
def test_upright_as_pillow_does_it_and_back(tag):
    stored = np.arange(12, dtype=np.uint8).reshape(3, 4)
    picture = Image.fromarray(stored)
    picture.getexif()[0x112] = tag
    upright = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(to_upright(stored, tag), upright)
    np.testing.assert_array_equal(to_stored(upright, tag), stored)
    stack = np.stack([stored, stored + 1])
    np.testing.assert_array_equal(to_stored(to_upright(stack, tag), tag), stack)
