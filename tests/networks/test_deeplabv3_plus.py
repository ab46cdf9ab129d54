"""DeepLabv3+: the paper's parameters, the dilations, what each path carries."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch.nn.functional import interpolate

from medseg.networks.deeplabv3_plus import DeepLabV3Plus

TINY = {"encoder": "test_resnet", "channels": 6, "low_channels": 4}


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize(("size", "output_stride"), [((65, 97), 16), ((40, 33), 8), ((96, 70), 32)])
def test_contract(size: tuple[int, int], output_stride: int, norm: str | None) -> None:
    torch.manual_seed(0)
    network = DeepLabV3Plus(2, 2, 3, **TINY, output_stride=output_stride, rates=(1, 2), norm=norm)  # type: ignore[arg-type]
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_one_pixel_is_enough() -> None:
    assert DeepLabV3Plus(2, 3, 2, **TINY).eval()(torch.rand(1, 3, 1, 3)).shape == (1, 2, 1, 3)  # type: ignore[arg-type]


def test_exports() -> None:
    assert_exports(DeepLabV3Plus(2, 1, 3, **TINY), torch.rand(1, 1, 65, 97))  # type: ignore[arg-type]


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(DeepLabV3Plus(2, 1, 3, **TINY), spatial_dims=2)  # type: ignore[arg-type]


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = DeepLabV3Plus(2, 3, 21)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(40.45e6, rel=0.01)
    encoder, decoder = 23_508_032, 1_309_045
    pyramid = 2 * 2048 * 256 + 3 * 2048 * 256 * 9 + 5 * 256 * 256 + 6 * 2 * 256
    assert parameters == encoder + pyramid + decoder == 40_352_181
    assert sum(p.numel() for p in network.encoder.parameters()) == encoder


@pytest.mark.parametrize(("output_stride", "rates"), [(8, [12, 24, 36]), (16, [6, 12, 18]), (32, [3, 6, 9])])
def test_rates_cover_the_same_pixels_at_every_stride(output_stride: int, rates: list[int]) -> None:
    network = DeepLabV3Plus(2, 3, 2, **TINY, output_stride=output_stride)  # type: ignore[arg-type]
    assert [branch.conv.dilation for branch in network.aspp.branches] == [(1, 1), *((rate, rate) for rate in rates)]


def test_the_classes_come_from_stride_4() -> None:
    """Logits are those of the decoder, one for every fourth pixel, first and last pixel staying on one another."""
    torch.manual_seed(1)
    network = DeepLabV3Plus(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    image = torch.rand(1, 3, 65, 97)
    seen = []
    network.decoder.register_forward_hook(lambda _, inputs, output: seen.append((*inputs, output)))
    logits = network(image)
    low, context, coarse = seen[0]
    features = network.encoder(image)
    torch.testing.assert_close(low, features[1])
    torch.testing.assert_close(context, network.aspp(features[-1]))
    assert (low.shape[2:], context.shape[2:]) == ((17, 25), (5, 7))
    torch.testing.assert_close(logits, interpolate(coarse, size=(65, 97), mode="bilinear", align_corners=True))
    torch.testing.assert_close(logits[..., ::4, ::4], coarse)


def test_options_reach_the_encoder() -> None:
    network = DeepLabV3Plus(2, 3, 2, **TINY, freeze_batch_norm=True)  # type: ignore[arg-type]
    assert network.encoder.batch_norm_is_frozen
    with pytest.raises(ValueError, match=r"weights none\.pth do not exist"):
        DeepLabV3Plus(2, 3, 2, **TINY, weights="none.pth")  # type: ignore[arg-type]


def test_dropout_acts_in_training_alone() -> None:
    network = DeepLabV3Plus(2, 3, 2, **TINY, dropout=0.5, freeze_batch_norm=True)  # type: ignore[arg-type]
    image = torch.rand(2, 3, 33, 33)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; DeepLabV3Plus is for images: choose 2"),
        ({"spatial_dims": 1}, "spatial_dims is 1"),
        ({"channels": 0}, "channels is 0, low_channels is 4; both"),
        ({"rates": (0,)}, r"rates is \(0,\)"),
        ({"norm": "instance"}, "norm is 'instance'"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"output_stride": 4}, "output_stride is 4; choose one of 8, 16, 32"),
        ({"encoder": "resnet5"}, "has no model 'resnet5'; did you mean"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DeepLabV3Plus(**{"spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY, **options})  # type: ignore[arg-type]
