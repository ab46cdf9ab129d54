"""Attention U-Net against MONAI's own network, and what padding may change."""

import re

import numpy as np
import pytest
import torch
from monai.networks.blocks.convolutions import Convolution
from monai.networks.nets.attentionunet import AttentionLayer, AttentionUnet
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn

from medseg.networks.attention_unet import AttentionUNet

TINY = (4, 6, 8)


@pytest.mark.parametrize("size", [(37, 64), (5, 6), (3, 9), (13, 18, 21)])
def test_contract(size: tuple[int, ...]) -> None:
    network = AttentionUNet(len(size), 2, 3, channels=TINY, dropout=0.1)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("norm", ["instance", None])
def test_contract_with_other_norms(norm: str | None) -> None:
    network = AttentionUNet(2, 1, 2, channels=TINY, norm=norm, act=("leakyrelu", {"negative_slope": 0.1}))
    assert_contract(network, torch.rand(2, 1, 37, 50), out_channels=2)


def test_exports() -> None:
    assert_exports(AttentionUNet(2, 1, 3, channels=TINY), torch.rand(1, 1, 18, 24))
    assert_exports(AttentionUNet(2, 1, 3, channels=(4, 6), norm=None), torch.rand(1, 1, 16, 20), onnx=False)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(AttentionUNet(spatial_dims, 1, 3, channels=TINY), spatial_dims)


@pytest.mark.parametrize(
    ("widths", "images", "classes", "paper", "exact"),
    [
        ((32, 64, 128, 256, 512), 3, 1, 8.91e6, 8_722_169),  # FocusNet++, table 2
        ((64, 128, 256, 512, 1024), 1, 5, None, 34_869_869),  # as LFA U-Net's comparison has it, unstated there
    ],
)
def test_parameters_are_the_papers(
    widths: tuple[int, ...], images: int, classes: int, paper: float | None, exact: int
) -> None:
    with torch.device("meta"):
        network = AttentionUNet(2, images, classes, channels=widths)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == exact  # what the weights of a release fit
    if paper is not None:
        assert parameters == pytest.approx(paper, rel=0.05)


def test_default_widths() -> None:
    with torch.device("meta"):
        parameters = sum(p.numel() for p in AttentionUNet(2, 1, 5).parameters())
    assert parameters == 34_869_869


def monais(dims: int, in_channels: int, out_channels: int, channels: tuple[int, ...]) -> AttentionUnet:
    """MONAI's network, its single convolution after each gate replaced by two of MONAI's with batch norm and ReLU."""
    network = AttentionUnet(dims, in_channels, out_channels, channels=channels, strides=[2] * (len(channels) - 1))
    for layer, fine in zip([m for m in network.modules() if isinstance(m, AttentionLayer)], channels[:-1], strict=True):
        layer.merge = nn.Sequential(
            *(Convolution(dims, before, fine, act="relu", norm="batch", bias=False) for before in (2 * fine, fine))
        )
    return network


MERGE = {"0": "0.conv", "1": "0.adn.N", "3": "1.conv", "4": "1.adn.N"}  # ours to MONAI's


def take_over(network: AttentionUNet, reference: AttentionUnet) -> None:
    """Give ``reference`` the weights of ``network``, and zeros for the biases that only the former has."""
    weights = {
        re.sub(r"merge\.(\d)", lambda found: f"merge.{MERGE[found[1]]}", name): value
        for name, value in network.network.state_dict().items()
    }
    missing, unexpected = reference.load_state_dict(weights, strict=False)
    assert unexpected == []
    for name in missing:
        assert name.endswith(".conv.bias")
        nn.init.zeros_(reference.get_parameter(name))


def randomise(network: nn.Module) -> None:
    for value in network.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) * 0.5 + 0.5 if value.ndim == 1 else torch.randn_like(value) * 0.2)


@pytest.mark.parametrize("size", [(32, 48), (4, 8), (8, 12, 16)])
def test_equals_monais(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, reference = AttentionUNet(len(size), 2, 3, channels=TINY), monais(len(size), 2, 3, TINY)
    randomise(network)
    take_over(network, reference)
    x = torch.rand(2, 2, *size)
    torch.testing.assert_close(network(x), reference(x))  # batch statistics
    torch.testing.assert_close(network.eval()(x), reference.eval()(x))


@pytest.mark.parametrize("size", [(33, 47), (1, 3), (5, 12, 14)])
def test_other_sizes_repeat_the_far_edge(size: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    network, reference = AttentionUNet(len(size), 1, 2, channels=TINY), monais(len(size), 1, 2, TINY)
    randomise(network)
    take_over(network, reference)
    x = torch.rand(1, 1, *size)
    widened = np.pad(x.numpy(), [(0, 0), (0, 0), *((0, -s % 4) for s in size)], mode="edge")
    expected = reference.eval()(torch.from_numpy(widened))[(..., *(slice(s) for s in size))]
    torch.testing.assert_close(network.eval()(x), expected)


def columns_changed(norm: str) -> Tensor:
    """Cut an image inside, so that it has to be padded; tell which columns of the logits that changes."""
    torch.manual_seed(2)
    network = AttentionUNet(2, 1, 2, channels=TINY, norm=norm).eval()
    x = torch.rand(1, 1, 16, 96)
    with torch.no_grad():
        return ((network(x)[..., :77] - network(x[..., :77])).abs() > 1e-6).flatten(0, 2).any(0)


def test_padding_changes_what_a_border_does() -> None:
    """From column 77 on, what is changed starts at 75 after the finest convolutions, at 36 of 39 below, at 17 of 20 at
    the bottom, at 31 and at 59 on the way up: the reach of the convolutions and no more."""
    changed = columns_changed("batch")
    assert not changed[:59].any()
    assert changed[-3:].any()


def test_instance_norm_sees_the_padding_everywhere() -> None:
    """The reason for which MONAI's instance normalisation after the gates is not the default."""
    assert columns_changed("instance").all()


def test_a_closed_gate_shuts_the_skip() -> None:
    """The gate multiplies: with its coefficients at zero, the finest encoder features reach the logits only by way of
    the level below."""
    torch.manual_seed(3)
    network = AttentionUNet(2, 1, 2, channels=(4, 6)).eval()
    layer = network.network.model[1]
    layer.attention.psi[1].bias.data.fill_(-1e4)  # sigmoid(-1e4) = 0
    fine = torch.randn(1, 4, 8, 8)
    below = layer.upconv(layer.submodule(fine))
    torch.testing.assert_close(layer(fine), layer.merge(torch.cat([torch.zeros_like(fine), below], 1)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8,)}, r"channels is \(8,\); give two or more levels"),
        ({"channels": (1, 2)}, "at least two channels"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"spatial_dims": 4}, "spatial_dims is 4"),
        ({"in_channels": 0}, "in_channels is 0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AttentionUNet(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **options})  # type: ignore[arg-type]
