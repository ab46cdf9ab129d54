"""MFNet: the factorisation by hand, its size, and the warm-up in one and in two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn
from torch.nn.functional import interpolate
from torch.nn.parallel import DistributedDataParallel
from two_processes import alone_and_shared

from medseg.networks.mfnet import Factorisation, MFNet

TINY = {"encoder": "test_resnet", "channels": 6, "low_channels": 4, "factors": 3, "factor_size": (3, 4)}


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize(("size", "output_stride"), [((65, 97), 16), ((40, 33), 8), ((96, 70), 32)])
def test_contract(size: tuple[int, int], output_stride: int, norm: str | None) -> None:
    torch.manual_seed(0)
    network = MFNet(2, 2, 3, **TINY, output_stride=output_stride, norm=norm)  # type: ignore[arg-type]
    assert_contract(network, torch.rand(2, 2, *size), out_channels=3)


def test_one_pixel_is_enough() -> None:
    assert MFNet(2, 3, 2, **TINY).eval()(torch.rand(1, 3, 1, 3)).shape == (1, 2, 1, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("factorise", [True, False])
def test_exports(factorise: bool) -> None:
    network = MFNet(2, 1, 3, **TINY)  # type: ignore[arg-type]
    network.factorise.fill_(factorise)
    assert_exports(network, torch.rand(1, 1, 65, 97), onnx=factorise)


def test_exports_open_sizes() -> None:
    assert_exports_open_sizes(MFNet(2, 1, 3, **TINY), spatial_dims=2)  # type: ignore[arg-type]


def test_parameters_are_the_papers() -> None:
    with torch.device("meta"):
        network = MFNet(2, 3, 21)
        features = network.encoder(torch.rand(1, 3, 513, 513))
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(29.73e6, rel=0.001)
    module = 2048 * 2048 + 2048 + 2048 * 256 + 2 * 256 + 2048 * 64 + 64 * 1089
    assert parameters == 23_508_032 + module + 1_309_045 == 29_738_997
    assert features[-1].shape[2:] == (33, 33)
    assert sum(p.numel() for p in network.encoder.parameters()) == 23_508_032


def by_hand(network: MFNet, x: Tensor) -> tuple[Tensor, Tensor]:
    """X_in and X' of features as large as Z, a pixel at a time."""
    module = network.factorisation
    weight, bias = module.conv1.weight[:, :, 0, 0], module.conv1.bias
    assert bias is not None
    x_in, low_rank = torch.empty_like(x), torch.empty_like(x)
    for row in range(x.shape[2]):
        for column in range(x.shape[3]):
            x_in[:, :, row, column] = x[:, :, row, column] @ weight.T + bias
            low_rank[:, :, row, column] = module.bases @ module.factors[:, row, column]
    return x_in, low_rank


def test_the_path_by_hand() -> None:
    torch.manual_seed(1)
    network = MFNet(2, 3, 2, **{**TINY, "factor_size": (33, 33)}).eval()  # type: ignore[arg-type]
    for parameter in (network.factorisation.bases, network.factorisation.factors):
        nn.init.normal_(parameter)  # so that X' counts beside X_in
    image = torch.rand(1, 3, 513, 513)
    with torch.no_grad():
        features = network.encoder(image)
        assert features[-1].shape[2:] == (33, 33)
        x_in, low_rank = by_hand(network, features[-1])
        context = network.conv2(low_rank.relu() + x_in)
        coarse = network.decoder(features[1], context)
        expected = interpolate(coarse, size=(513, 513), mode="bilinear", align_corners=True)
        torch.testing.assert_close(network(image), expected)
        for module in (network.encoder, network.conv2, network.decoder):
            module.eval()
        network.training = True  # the dict of training, with the statistics of evaluation
        outputs = network(image)
    torch.testing.assert_close(outputs["pred"], expected)
    torch.testing.assert_close(outputs["recon"], x_in - low_rank, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [(33, 33), (5, 7), (65, 40), (1, 1)])
def test_factor_maps_are_resized(size: tuple[int, int]) -> None:
    torch.manual_seed(2)
    module = Factorisation(4, 3, (33, 33)).double()
    expected = module.factors.detach().numpy()
    for axis, length in enumerate(size, start=1):
        there = np.linspace(0, 32, length)
        expected = np.apply_along_axis(lambda line, t=there: np.interp(t, np.arange(33), line), axis, expected)
    maps = module.factor_maps(list(size))
    torch.testing.assert_close(maps[0], torch.from_numpy(expected))
    x_in, low_rank = module(torch.rand(2, 4, *size, dtype=torch.float64))
    assert x_in.shape == (2, 4, *size)
    torch.testing.assert_close(low_rank, torch.einsum("ck,bkhw->bchw", module.bases, maps))
    if size == (33, 33):
        assert torch.equal(maps[0], module.factors)


