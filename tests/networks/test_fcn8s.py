"""FCN-8s against torchvision's VGG16, plain interpolation and receptive fields worked out by hand."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate
from torchvision.models import vgg16

from medseg.networks.fcn8s import FCN8s, Upsampling2x

TINY = {"channels": (4, 6, 6, 8, 8), "fc_channels": 12}
SCORES = ("score_pool3", "score_pool4", "score_fc7")


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize("size", [(37, 64), (70, 41), (17, 33, 20)])
def test_contract(size: tuple[int, ...], norm: str | None) -> None:
    torch.manual_seed(0)
    network = FCN8s(len(size), 2, 3, **TINY, norm=norm)
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_one_pixel_is_enough() -> None:
    assert FCN8s(2, 1, 2, **TINY).eval()(torch.rand(1, 1, 1, 3)).shape == (1, 2, 1, 3)


@pytest.mark.parametrize("norm", [None, "batch"])
def test_exports(norm: str | None) -> None:
    assert_exports(FCN8s(2, 1, 3, **TINY, norm=norm), torch.rand(1, 1, 45, 50), onnx=norm == "batch")


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(FCN8s(spatial_dims, 1, 3, **TINY), spatial_dims)  # type: ignore[arg-type]


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = FCN8s(2, 3, 21)
        vgg = vgg16(weights=None)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(134e6, rel=0.01)
    hidden = [vgg.features, vgg.classifier[0], vgg.classifier[3]]  # all of VGG16 but its classes
    skeleton = sum(p.numel() for part in hidden for p in part.parameters())
    scores = 21 * (4096 + 512 + 256 + 3)
    assert parameters == skeleton + scores + 2 * 21 * 4 * 4 == 134_363_423


def random_vgg16_features() -> nn.Sequential:
    with torch.device("meta"):  # the linear layers, most of VGG16, are never made
        features: nn.Sequential = vgg16(weights=None).features
    features.to_empty(device="cpu")
    for parameter in features.parameters():
        if parameter.ndim > 1:
            nn.init.kaiming_normal_(parameter)
        else:
            nn.init.uniform_(parameter, -0.1, 0.1)
    return features


def test_the_skeleton_is_torchvisions_vgg16() -> None:
    torch.manual_seed(0)
    features = random_vgg16_features()
    network = FCN8s(2, 3, 2, fc_channels=4).eval()
    network.load_vgg16(features.state_dict())
    expected = x = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for stage, (first, last) in zip(network.stages, [(0, 5), (5, 10), (10, 17), (17, 24), (24, 31)], strict=True):
            x, expected = stage(x), features[first:last](expected)
            torch.testing.assert_close(x, expected)
            assert expected.abs().sum() > 0


def test_vgg16_that_does_not_fit_changes_nothing() -> None:
    features = random_vgg16_features().state_dict()
    network = FCN8s(2, 3, 2, fc_channels=4)
    before = [parameter.clone() for parameter in network.parameters()]
    last = {name: value for name, value in features.items() if name != "28.bias"}
    with pytest.raises(ValueError, match=r"features holds no '28\.bias'; pass torchvision"):
        network.load_vgg16(last)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    with pytest.raises(ValueError, match=r"'0\.weight' has shape \[64, 3, 3, 3\], the network's \[64, 1, 3, 3\]"):
        FCN8s(2, 1, 2, fc_channels=4).load_vgg16(features)
    with pytest.raises(ValueError, match="build with norm=None"):
        FCN8s(2, 3, 2, fc_channels=4, norm="batch").load_vgg16(features)


@pytest.mark.parametrize(("size", "mode"), [((5, 7), "bilinear"), ((1, 1), "bilinear"), ((3, 4, 2), "trilinear")])
def test_upsampling_starts_as_interpolation(size: tuple[int, ...], mode: str) -> None:
    layer = Upsampling2x(len(size), 3)
    x = torch.randn(2, 3, *size)
    torch.testing.assert_close(layer(x), interpolate(x, scale_factor=2, mode=mode, align_corners=False))
    torch.testing.assert_close(layer(torch.full_like(x, 2.5)), torch.full((2, 3, *(2 * s for s in size)), 2.5))


def silence(network: FCN8s, *names: str) -> None:
    for name in names:
        for parameter in network.get_submodule(name).parameters():
            nn.init.zeros_(parameter)


@pytest.mark.parametrize(("name", "factors"), [("score_pool3", [8]), ("score_pool4", [2, 8]), ("score_fc7", [2, 2, 8])])
def test_each_score_reaches_the_logits(name: str, factors: list[int]) -> None:
    """With the other scores at zero, the logits are one stage's scores, interpolated by plain functions."""
    torch.manual_seed(1)
    network = FCN8s(2, 1, 2, **TINY).eval()
    silence(network, *(other for other in SCORES if other != name))
    x = torch.rand(1, 1, 64, 96)
    expected = x
    for stage in network.stages[: 3 + SCORES.index(name)]:
        expected = stage(expected)
    if name == "score_fc7":
        for layer, padding in ((network.fc6, 3), (network.fc7, 0)):
            expected = conv2d(expected, layer.conv.weight, layer.conv.bias, padding=padding).relu()
    score = network.get_submodule(name)
    expected = conv2d(expected, score.weight, score.bias)
    for factor in factors:
        expected = interpolate(expected, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("name", SCORES)
def test_gradient_passes_each_skip_alone(name: str) -> None:
    torch.manual_seed(2)
    network = FCN8s(2, 1, 2, **TINY).eval()
    silence(network, *(other for other in SCORES if other != name))
    x = torch.rand(1, 1, 50, 41)
    logits = network(x)
    (logits * torch.randn_like(logits)).sum().backward()
    first = network.stages[0][0].conv.weight.grad
    assert first is not None
    assert first.abs().sum() > 0
    deepest = network.stages[4][2].conv.weight.grad
    assert deepest is not None
    assert bool(deepest.abs().sum() > 0) is (name == "score_fc7")


def test_a_constant_score_is_constant_up_to_the_border() -> None:
    network = FCN8s(2, 1, 2, **TINY).eval()
    silence(network, *SCORES)
    for name, value in zip(SCORES, (1.0, 2.0, 4.0), strict=True):
        nn.init.constant_(network.get_submodule(name).bias, value)
    torch.testing.assert_close(network(torch.rand(1, 1, 61, 83)), torch.full((1, 2, 61, 83), 7.0))


@pytest.mark.parametrize(("depth", "expected"), [("pool3", 44), ("pool4", 100), ("pool5", 212), ("fc7", 404)])
def test_receptive_fields(depth: str, expected: int) -> None:
    """Edges in pixels from r + (k - 1) j over VGG16's layers; counted here on a linear, positive copy."""
    network = FCN8s(2, 1, 1, channels=(1,) * 5, fc_channels=1, dropout=0.0).double()
    for parameter in network.parameters():
        nn.init.ones_(parameter)
    for stage in network.stages:
        stage[-1] = nn.AvgPool2d(2)  # a maximum would send the gradient to one pixel alone
    x = torch.ones(1, 1, 512, 512, dtype=torch.float64, requires_grad=True)
    y: Tensor = x
    for stage in network.stages[: {"pool3": 3, "pool4": 4}.get(depth, 5)]:
        y = stage(y)
    if depth == "fc7":
        y = network.fc7(network.fc6(y))
    centre = y.shape[-1] // 2
    y[0, 0, centre, centre].backward()
    assert x.grad is not None
    seen = x.grad[0, 0] > 0
    assert (int(seen.any(0).sum()), int(seen.any(1).sum())) == (expected, expected)


def test_dropout_acts_in_training_alone() -> None:
    network = FCN8s(2, 1, 2, **TINY, dropout=0.5)
    x = torch.rand(1, 1, 64, 64)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))
    without = FCN8s(2, 1, 2, **TINY, dropout=0.0)
    assert torch.equal(without(x), without(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": (8, 8, 8)}, r"channels is \(8, 8, 8\); give five stages"),
        ({"fc_channels": 0}, "fc_channels is 0"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"norm": ("bathc", {})}, "norm is 'bathc'; choose one of"),
        ({"spatial_dims": 1}, "spatial_dims is 1"),
        ({"out_channels": 0}, "out_channels is 0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FCN8s(**{"spatial_dims": 2, "in_channels": 1, "out_channels": 2, **TINY, **options})  # type: ignore[arg-type]
