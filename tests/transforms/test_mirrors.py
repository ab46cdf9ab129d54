"""Which axes transforms mirror along is what they do to a sample."""

import numpy as np
import pytest
import torch
from monai.transforms import Compose, Flipd, OneOf, RandAxisFlipd, RandFlipd, RandRotate90d

from medseg.transforms.augmentation import augmentation
from medseg.transforms.mirrors import mirrored
from medseg.transforms.scene import RandMirrord

KEYS = ["image", "label"]


@pytest.mark.parametrize(
    ("transform", "axes"),
    [
        (RandFlipd(KEYS, prob=1, spatial_axis=1), [1]),
        (RandFlipd(KEYS, prob=1, spatial_axis=-1), [2]),
        (RandFlipd(KEYS, prob=1, spatial_axis=(0, 2)), [0, 2]),
        (RandFlipd(KEYS, prob=1), [0, 1, 2]),
        (Flipd(KEYS, spatial_axis=0), [0]),
        (RandMirrord(KEYS, -2, prob=1), [1]),
        (Compose([OneOf([RandFlipd(KEYS, prob=1, spatial_axis=2)])]), [2]),
    ],
)
def test_axes_are_those_that_are_turned_over(transform, axes):
    (found,) = mirrored([transform], 3).values()
    image = torch.arange(24.0).reshape(1, 2, 3, 4)
    made = transform({"image": image, "label": image})["image"]
    assert found == axes
    np.testing.assert_array_equal(np.asarray(made), image.flip([axis + 1 for axis in axes]).numpy())


def test_what_is_drawn_from_all_axes_counts_for_each():
    assert mirrored([RandAxisFlipd(KEYS)], 2) == {"RandAxisFlipd": [0, 1]}
    assert mirrored([augmentation((8, 8, 8), mirror_axes=[0, 2])], 3) == {"RandMirrord": [0, 2]}


def test_rotations_exchange_nothing():
    assert mirrored([RandRotate90d(KEYS), augmentation((8, 8), mirror_axes=[])], 2) == {}
