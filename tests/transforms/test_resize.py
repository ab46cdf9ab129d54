"""Resizing images."""

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from PIL import Image

from medseg.transforms.resize import ResizeImagesd, resize_images


@pytest.mark.parametrize("stored", [(37, 64), (37, 1), (1, 64), (11, 2)])
@pytest.mark.parametrize("size", [(8, 8), (50, 41), (8, 90), (9, 1), (1, 9), (1, 1)])
def test_equals_pillow(stored: tuple[int, int], size: tuple[int, int]) -> None:
    """Pillow's bilinear filter widens with the scale too."""
    images = np.random.default_rng(0).random((3, *stored), dtype=np.float32)
    expected = [np.array(Image.fromarray(each).resize(size[::-1], Image.Resampling.BILINEAR)) for each in images]
    batch = torch.from_numpy(images)[None]
    for given in (batch, batch.contiguous(memory_format=torch.channels_last)):
        np.testing.assert_allclose(resize_images(given, size)[0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [(8, 8, 8), (40, 3, 9)])
def test_brightness_stays(size: tuple[int, int, int]) -> None:
    constant = torch.full((1, 2, 16, 5, 20), 0.3)
    torch.testing.assert_close(resize_images(constant, size), torch.full((1, 2, *size), 0.3))


def test_volumes_are_averaged_where_they_shrink() -> None:
    volume = torch.zeros(1, 1, 8, 8, 4)
    volume[:, :, ::2] = 1  # plain interpolation to a quarter would miss every other plane, or none
    torch.testing.assert_close(resize_images(volume, (2, 8, 4)), torch.full((1, 1, 2, 8, 4), 0.5))


def test_dictionary() -> None:
    sample = {"image": MetaTensor(torch.rand(3, 6, 8)), "label": torch.ones(1, 6, 8)}
    resized = ResizeImagesd("image", [3, 4])(sample)
    assert type(resized["image"]) is torch.Tensor
    assert resized["image"].shape == (3, 3, 4)
    assert resized["label"] is sample["label"]


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match=r"spatial_size is \[4, 0\]; give an edge of at least 1"):
        resize_images(torch.rand(1, 1, 5, 5), (4, 0))
    with pytest.raises(ValueError, match=r"spatial_size is \[4\], but the image has the size \[5, 5\]; give 2 edges"):
        resize_images(torch.rand(1, 1, 5, 5), (4,))
