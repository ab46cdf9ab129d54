"""PSPNet against its definition region by region, and its parameters counted by hand."""

import math

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, interpolate

from medseg.layers.scene_heads import PyramidPoolingHead
from medseg.networks.psp_net import PSPNet

TINY = {"encoder": "test_resnet", "channels": 16}
SIZE = (65, 97)


@pytest.mark.parametrize(
    ("size", "options"), [(SIZE, {}), ((48, 33), {"norm": None}), ((40, 72), {"bins": (2, 4), "norm": "instance"})]
)
def test_contract(size: tuple[int, int], options: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = PSPNet(2, 3, 5, **TINY, **options)  # type: ignore[arg-type]
    assert_contract(network, torch.rand(3, 3, *size), out_channels=5)


def test_exports() -> None:
    assert_exports(PSPNet(2, 1, 3, **TINY), torch.rand(1, 1, *SIZE))  # type: ignore[arg-type]


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(PSPNet(2, 1, 3, **TINY), spatial_dims=2)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (64, 64)])
def test_any_size(size: tuple[int, int]) -> None:
    logits = PSPNet(2, 3, 2, **TINY).eval()(torch.rand(1, 3, *size))  # type: ignore[arg-type]
    assert logits.shape == (1, 2, *size)
    assert torch.isfinite(logits).all()


def test_parameters_counted_by_hand() -> None:
    with torch.device("meta"):
        network = PSPNet(2, 3, 150)
    pyramid = 4 * (512 * 128 + 2 * 128)
    last = 9 * (512 + 4 * 128) * 512 + 2 * 512
    assert sum(p.numel() for p in network.encoder.parameters()) == 21_284_672
    assert sum(p.numel() for p in network.parameters()) == 21_284_672 + pyramid + last + 512 * 150 + 150


def region_means(x: Tensor, regions: int) -> Tensor:
    """Average over regions whose borders are rounded outwards, so that neighbours may share a row."""
    height, width = x.shape[2:]
    rows = []
    for i in range(regions):
        top, bottom = i * height // regions, math.ceil((i + 1) * height / regions)
        cells = []
        for j in range(regions):
            left, right = j * width // regions, math.ceil((j + 1) * width / regions)
            cells.append(x[:, :, top:bottom, left:right].mean((2, 3)))
        rows.append(torch.stack(cells, -1))
    return torch.stack(rows, -2)


@pytest.mark.parametrize("bins", [(1, 2, 3, 6), (4,)])
@pytest.mark.parametrize("norm", ["batch", None])
def test_the_head_equals_its_definition(norm: str | None, bins: tuple[int, ...]) -> None:
    torch.manual_seed(1)
    head = PyramidPoolingHead(12, 7, bins, norm=norm)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        for _ in range(3):
            head(torch.randn(4, 12, 9, 13))
    weights = head.eval().state_dict()

    def unit(x: Tensor, name: str, number: int) -> Tensor:
        kernel = weights[f"{name}.{number}.weight"]
        x = conv2d(x, kernel, weights.get(f"{name}.{number}.bias"), padding=kernel.shape[-1] // 2)
        if norm:
            parts = ("running_mean", "running_var", "weight", "bias")
            x = batch_norm(x, *(weights[f"{name}.{number + 1}.{part}"] for part in parts))
        return x.clamp(min=0)

    x = torch.randn(2, 12, 9, 13)
    maps = [x]
    for number, regions in enumerate(bins):
        pooled = unit(region_means(x, regions), f"branches.{number}", 1)
        assert pooled.shape == (2, 12 // len(bins), regions, regions)
        maps.append(interpolate(pooled, (9, 13), mode="bilinear", align_corners=False))
    expected = unit(torch.cat(maps, 1), "fuse", 0)
    with torch.no_grad():
        torch.testing.assert_close(head(x), expected)
    assert expected.std() > 0


def test_channels_of_the_grids() -> None:
    head = PyramidPoolingHead(12, 7, grid_channels=5)
    assert [branch[1].out_channels for branch in head.branches] == [5] * 4
    assert head(torch.randn(2, 12, 9, 13)).shape == (2, 7, 9, 13)
    with pytest.raises(ValueError, match="grid_channels is 0; it must be at least 1"):
        PyramidPoolingHead(12, grid_channels=0)


def test_equals_the_definition() -> None:
    torch.manual_seed(2)
    network = PSPNet(2, 3, 4, **TINY).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 3, *SIZE)
    with torch.no_grad():
        features = network.head(network.encoder(image)[-1])
        scores = conv2d(features, network.classifier.weight, network.classifier.bias)
        assert scores.shape == (2, 4, 9, 13)  # stride 8
        expected = interpolate(scores, SIZE, mode="bilinear", align_corners=True)
        torch.testing.assert_close(network(image), expected)


def test_every_pixel_sees_the_whole_image() -> None:
    """Through the grid of one region."""
    torch.manual_seed(3)
    head = PyramidPoolingHead(8, 8).eval()
    x = torch.randn(1, 8, 24, 24, requires_grad=True)
    head(x)[..., 0, 0].sum().backward()
    assert x.grad is not None
    assert (x.grad[0].abs().sum(0) > 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; the encoders of PSPNet are for 2D images: give 2"),
        ({"bins": ()}, r"bins is \(\); give between one and 96 grids"),
        ({"bins": (1, 0)}, r"bins is \(1, 0\); .* each of at least one region"),
        ({"bins": (1,) * 97}, "between one and 96 grids"),
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    given = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY, **options}
    with pytest.raises(ValueError, match=message):
        PSPNet(**given)  # type: ignore[arg-type]
