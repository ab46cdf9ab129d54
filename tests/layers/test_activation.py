"""Which activations overwrite, and that gradients survive it."""

import pytest
import torch
from torch import nn

from medseg.layers.activation import activation


@pytest.mark.parametrize("act", ["relu", ("leakyrelu", {"negative_slope": 0.3}), "prelu", ("elu", {"inplace": True})])
@pytest.mark.parametrize("overwrite", [True, False])
def test_overwrites_only_what_it_may(act: str | tuple[str, dict[str, object]], overwrite: bool) -> None:
    layer = activation(act, overwrite=overwrite)
    x = torch.linspace(-1, 1, 5)
    kept = x.clone()
    layer(x)
    assert torch.equal(x, kept) is not (overwrite and isinstance(layer, nn.ReLU | nn.LeakyReLU))


@pytest.mark.parametrize("act", ["relu", ("leakyrelu", {"negative_slope": 0.3})])
def test_gradient_is_the_same(act: str | tuple[str, dict[str, object]]) -> None:
    gradients = []
    for overwrite in (True, False):
        norm, x = nn.BatchNorm1d(3), torch.linspace(-1, 2, 12).reshape(4, 3).requires_grad_()
        (activation(act, overwrite=overwrite)(norm(x)) * torch.arange(12.0).reshape(4, 3)).sum().backward()
        gradients.append(x.grad)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)


def test_arguments_are_kept() -> None:
    layer = activation(("leakyrelu", {"negative_slope": 0.3}), overwrite=True)
    assert isinstance(layer, nn.LeakyReLU)
    assert layer.negative_slope == 0.3
