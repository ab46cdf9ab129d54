"""The U-Net's parts: names of layers, sizes on the way down, and the whole against its definition."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, max_pool2d

from medseg.layers.conv_block import ConvBlock, Named
from medseg.layers.unet import UNetSkeleton
from medseg.layers.unet_decoder import Concatenation, DecoderLevel
from medseg.layers.unet_encoder import UNetEncoder
from medseg.networks.unet import UNet


def test_block_leaves_out_biases_that_a_normalisation_takes_away() -> None:
    def biases(block: ConvBlock) -> list[bool]:
        return [layer.bias is not None for layer in block if isinstance(layer, nn.Conv2d)]

    assert biases(ConvBlock(2, 1, 4)) == [False, False]
    assert biases(ConvBlock(2, 1, 4, norm=None)) == [True, True]


def test_layers_by_name_and_arguments() -> None:
    block = ConvBlock(3, 1, 4, act=("leakyrelu", {"negative_slope": 0.2}), norm=("group", {"num_groups": 2}))
    kinds = [type(layer) for layer in block]
    assert kinds == [nn.Conv3d, nn.GroupNorm, nn.LeakyReLU] * 2
    assert block[2].negative_slope == 0.2


@pytest.mark.parametrize("option", ["act", "norm"])
def test_unknown_layers_are_named_with_the_choices(option: str) -> None:
    with pytest.raises(ValueError, match=rf"{option} is 'bathc'; choose one of .*, "):
        ConvBlock(2, 1, 4, **{option: "bathc"})
    with pytest.raises(ValueError, match="bathc"):
        UNet(2, 1, 2, channels=(4, 8), **{option: ("bathc", {})})


@pytest.mark.parametrize("size", [(37, 50), (1, 3), (5, 6, 7)])
def test_pooling_rounds_up(size: tuple[int, ...]) -> None:
    encoder = UNetEncoder(len(size), 1, (2, 3, 4), norm=None)
    features = encoder(torch.rand(1, 1, *size))
    expected = [(1, c, *(-(-s // 2**level) for s in size)) for level, c in enumerate((2, 3, 4))]
    assert [tuple(f.shape) for f in features] == expected


def test_an_odd_edge_is_pooled_over_the_pixels_that_are_there() -> None:
    """Negative features would lose against zeros, if there were any."""
    pool = UNetEncoder(2, 1, (2, 3)).pools[1]
    x = -torch.rand(1, 1, 5, 5) - 1
    assert torch.equal(pool(x)[0, 0, 2], torch.stack([x[0, 0, 4, :2].max(), x[0, 0, 4, 2:4].max(), x[0, 0, 4, 4]]))


def test_strides_pool_thick_slices_later() -> None:
    encoder = UNetEncoder(3, 1, (2, 3, 4), norm=None, strides=[(2, 2, 1), 2])
    features = encoder(torch.rand(1, 1, 9, 8, 5))
    assert [tuple(f.shape[2:]) for f in features] == [(9, 8, 5), (5, 4, 5), (3, 2, 3)]
    network = UNet(3, 1, 2, channels=(2, 3, 4), strides=[(2, 2, 1), 2])
    assert network(torch.rand(2, 1, 9, 8, 5)).shape == (2, 2, 9, 8, 5)


def test_a_stride_of_two_is_the_default() -> None:
    torch.manual_seed(0)
    usual, named = UNet(2, 1, 2, channels=(2, 3, 4)).eval(), UNet(2, 1, 2, channels=(2, 3, 4), strides=[2, (2, 2)])
    named.load_state_dict(usual.state_dict())
    image = torch.rand(1, 1, 11, 14)
    assert torch.equal(usual(image), named.eval()(image))


@pytest.mark.parametrize(
    ("strides", "message"),
    [
        ([2], r"strides is \[2\]; give 2 of them"),
        ([2, (2, 2, 2)], "or one for each of 2 axes"),
        ([0, 2], "a number of at least 1"),
        ([True, 2], r"strides is \[True, 2\]"),
        ([(2, "2"), 2], r"strides is \[\(2, '2'\), 2\]"),
    ],
)
def test_strides_that_do_not_fit_are_refused(strides: list[int | tuple[int, ...]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        UNet(2, 1, 2, channels=(2, 3, 4), strides=strides)


def test_decoder_takes_the_encoders_size() -> None:
    level = DecoderLevel(2, 8, 4, _Sum(), 4)
    assert level(torch.rand(2, 4, 5, 7), torch.rand(2, 8, 3, 4)).shape == (2, 4, 5, 7)


class _Sum(nn.Module):
    def forward(self, encoder: Tensor, decoder: Tensor) -> Tensor:
        return encoder + decoder


def test_equals_the_definition() -> None:
    """The U-Net written out with functions, over the network's own weights."""
    network = UNet(2, 1, 3, channels=(4, 6, 8), norm=None)
    weights = dict(network.named_parameters())

    def block(x: Tensor, name: str) -> Tensor:
        for layer in ("0", "2"):
            x = conv2d(x, weights[f"{name}.{layer}.weight"], weights[f"{name}.{layer}.bias"], padding=1).relu()
        return x

    def up(x: Tensor, name: str) -> Tensor:
        return conv_transpose2d(x, weights[f"{name}.up.weight"], weights[f"{name}.up.bias"], stride=2)

    x = torch.rand(2, 1, 12, 16)
    fine = block(x, "encoder.blocks.0")
    middle = block(max_pool2d(fine, 2), "encoder.blocks.1")
    deep = block(max_pool2d(middle, 2), "encoder.blocks.2")
    middle = block(torch.cat([middle, up(deep, "decoder.0")], 1), "decoder.0.block")
    fine = block(torch.cat([fine, up(middle, "decoder.1")], 1), "decoder.1.block")
    expected = conv2d(fine, weights["head.weight"], weights["head.bias"])
    torch.testing.assert_close(network(x), expected)