def test_the_start_is_uniform() -> None:
    torch.manual_seed(3)
    module = Factorisation(2048, 64, (33, 33))
    for parameter, numel in ((module.bases, 2048 * 64), (module.factors, 64 * 1089)):
        bound = numel**-0.5
        assert parameter.abs().max() <= bound
        assert float(parameter.detach().std()) == pytest.approx(bound / 3**0.5, rel=0.02)


def test_warm_up_leaves_the_factorisation_out() -> None:
    torch.manual_seed(4)
    network = MFNet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    image = torch.rand(2, 3, 65, 97)
    factorised = network(image)
    network.factorise.fill_(False)
    features = network.encoder(image)
    coarse = network.decoder(features[1], network.conv2(features[-1]))
    expected = interpolate(coarse, size=(65, 97), mode="bilinear", align_corners=True)
    torch.testing.assert_close(network(image), expected)
    assert not torch.allclose(factorised, expected)
    outputs = network.train()(image)
    assert not outputs["recon"].any()
    assert outputs["recon"].shape == features[-1].shape
    (outputs["pred"].square().mean() + outputs["recon"].square().mean()).backward()
    spared = {name for name, p in network.named_parameters() if p.grad is not None and not p.grad.any()}
    assert spared == {f"factorisation.{name}" for name, _ in network.factorisation.named_parameters()}
    assert all(p.grad is not None for p in network.parameters())


def test_weights_know_whether_they_were_warming_up(tmp_path: Path) -> None:
    network = MFNet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    network.factorise.fill_(False)
    torch.save(network.state_dict(), tmp_path / "model.pt")
    other = MFNet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    assert bool(other.factorise)
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    assert not bool(other.factorise)
    image = torch.rand(1, 3, 33, 33)
    torch.testing.assert_close(other(image), network(image), rtol=0, atol=0)


def test_attention_maps() -> None:
    network = MFNet(2, 3, 2, **TINY).eval()  # type: ignore[arg-type]
    maps = network.attention(torch.rand(2, 3, 65, 97))
    assert list(maps) == ["factors"]
    assert maps["factors"].shape == (2, 3, 5, 7)
    expected = interpolate(network.factorisation.factors[None], size=(5, 7), mode="bilinear", align_corners=True)
    for image in range(2):
        torch.testing.assert_close(maps["factors"][image], expected[0])


def trained(rank: int | None) -> list[dict[str, Tensor]]:
    """Gradients of two steps in warm-up and of one after it, on four images or on this process's half of them."""
    torch.manual_seed(5)
    network = MFNet(2, 3, 2, **TINY, norm=None, freeze_batch_norm=True)  # type: ignore[arg-type]
    images, weights = torch.rand(4, 3, 33, 40), torch.randn(4, 2, 33, 40)
    if rank is not None:
        images, weights = images[2 * rank : 2 * rank + 2], weights[2 * rank : 2 * rank + 2]
    wrapped: nn.Module = network if rank is None else DistributedDataParallel(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    found = []
    for factorise in (False, False, True):
        network.factorise.fill_(factorise)
        optimizer.zero_grad()
        outputs = wrapped(images)
        ((outputs["pred"] * weights).mean() + 0.1 * outputs["recon"].square().mean()).backward()
        found.append({name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None})
        optimizer.step()
    return found


def test_two_processes_warm_up_as_one(tmp_path: Path) -> None:
    """Parameters that do not count must not leave the processes waiting for each other."""
    expected, found = alone_and_shared(trained, tmp_path)
    for each in found:
        torch.testing.assert_close(each, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spatial_dims": 3}, "spatial_dims is 3; MFNet is for images: choose 2"),
        ({"factors": 0}, "factors is 0; it must be at least 1"),
        ({"channels": 0}, "channels is 0; it must be at least 1"),
        ({"factor_size": (33,)}, r"factor_size is \(33,\); give two lengths"),
        ({"factor_size": (33, 0)}, r"factor_size is \(33, 0\)"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of"),
        ({"dropout": 1.0}, r"dropout is 1\.0"),
        ({"inner_dropout": -0.5}, r"inner_dropout is -0\.5; it must be in \[0, 1\)"),
        ({"multi_grid": (1, 2)}, r"multi_grid is \(1, 2\), but the last stage of test_resnet has \d residual blocks"),
        ({"output_stride": 4}, "output_stride is 4"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MFNet(**{"spatial_dims": 2, "in_channels": 3, "out_channels": 2, **TINY, **options})  # type: ignore[arg-type]
