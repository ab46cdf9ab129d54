"""The U-Net with self-attention against torch's attention and against the plain U-Net."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes

from medseg.networks.self_attention_unet import SelfAttention, SelfAttentionUNet
from medseg.networks.unet import UNet


@pytest.mark.parametrize("size", [(37, 64), (5, 9), (15, 32, 20)])
def test_contract(size: tuple[int, ...]) -> None:
    network = SelfAttentionUNet(len(size), 2, 3, channels=(8, 16, 32), dropout=0.1)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_exports() -> None:
    assert_exports(SelfAttentionUNet(2, 1, 3, channels=(4, 8)), torch.rand(1, 1, 20, 24))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(SelfAttentionUNet(spatial_dims, 1, 3, channels=(4, 6, 8)), spatial_dims)


def test_parameters_are_the_unets_and_three_projections() -> None:
    with torch.device("meta"):
        network = SelfAttentionUNet(2, 1, 5)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(31.04e6 + 3 * 1024**2, rel=0.01)
    assert parameters == 34_185_541  # what the weights of a release fit


@pytest.mark.parametrize("size", [(5, 6), (3, 4, 2)])
@pytest.mark.parametrize("scale", [1.0, None])
def test_is_torch_multihead_attention_and_the_map(size: tuple[int, ...], scale: float | None) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(8, scale)
    query, key, value = layer.attention.query, layer.attention.key, layer.attention.value
    reference = torch.nn.MultiheadAttention(8, 1, batch_first=True)
    factor = 1.0 if scale is None else scale * 8**0.5  # torch's own scale is 1 / sqrt(C)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([factor * query.weight, key.weight, value.weight]))
        reference.in_proj_bias.copy_(torch.cat([factor * query.bias, key.bias, value.bias]))
        reference.out_proj.weight.copy_(torch.eye(8))
        reference.out_proj.bias.zero_()
    x = torch.randn(2, 8, *size)
    tokens = x.flatten(2).transpose(1, 2)
    attended, _ = reference(tokens, tokens, tokens)
    torch.testing.assert_close(layer(x), x + attended.transpose(1, 2).reshape(x.shape))


def test_without_values_it_is_the_unet() -> None:
    """The attention stands behind the bottom's convolutions, and the features also pass by it."""
    torch.manual_seed(1)
    network, unet = (kind(2, 1, 3, channels=(4, 6, 8)).eval() for kind in (SelfAttentionUNet, UNet))
    weights = {name.replace("blocks.2.0.", "blocks.2."): value for name, value in network.state_dict().items()}
    unet.load_state_dict({name: value for name, value in weights.items() if "attention" not in name})
    x = torch.rand(2, 1, 11, 14)
    assert not torch.allclose(network(x), unet(x))
    for parameter in network.encoder.blocks[2][1].attention.value.parameters():
        torch.nn.init.zeros_(parameter)
    torch.testing.assert_close(network(x), unet(x), rtol=0, atol=0)


@pytest.mark.parametrize("size", [(13, 18), (5, 9, 6)])
def test_attention_is_torch_multihead_attentions_weights(size: tuple[int, ...]) -> None:
    torch.manual_seed(2)
    network = SelfAttentionUNet(len(size), 1, 3, channels=(4, 6, 8), scale=None, norm="instance")
    image = torch.rand(2, 1, *size)
    block, layer = network.encoder.blocks[-1][0], network.encoder.blocks[-1][1].attention
    reference = torch.nn.MultiheadAttention(8, 1, batch_first=True)
    with torch.no_grad():
        torch.nn.init.normal_(layer.query.weight)
        reference.in_proj_weight.copy_(torch.cat([layer.query.weight, layer.key.weight, layer.value.weight]))
        reference.in_proj_bias.copy_(torch.cat([layer.query.bias, layer.key.bias, layer.value.bias]))
        x = image
        for finer in network.encoder.blocks[:-1]:
            x = network.encoder.pools[1](finer(x))
        x = block(x)
        tokens = x.flatten(2).transpose(1, 2)
        _, weights = reference(tokens, tokens, tokens)  # (B, queries, keys)
        shown = network.attention(image)
    assert set(shown) == {"bottom"}
    expected = (weights.mean(1) * weights.shape[2]).reshape(2, 1, *x.shape[2:])
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(shown["bottom"], expected)
    assert not layer._forward_pre_hooks


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8,)}, "two or more levels"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of .*batch"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SelfAttentionUNet(2, 1, 5, **options)  # type: ignore[arg-type]
