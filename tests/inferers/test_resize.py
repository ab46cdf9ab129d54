"""Inference at one size."""

import pytest
import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from medseg.inferers.resize import ResizeInferer
from medseg.transforms.resize import ResizeImagesd


def twice(x: Tensor) -> Tensor:
    return torch.cat([x, -x], dim=1)


def test_network_sees_what_training_shows_it() -> None:
    image = torch.rand(2, 1, 37, 50)
    seen: list[Tensor] = []
    logits = ResizeInferer((16, 24))(image, lambda x: seen.append(x) or twice(x))  # type: ignore[func-returns-value]
    expected = ResizeImagesd("image", (16, 24))({"image": image[1]})["image"]
    torch.testing.assert_close(seen[0][1], expected)
    assert logits.shape == (2, 2, 37, 50)
    torch.testing.assert_close(logits[:, 0], -logits[:, 1])


def test_constant_images_stay() -> None:
    torch.testing.assert_close(
        ResizeInferer((8, 8, 8))(torch.full((1, 1, 5, 9, 20), 0.3), twice)[:, :1], torch.full((1, 1, 5, 9, 20), 0.3)
    )


def test_the_right_size_is_left_alone() -> None:
    image = torch.rand(1, 3, 16, 16)
    assert ResizeInferer((16, 16))(image, lambda x: x) is image


def test_inner_inferer() -> None:
    inner = SlidingWindowInferer((8, 8), sw_batch_size=2, overlap=0)
    assert ResizeInferer((16, 16), inner)(torch.rand(1, 1, 20, 33), twice).shape == (1, 2, 20, 33)


def test_bad_sizes() -> None:
    with pytest.raises(ValueError, match=r"spatial_size is \[16, 0\]"):
        ResizeInferer((16, 0))
    with pytest.raises(ValueError, match=r"2 spatial dimensions \(4, 4\), the inferer has 3 \(16, 16, 16\)"):
        ResizeInferer((16, 16, 16))(torch.rand(1, 1, 4, 4), twice)


def test_slices_of_a_volume() -> None:
    volume = torch.rand(1, 1, 20, 30, 11)
    logits = ResizeInferer((16, 16))(volume, twice)
    torch.testing.assert_close(logits[..., 9], ResizeInferer((16, 16))(volume[..., 9], twice))
