"""Order of the layers, sizes, and whose map an activation may overwrite."""

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d

from medseg.layers.pre_activation import PreActivation


@pytest.mark.parametrize(("size", "stride"), [((9, 12), 1), ((9, 12), 2), ((1, 3), 2), ((5, 6, 7), 2)])
@pytest.mark.parametrize("kernel_size", [1, 3])
def test_size_is_kept_or_halved_upwards(size: tuple[int, ...], stride: int, kernel_size: int) -> None:
    layer = PreActivation(len(size), 4, 6, kernel_size, stride=stride)
    assert layer(torch.rand(2, 4, *size)).shape == (2, 6, *(-(-s // stride) for s in size))


def test_order_is_normalisation_activation_convolution() -> None:
    torch.manual_seed(0)
    layer = PreActivation(2, 4, 6, groups=2)
    x = 2 * torch.randn(3, 4, 5, 5) + 1
    normalised = (x - x.mean((0, 2, 3), keepdim=True)) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    kernel, bias = layer[2].weight, layer[2].bias
    halves = [conv2d(normalised.relu()[:, 2 * i : 2 * i + 2], kernel[3 * i : 3 * i + 3], padding=1) for i in (0, 1)]
    torch.testing.assert_close(layer(x), torch.cat(halves, 1) + bias[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("act", ["relu", ("leakyrelu", {"inplace": True}), ("elu", {"inplace": True})])
def test_the_input_stays_as_it_is(act: str | tuple[str, dict[str, object]], norm: str | None) -> None:
    layer = PreActivation(2, 4, 4, act=act, norm=norm)
    x = torch.randn(2, 4, 5, 5)
    kept = x.clone()
    layer(x)
    assert torch.equal(x, kept)


def test_bias_is_optional() -> None:
    assert PreActivation(2, 4, 4)[2].bias is not None
    assert PreActivation(2, 4, 4, bias=False)[2].bias is None
    assert isinstance(PreActivation(2, 4, 4, norm=None)[0], nn.Identity)
