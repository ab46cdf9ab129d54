"""Negatives of values on both sides of 0, where 0 stands for no value; and channels of one value, which become 0."""

import pytest
import torch

from medseg.transforms.scales import Polarityd, ZScored


@pytest.mark.parametrize("kind", [torch.float32, torch.int16])
def test_a_value_that_would_become_none_stays_one(kind: torch.dtype) -> None:
    """Of -4 to 10 the negative of 6 is 0: it would be taken for padding, and so left out of the scale."""
    image = torch.tensor([[[0, -4, 6, 6, 7, 10, 0]]], dtype=kind)
    turned = Polarityd("image", "bright", nonzero=True)({"image": image})["image"]
    assert turned.dtype == kind
    assert torch.equal(turned == 0, image == 0)
    exact = torch.tensor([[[0, 10, 0, 0, -1, -4, 0]]])
    assert (turned - exact).abs().max() <= 1
    assert kind == torch.int16 or torch.equal(turned.round(), exact.to(kind))
    if kind == torch.float32:
        scaled = ZScored("image", nonzero=True)({"image": turned})["image"]
        seen = image != 0
        values = exact[seen].to(kind)
        assert torch.allclose(scaled[seen], (values - values.mean()) / values.std(unbiased=False), atol=1e-6)


@pytest.mark.parametrize("value", [0.1, -55.55, 1000.7, 1e-8])
@pytest.mark.parametrize("nonzero", [False, True])
def test_a_channel_of_one_value_is_0_though_its_mean_is_rounded(value: float, nonzero: bool) -> None:
    image = torch.full((2, 50, 51), value)
    image[1, 7, 8] += 2 * value  # which is no such channel
    scaled = ZScored("image", nonzero=nonzero)({"image": image})["image"]
    assert not scaled[0].any()
    assert scaled[1].std(unbiased=False) == pytest.approx(1, rel=1e-4)
