"""SA-UNet: DropBlock's blocks and statistics, spatial attention pixel by pixel, the authors' parameter count."""

import io
import itertools
from typing import cast

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn

from medseg.networks.sa_unet import DropBlock, SAUNet, SpatialAttention, StructuredDropoutBlock


@pytest.mark.parametrize("size", [(37, 64), (5, 9), (15, 32, 20)])
def test_contract(size: tuple[int, ...]) -> None:
    assert_contract(SAUNet(len(size), 2, 3, channels=(8, 16, 32), dropout=0.1), torch.rand(2, 2, *size), out_channels=3)


def test_exports() -> None:
    assert_exports(SAUNet(2, 1, 3, channels=(4, 8)), torch.rand(1, 1, 20, 24))


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(SAUNet(spatial_dims, 1, 3, channels=(4, 6, 8)), spatial_dims)


@pytest.mark.parametrize("size", [(20, 24), (8, 9, 10)])
def test_torchscript_can_be_saved_and_refuses_to_train(size: tuple[int, ...]) -> None:
    network = SAUNet(len(size), 1, 3, channels=(4, 8)).eval()
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(network), buffer)
    buffer.seek(0)
    loaded, x = torch.jit.load(buffer), torch.rand(2, 1, *size)
    torch.testing.assert_close(loaded(x), network(x))
    with pytest.raises(torch.jit.Error, match="does not train in TorchScript"):
        loaded.train()(x)


def test_parameters_are_the_authors() -> None:
    """Their Keras graph counts 537,299 trainable ones at their widths, 3 channels in, 1 out."""
    with torch.device("meta"):
        network = SAUNet(2, 3, 1, channels=(16, 32, 64, 128))
    parameters = sum(p.numel() for p in network.parameters())
    larger_kernels = (3 * 3 - 2 * 2) * (128 * 64 + 64 * 32 + 32 * 16)  # of their transposed convolutions
    biases = 2 * (16 + 32 + 64 + 128 + 64 + 32 + 16)  # that their normalisations take away
    assert parameters + larger_kernels + biases == 537_299


def test_parameters_at_the_lfa_papers_widths() -> None:
    with torch.device("meta"):
        network = SAUNet(2, 1, 5)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == 31_036_741 + 2 * 7 * 7  # the U-Net's and the attention's kernel: DropBlock has none


@pytest.mark.parametrize("size", [(9, 10), (5, 6, 7)])
def test_dropblock_is_the_identity_in_evaluation(size: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, *size)
    assert DropBlock(len(size), 3, 0.5).eval()(x) is x


def whole_blocks(zero: Tensor, edge: int) -> Tensor:
    """Tell which pixels of a ``(*S)`` mask lie in a block of the edge that is true throughout."""
    covered = torch.zeros_like(zero)
    for corner in itertools.product(*(range(length - edge + 1) for length in zero.shape)):
        block = tuple(slice(c, c + edge) for c in corner)
        if zero[block].all():
            covered[block] = True
    return covered


@pytest.mark.parametrize(("size", "block_size", "edge"), [((20, 24), 5, 5), ((9, 4), 7, 3), ((2, 2), 7, 1)])
@pytest.mark.parametrize("depth", [(), (8,)])
def test_what_is_dropped_are_whole_blocks(
    size: tuple[int, ...], block_size: int, edge: int, depth: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    size = depth + size
    dropped = DropBlock(len(size), block_size, keep_prob=0.7)(torch.ones(2, 8, *size))
    zero = dropped == 0
    assert 0 < int(zero.sum()) < zero.numel()
    for channel in zero.flatten(0, 1):
        assert torch.equal(whole_blocks(channel, edge), channel)
    assert not torch.equal(zero[0], zero[1])
    assert not torch.equal(zero[:, 0], zero[:, 1])  # each channel has blocks of its own


def test_dropblock_keeps_the_mean_and_drops_as_often_as_it_should() -> None:
    torch.manual_seed(1)
    edge, height, width, keep = 3, 32, 40, 0.82
    x = torch.rand(64, 64, height, width) + 1
    kept = DropBlock(2, edge, keep)(x)
    assert float(kept.mean()) == pytest.approx(float(x.mean()), rel=2e-3)
    # DropBlock paper, eq. 1: seeds wherever a block fits; a pixel falls with any of the seeds around it
    seed = (1 - keep) / edge**2 * (height * width) / ((height - edge + 1) * (width - edge + 1))
    inner = (kept == 0)[..., edge:-edge, edge:-edge].float().mean()
    assert float(inner) == pytest.approx(1 - (1 - seed) ** (edge**2), rel=0.01)


def test_dropblock_counts_beyond_half_precision() -> None:
    torch.manual_seed(2)
    x = torch.ones(1, 8, 128, 128, dtype=torch.float16)
    assert x.numel() > torch.finfo(torch.float16).max
    kept = DropBlock(2)(x)
    assert kept.dtype == torch.float16
    assert float(kept.float().mean()) == pytest.approx(1, rel=1e-3)


def test_nothing_is_dropped_where_all_is_kept() -> None:
    x = torch.randn(2, 3, 9, 9)
    assert torch.equal(DropBlock(2, 7, keep_prob=1.0)(x), x)


@pytest.mark.parametrize("size", [(5, 9), (3, 8, 4)])
def test_spatial_attention_by_hand(size: tuple[int, ...]) -> None:
    torch.manual_seed(3)
    layer = SpatialAttention(len(size))
    x = torch.randn(1, 4, *size)
    result = layer(x)
    kernel = layer.conv.weight[0]
    for pixel in itertools.product(*(range(length) for length in size)):
        total = torch.zeros(())
        for offset in itertools.product(range(-3, 4), repeat=len(size)):
            at = tuple(p + o for p, o in zip(pixel, offset, strict=True))
            if all(0 <= a < length for a, length in zip(at, size, strict=True)):
                features, weights = x[(0, slice(None), *at)], kernel[(slice(None), *(o + 3 for o in offset))]
                total = total + weights[0] * features.max() + weights[1] * features.mean()
        expected = x[(0, slice(None), *pixel)] / (1 + torch.exp(-total))
        torch.testing.assert_close(result[(0, slice(None), *pixel)], expected)


def test_every_convolution_is_followed_by_dropblock_and_the_bottom_has_attention() -> None:
    network = SAUNet(2, 1, 2, channels=(4, 6, 8), block_size=5, keep_prob=0.9)
    unit = [nn.Conv2d, DropBlock, nn.BatchNorm2d, nn.ReLU]
    *finer, bottom = cast("nn.ModuleList", network.encoder.blocks)
    for block in (*finer, *(level.block for level in network.decoder)):
        assert [type(layer) for layer in block] == unit * 2
    assert [type(layer) for layer in bottom] == [*unit, SpatialAttention, *unit]
    drops = [module for module in network.modules() if isinstance(module, DropBlock)]
    assert {(drop.block_size, drop.keep_prob) for drop in drops} == {(5, 0.9)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_size": 4}, "block_size is 4; it must be odd"),
        ({"block_size": -1}, "block_size is -1"),
        ({"keep_prob": 0.0}, r"keep_prob is 0.0; it must be in \(0, 1\]"),
        ({"keep_prob": 1.1}, "keep_prob is 1.1"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of .*relu"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SAUNet(2, 1, 5, channels=(4, 8), **options)  # type: ignore[arg-type]


def test_a_block_without_normalisation_has_biases() -> None:
    block = StructuredDropoutBlock(2, 1, 4, norm=None)
    assert [layer.bias is not None for layer in block if isinstance(layer, nn.Conv2d)] == [True, True]
