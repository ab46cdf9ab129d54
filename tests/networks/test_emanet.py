"""EMANet: expectation-maximisation by hand, the moving average of its bases in one and in two processes."""

from pathlib import Path

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor
from torch.nn.functional import conv2d, interpolate
from torch.nn.parallel import DistributedDataParallel
from two_processes import alone_and_shared

from medseg.networks.emanet import EMANet, EMAttention

TINY = {"encoder": "test_resnet", "channels": 6, "head_channels": 4, "bases": 3}


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize(("size", "output_stride"), [((65, 97), 16), ((40, 33), 8), ((96, 70), 32)])
def test_contract(size: tuple[int, int], output_stride: int, norm: str | None) -> None:
    torch.manual_seed(0)
    network = EMANet(2, 2, 3, **TINY, output_stride=output_stride, norm=norm, dropout=0.0)  # type: ignore[arg-type]
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_one_pixel_is_enough() -> None:
    assert EMANet(2, 3, 2, **TINY).eval()(torch.rand(1, 3, 1, 3)).shape == (1, 2, 1, 3)  # type: ignore[arg-type]


def test_exports() -> None:
    assert_exports(EMANet(2, 1, 3, **TINY), torch.rand(1, 1, 65, 97))  # type: ignore[arg-type]


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(EMANet(2, 1, 3, **TINY), spatial_dims=2)  # type: ignore[arg-type]


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = EMANet(2, 3, 21)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(34.65e6, rel=0.001)  # 35.96 M with the decoder of DeepLabv3+
    attention = 512 * 512 + 512 + 512 * 512 + 2 * 512
    head = 2048 * 512 * 9 + 2 * 512 + 512 * 256 * 9 + 2 * 256 + 256 * 21 + 21
    assert parameters == 23_508_032 + attention + head == 34_657_621
    assert network.em_attention.bases.shape == (1, 512, 64)
    assert sum(p.numel() for p in network.encoder.parameters()) == 23_508_032


def by_hand(pixels: list[list[float]], bases: list[list[float]], steps: int) -> tuple[list[list[float]], Tensor]:
    """Equations 11 to 13 of the paper for one image, a number at a time: pixels N x C, bases K x C."""
    x, mu = torch.tensor(pixels, dtype=torch.float64), torch.tensor(bases, dtype=torch.float64)
    z = torch.zeros(len(x), len(mu), dtype=torch.float64)
    for _ in range(steps):
        for n in range(len(x)):
            powers = [float(torch.exp((x[n] * mu[k]).sum())) for k in range(len(mu))]
            z[n] = torch.tensor(powers) / sum(powers)
        for k in range(len(mu)):
            mean = sum(z[n, k] * x[n] for n in range(len(x))) / sum(z[n, k] for n in range(len(x)))
            mu[k] = mean / (mean**2).sum().sqrt()
    return z.tolist(), mu


@pytest.mark.parametrize("steps", [1, 3])
def test_expectation_and_maximisation_by_hand(steps: int) -> None:
    torch.manual_seed(0)
    layer = EMAttention(4, bases=3, steps=steps, norm=None).double().eval()
    x = torch.randn(2, 4, 2, 3, dtype=torch.float64)
    features = conv2d(x, layer.first.weight, layer.first.bias)
    responsibilities, bases = layer.fit(features)
    assert responsibilities.shape == (2, 6, 3)
    rebuilt = torch.zeros_like(x)
    for image in range(2):
        pixels = [features[image, :, row, column].tolist() for row in range(2) for column in range(3)]
        z, mu = by_hand(pixels, layer.bases[0].T.tolist(), steps)
        torch.testing.assert_close(responsibilities[image].tolist(), z)
        torch.testing.assert_close(bases[image].T, mu)
        for number, shares in enumerate(z):
            row, column = divmod(number, 3)
            rebuilt[image, :, row, column] = sum(share * base for share, base in zip(shares, mu, strict=True))
    last = layer.last.conv
    torch.testing.assert_close(layer(x), (x + conv2d(rebuilt.relu(), last.weight, last.bias)).relu())


