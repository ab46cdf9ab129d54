"""Normalisation of image batches."""

import pytest
import torch
from torchvision.transforms.functional import normalize

from medseg.transforms.normalise import IMAGENET_MEAN, IMAGENET_STD, ImageNormalisation


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32])
def test_equals_torchvision(kind: torch.dtype) -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8)
    expected = normalize(pixels.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    found = ImageNormalisation()(pixels.to(kind))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_one_value_serves_all_channels_of_a_volume() -> None:
    volume = torch.randn(1, 4, 3, 5, 6) * 400
    found = ImageNormalisation([-100.0], [250.0], scale=1.0)(volume)
    torch.testing.assert_close(found, (volume + 100) / 250)


def test_memory_format_stays() -> None:
    pixels = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    assert ImageNormalisation()(pixels).is_contiguous(memory_format=torch.channels_last)


def test_nothing_is_stored_with_weights() -> None:
    assert ImageNormalisation().state_dict() == {}
    assert "mean=[0.5]" in repr(ImageNormalisation([0.5], [0.5]))


def test_it_follows_the_images() -> None:
    normalise = ImageNormalisation()
    with torch.inference_mode():
        assert normalise(torch.zeros(1, 3, 2, 2, device="meta")).device.type == "meta"
    assert normalise(torch.zeros(1, 3, 2, 2, device="meta", requires_grad=True)).requires_grad
    assert not normalise.factor.is_inference()


def test_bad_use() -> None:
    with pytest.raises(ValueError, match=r"mean \[0.5, 0.5\] and std \[1.0\] must have one value for each channel"):
        ImageNormalisation([0.5, 0.5], [1.0])
    for std, scale in (([0.0], 1.0), ([1.0], 0.0)):
        with pytest.raises(ValueError, match="they must be above 0"):
            ImageNormalisation([0.5], std, scale)
    with pytest.raises(ValueError, match=r"images of shape \(1, 1, 4, 4\) do not have the 3 channels"):
        ImageNormalisation()(torch.rand(1, 1, 4, 4))
