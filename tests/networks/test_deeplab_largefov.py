"""DeepLab-LargeFOV against its definition in plain functions, and its parameters counted by hand."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import nn
from torch.nn.functional import conv2d, interpolate

from medseg.networks.deeplab_largefov import DeepLabLargeFOV

TINY = {"encoder": "test_resnet", "channels": 16}
SIZE = (65, 97)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        (SIZE, TINY),
        ((48, 33), TINY | {"norm": "batch"}),
        ((33, 49), {"encoder": "vgg11", "channels": 16}),
    ],
)
def test_contract(size: tuple[int, int], options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = DeepLabLargeFOV(2, 3, 5, **options)  # type: ignore[arg-type]
    assert_contract(network, torch.rand(2, 3, *size), out_channels=5)


def test_exports() -> None:
    assert_exports(DeepLabLargeFOV(2, 1, 3, **TINY), torch.rand(1, 1, *SIZE))  # type: ignore[arg-type]


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(DeepLabLargeFOV(2, 1, 3, **TINY), spatial_dims=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    logits = DeepLabLargeFOV(2, 3, 2, **TINY).eval()(torch.rand(1, 3, *size))  # type: ignore[arg-type]
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()


def test_parameters_counted_by_hand() -> None:
    with torch.device("meta"):
        network = DeepLabLargeFOV(2, 3, 21)
    widths = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)]
    widths += [(256, 512), (512, 512), (512, 512)] + [(512, 512)] * 3
    vgg16 = sum(9 * before * after + after for before, after in widths)
    assert vgg16 == 14_714_688
    fc6, fc7, scores = 9 * 512 * 1024 + 1024, 1024 * 1024 + 1024, 1024 * 21 + 21
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == vgg16 + fc6 + fc7 + scores == 20_505_429
    assert parameters == pytest.approx(20.5e6, rel=0.005)  # the paper's figure
    assert sum(p.numel() for p in network.encoder.parameters()) == vgg16


def test_defaults_are_the_papers() -> None:
    with torch.device("meta"):
        network = DeepLabLargeFOV(2, 3, 21)
        stages, fc7, scores = network.describe(torch.rand(1, 3, 321, 321))
    assert [tuple(stage.shape[1:]) for stage in stages][-2:] == [(512, 41, 41)] * 2
    assert (tuple(fc7.shape), tuple(scores.shape)) == ((1, 1024, 41, 41), (1, 21, 41, 41))
    fc6 = network.head.fc6[0]
    assert (fc6.kernel_size, fc6.dilation, fc6.stride) == ((3, 3), (12, 12), (1, 1))
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert [m.dilation[0] for m in network.encoder.modules() if isinstance(m, nn.Conv2d)] == [1] * 10 + [2] * 3


@pytest.mark.parametrize("dilation", [1, 3, 12])
def test_equals_the_definition(dilation: int) -> None:
    torch.manual_seed(1)
    network = DeepLabLargeFOV(2, 3, 4, **TINY, dilation=dilation).eval()  # type: ignore[arg-type]
    weights = network.state_dict()
    image = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        x = network.encoder(image)[-1]
        nine = torch.ones(x.shape[1], 1, 3, 3) / 9  # the released network's pooling, which counts the padding's zeros
        x = conv2d(x, nine, padding=1, groups=x.shape[1])
        x = conv2d(x, weights["head.fc6.0.weight"], weights["head.fc6.0.bias"], padding=dilation, dilation=dilation)
        x = conv2d(x.clamp(min=0), weights["head.fc7.0.weight"], weights["head.fc7.0.bias"]).clamp(min=0)
        x = conv2d(x, weights["classifier.weight"], weights["classifier.bias"])
        expected = interpolate(x, SIZE, mode="bilinear", align_corners=True)
        torch.testing.assert_close(network(image), expected)
    assert expected.std() > 0


def test_reach_of_fc6() -> None:
    """Three taps along each axis, 12 pixels of the map apart."""
    torch.manual_seed(2)
    head = DeepLabLargeFOV(2, 3, 2, **TINY).eval().head  # type: ignore[arg-type]
    x = torch.randn(1, head.fc6[0].in_channels, 31, 31, requires_grad=True)
    head.fc6[0](x)[..., 15, 15].sum().backward()
    assert x.grad is not None
    reached = x.grad[0].abs().sum(0).nonzero().tolist()
    assert reached == [[i, j] for i in (3, 15, 27) for j in (3, 15, 27)]


def test_features_do_not_fade_at_the_start() -> None:
    torch.manual_seed(3)
    head = DeepLabLargeFOV(2, 3, 2, encoder="test_resnet", channels=256, dilation=1).eval().head
    features = head.fc7(head.fc6(torch.randn(1, head.fc6[0].in_channels, 16, 16).relu()))
    assert 0.3 < features.square().mean() < 3  # the input's is 0.5


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(4)
    network = DeepLabLargeFOV(2, 3, 2, **TINY, freeze_batch_norm=True)  # type: ignore[arg-type]
    image = torch.rand(1, 3, *SIZE)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))
    without = DeepLabLargeFOV(2, 3, 2, **TINY, dropout=0.0, freeze_batch_norm=True)  # type: ignore[arg-type]
    assert torch.equal(without(image), without(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; the encoders of DeepLab-LargeFOV are for 2D images: give 2"),
        ({"out_channels": 0}, "out_channels is 0"),
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"dilation": 0}, "dilation is 0; it must be at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"encoder": "vgg61"}, "has no model 'vgg61'; did you mean vgg"),
        ({"encoder": "densenet121"}, "densenet121 cannot have output stride 8"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    given = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY, **options}
    with pytest.raises(ValueError, match=message):
        DeepLabLargeFOV(**given)  # type: ignore[arg-type]