def test_gradients_pass_the_iterations() -> None:
    torch.manual_seed(1)
    layer = EMAttention(3, bases=2, act="tanh", norm=None).double().eval()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_bases_start_at_length_1_and_move_in_training_alone() -> None:
    torch.manual_seed(2)
    layer = EMAttention(4, bases=3, momentum=0.75)
    start = layer.bases.clone()
    torch.testing.assert_close(start.norm(dim=1), torch.ones(1, 3))
    x = torch.randn(5, 4, 3, 3)
    layer.eval()(x)
    assert torch.equal(layer.bases, start)
    _, bases = layer.fit(layer.first(x))
    layer.train()(x).square().sum().backward()
    torch.testing.assert_close(layer.bases, 0.75 * start + 0.25 * bases.detach().mean(0, keepdim=True))
    assert not layer.bases.requires_grad
    assert "bases" in layer.state_dict()


def test_attention_maps() -> None:
    torch.manual_seed(3)
    network = EMANet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    start = network.em_attention.bases.clone()
    image = torch.rand(2, 3, 65, 97)
    maps = network.attention(image)
    assert list(maps) == ["responsibilities"]
    shares = maps["responsibilities"]
    assert shares.shape == (2, 3, 5, 7)
    torch.testing.assert_close(shares.sum(1), torch.ones(2, 5, 7))
    features = network.em_attention.first(network.reduce(network.encoder(image)[-1]))
    expected, _ = network.em_attention.fit(features)
    torch.testing.assert_close(shares[1, :, 3, 4], expected[1, 3 * 7 + 4])
    network.train().attention(image)
    assert torch.equal(network.em_attention.bases, start)


def test_logits_are_the_heads_enlarged() -> None:
    network = EMANet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    image = torch.rand(1, 3, 65, 97)
    coarse = network.head(network.em_attention(network.reduce(network.encoder(image)[-1])))
    assert coarse.shape == (1, 2, 5, 7)
    torch.testing.assert_close(network(image), interpolate(coarse, size=(65, 97), mode="bilinear", align_corners=True))


def trained(rank: int | None) -> dict[str, Tensor]:
    """Bases and gradients after one step on four images, or on this process's share of them: one, or three."""
    torch.manual_seed(4)
    network = EMANet(2, 3, 2, **TINY, norm=None, dropout=0.0, freeze_batch_norm=True)  # type: ignore[arg-type]
    images, weights = torch.rand(4, 3, 33, 40), torch.randn(4, 2, 33, 40)
    if rank is None:
        (network(images) * weights).mean().backward()
    else:
        share = slice(0, 1) if rank == 0 else slice(1, 4)
        wrapped = DistributedDataParallel(network)  # without a name it would be gone before the backward pass
        ((wrapped(images[share]) * weights[share]).sum() * 2 / weights.numel()).backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return found | {"bases": network.em_attention.bases}


def test_two_processes_move_the_bases_as_one(tmp_path: Path) -> None:
    expected, found = alone_and_shared(trained, tmp_path)
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-6)


def test_dropout_acts_in_training_alone() -> None:
    network = EMANet(2, 3, 2, **TINY, dropout=0.5, momentum=0.0, freeze_batch_norm=True)  # type: ignore[arg-type]
    image = torch.rand(2, 3, 33, 33)
    assert not torch.equal(network(image), network(image))
    network.eval()
    assert torch.equal(network(image), network(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; EMANet is for images: choose 2"),
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"bases": 0}, "bases is 0; it must be at least 1"),
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"head_channels": -1}, "head_channels is -1"),
        ({"momentum": 1.0}, r"momentum is 1\.0; it must be in \[0, 1\)"),
        ({"act": "rleu"}, "act is 'rleu'; choose one of"),
        ({"dropout": -0.1}, r"dropout is -0\.1"),
        ({"output_stride": 4}, "output_stride is 4"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EMANet(**{"spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY, **options})  # type: ignore[arg-type]
