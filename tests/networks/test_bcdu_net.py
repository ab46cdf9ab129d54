"""BCDU-Net: the authors' parameter count, the order of its sequences, its dense bottom."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import nn
from torch.nn.functional import conv2d

from medseg.networks.bcdu_net import BCDUNet, ConvLSTMMerge, DenseBottom


@pytest.mark.parametrize("size", [(37, 64), (5, 9), (15, 32, 20)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_contract(size: tuple[int, ...], bidirectional: bool) -> None:
    network = BCDUNet(len(size), 2, 3, channels=(8, 16, 32), bidirectional=bidirectional, dropout=0.1)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_exports(bidirectional: bool) -> None:
    network = BCDUNet(2, 1, 3, channels=(4, 8), bidirectional=bidirectional)
    assert_exports(network, torch.rand(1, 1, 20, 24), onnx=bidirectional)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(BCDUNet(spatial_dims, 1, 3, channels=(4, 6, 8), bidirectional=True), spatial_dims)


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = BCDUNet(2, 3, 1)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(20.66e6, rel=0.02)
    # the authors' Keras graph counts 20,659,973 trainable ones: it has a head of 64 -> 2 -> 1 channels, and biases
    # before the normalisations
    their_head, our_head = (64 * 2 * 9 + 2) + (2 + 1), 64 + 1
    assert parameters - our_head + their_head + (256 + 128 + 64) == 20_659_973


def test_both_directions_cost_a_second_lstm_and_a_convolution() -> None:
    with torch.device("meta"):
        one, both = (
            sum(p.numel() for p in BCDUNet(2, 3, 1, bidirectional=option).parameters()) for option in (False, True)
        )
    states = (128, 64, 32)
    lstms = sum(4 * h * ((2 * h + h) * 9 + 1) for h in states)
    assert both - one == lstms + sum(2 * h * h * 9 + h for h in states)
    assert both == 23_369_057  # what the weights of a release fit


def test_the_sequence_ends_with_the_encoder() -> None:
    torch.manual_seed(0)
    merge = ConvLSTMMerge(2, 4, 2)
    encoder, decoder = torch.randn(2, 1, 4, 5, 6)
    torch.testing.assert_close(merge(encoder, decoder), merge.to_encoder([decoder, encoder]))
    assert not torch.allclose(merge(encoder, decoder), merge(decoder, encoder))


def test_both_directions_are_joined_as_the_text_has_it() -> None:
    """Y = tanh(W * H> + W' * H< + b), with a kernel for each direction."""
    torch.manual_seed(1)
    merge = ConvLSTMMerge(2, 4, 3, bidirectional=True)
    encoder, decoder = torch.randn(2, 1, 4, 5, 6)
    assert isinstance(merge.join, nn.Conv2d)
    assert merge.to_decoder is not None
    first, second = merge.join.weight.chunk(2, dim=1)
    expected = conv2d(merge.to_encoder([decoder, encoder]), first, padding=1)
    expected = expected + conv2d(merge.to_decoder([encoder, decoder]), second, merge.join.bias, padding=1)
    torch.testing.assert_close(merge(encoder, decoder), expected.tanh())


@pytest.mark.parametrize("blocks", [1, 2, 4])
def test_each_dense_block_sees_all_before_it(blocks: int) -> None:
    torch.manual_seed(2)
    bottom = DenseBottom(2, 3, 4, blocks=blocks)
    x = torch.randn(2, 3, 6, 5)
    results = [bottom.first(x)]
    for number, block in enumerate(bottom.further, start=1):
        assert block[0].in_channels == 4 * number
        results.append(block(torch.cat(results, 1)))
    assert len(results) == blocks
    torch.testing.assert_close(bottom(x), results[-1])


def test_only_enlargements_are_normalised() -> None:
    network = BCDUNet(2, 1, 2, channels=(4, 6, 8))
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms == ["decoder.0.up.1", "decoder.1.up.1"]
    assert [level.up[0].bias for level in network.decoder] == [None, None]
    bare = BCDUNet(2, 1, 2, channels=(4, 6, 8), norm=None)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in bare.modules())
    assert all(level.up[0].bias is not None for level in bare.decoder)


def test_features_neither_vanish_nor_explode_on_the_way_down() -> None:
    """No normalisation there: the weights' start has to do it (torch's own leaves a mean square of 1e-4)."""
    torch.manual_seed(3)
    network = BCDUNet(2, 3, 1, channels=(32, 64, 128, 256))
    with torch.no_grad():
        features = network.encoder(torch.randn(2, 3, 32, 32))
    assert 0.1 < float(features[-1].square().mean()) < 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dense_blocks": 0}, "dense_blocks is 0; it must be at least 1"),
        ({"channels": (1, 4)}, r"channels is \(1, 4\); a ConvLSTM keeps half"),
        ({"channels": ()}, r"channels is \(\)"),
        ({"channels": (8,)}, "two or more levels"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of .*batch"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of .*relu"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BCDUNet(2, 1, 5, **options)  # type: ignore[arg-type]


def test_bad_spatial_dims() -> None:
    with pytest.raises(ValueError, match="spatial_dims is 4"):
        BCDUNet(4, 1, 2)