def test_the_skeleton_alone_is_the_unet() -> None:
    skeleton, network = UNetSkeleton(2, 1, 3, channels=(4, 6, 8)).eval(), UNet(2, 1, 3, channels=(4, 6, 8)).eval()
    skeleton.load_state_dict(network.state_dict())
    x = torch.rand(1, 1, 9, 10)
    assert torch.equal(skeleton(x), network(x))


def test_names_of_weights_are_those_of_released_networks() -> None:
    names = {name.rsplit(".", 1)[0] for name, _ in UNet(2, 1, 3, channels=(4, 6)).named_parameters()}
    blocks = ("encoder.blocks.0", "encoder.blocks.1", "decoder.0.block")
    assert names == {f"{block}.{layer}" for block in blocks for layer in (0, 1, 3, 4)} | {"decoder.0.up", "head"}


def test_blocks_can_be_replaced() -> None:
    made: list[tuple[object, ...]] = []

    def make(kind: str, dims: int, before: int, after: int, act: Named, norm: Named | None) -> nn.Module:
        made.append((kind, dims, before, after, act, norm))
        return nn.Conv2d(before, after, 1)

    network = UNetSkeleton(
        2,
        3,
        2,
        channels=(4, 6, 8),
        block=lambda *given: make("block", *given),
        bottom=lambda *given: make("bottom", *given),
        act="prelu",
        norm="instance",
    )
    options = ("prelu", "instance")
    assert made == [
        ("block", 2, 3, 4, *options),
        ("block", 2, 4, 6, *options),
        ("bottom", 2, 6, 8, *options),
        ("block", 2, 12, 6, *options),
        ("block", 2, 8, 4, *options),
    ]
    assert network(torch.rand(1, 3, 7, 5)).shape == (1, 2, 7, 5)


def test_enlargement_can_be_replaced() -> None:
    def up(coarse: int, fine: int) -> nn.Module:
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(coarse, fine, 1))

    network = UNetSkeleton(2, 1, 2, channels=(4, 6, 8), up=up)
    assert [(level.up[1].in_channels, level.up[1].out_channels) for level in network.decoder] == [(8, 6), (6, 4)]
    assert network(torch.rand(2, 1, 7, 5)).shape == (2, 2, 7, 5)


def test_concatenation_puts_the_encoder_first() -> None:
    encoder, decoder = torch.rand(2, 1, 3, 4, 4)
    joined = Concatenation()(encoder, decoder)
    assert torch.equal(joined[:, :3], encoder)
    assert torch.equal(joined[:, 3:], decoder)
