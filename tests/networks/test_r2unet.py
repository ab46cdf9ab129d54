"""R2U-Net: its recurrence unrolled by hand, and how often t convolves."""

import pytest
import torch
from networks.contract import assert_contract, assert_exports, assert_exports_open_sizes
from torch import Tensor, nn
from torch.nn.functional import conv2d

from medseg.networks.r2unet import R2UNet, RecurrentConv, RecurrentResidualBlock


@pytest.mark.parametrize("size", [(37, 64), (3, 9), (15, 32, 20)])
def test_contract(size: tuple[int, ...]) -> None:
    assert_contract(R2UNet(len(size), 2, 3, channels=(8, 16, 32), dropout=0.1), torch.rand(2, 2, *size), out_channels=3)


@pytest.mark.parametrize("residual", [True, False])
def test_exports(residual: bool) -> None:
    assert_exports(R2UNet(2, 1, 3, channels=(4, 8), residual=residual), torch.rand(1, 1, 20, 24), onnx=residual)


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_exports_open_sizes(spatial_dims: int) -> None:
    assert_exports_open_sizes(R2UNet(spatial_dims, 1, 3, channels=(4, 6, 8)), spatial_dims)


def test_parameters_are_about_the_unets() -> None:
    """The abstract: "same number of network parameters". Most of the rest is 1x1 convolutions."""
    with torch.device("meta"):
        network = R2UNet(2, 1, 5)
    parameters = sum(p.numel() for p in network.parameters())
    assert parameters == pytest.approx(31.04e6, rel=0.15)
    assert parameters == 35_625_669  # what the weights of a release fit


def test_a_time_step_costs_a_normalisation_and_no_kernel() -> None:
    sizes = [sum(p.numel() for p in R2UNet(2, 1, 2, channels=(4, 8), time_steps=t).parameters()) for t in (1, 2, 5)]
    per_step = 2 * 2 * (4 + 8 + 4)  # scale and shift of two layers in three blocks
    assert sizes == [sizes[0], sizes[0] + per_step, sizes[0] + 4 * per_step]


@pytest.mark.parametrize("time_steps", [1, 2, 3])
def test_a_block_convolves_twice_as_often_as_there_are_states(time_steps: int) -> None:
    block = RecurrentResidualBlock(2, 1, 4, time_steps=time_steps)
    kernels: list[tuple[int, ...]] = []
    for module in block.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda layer, *_: kernels.append(layer.kernel_size))
    block(torch.rand(2, 1, 6, 6))
    assert kernels == [(1, 1)] + [(3, 3)] * 2 * (time_steps + 1)


def unrolled(layer: RecurrentConv, x: Tensor, training: bool) -> Tensor:
    """t = 2 as the paper has it: one convolution of the input, then two with the state."""

    def f(step: int, y: Tensor) -> Tensor:
        norm = layer.steps[step][0]
        y = conv2d(y, layer.conv.weight, padding=1)
        if training:
            mean, variance = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = norm.running_mean, norm.running_var
        y = (y - mean[:, None, None]) / (variance[:, None, None] + norm.eps).sqrt()
        return (y * norm.weight[:, None, None] + norm.bias[:, None, None]).relu()

    first = f(0, x)
    second = f(1, x + first)
    return f(2, x + second)


@pytest.mark.parametrize("training", [True, False])
def test_recurrence_unrolled_by_hand(training: bool) -> None:
    torch.manual_seed(0)
    layer = RecurrentConv(2, 4)
    for _ in range(3):
        layer(torch.randn(3, 4, 8, 8))  # gives the normalisations statistics of their own
    layer.train(training)
    x = torch.randn(2, 4, 7, 9)
    torch.testing.assert_close(layer(x), unrolled(layer, x, training))


def test_running_statistics_fit_each_time_step() -> None:
    """So that evaluation sees what training saw; one normalisation for all time steps would not."""
    torch.manual_seed(2)
    layer, x = RecurrentConv(2, 4), torch.randn(8, 4, 32, 32)
    for _ in range(100):
        trained = layer(x)
    evaluated = layer.eval()(x)
    torch.testing.assert_close(evaluated, trained, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("residual", [True, False])
def test_a_block_is_two_layers_and_their_input(residual: bool) -> None:
    torch.manual_seed(1)
    block = RecurrentResidualBlock(2, 3, 5, residual=residual).eval()
    x = torch.randn(2, 3, 6, 5)
    narrow = conv2d(x, block.project.weight, block.project.bias)
    expected = unrolled(block.layers[1], unrolled(block.layers[0], narrow, False), False)
    torch.testing.assert_close(block(x), narrow + expected if residual else expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_steps": 0}, "time_steps is 0; it must be at least 1"),
        ({"norm": "bathc"}, "norm is 'bathc'; choose one of .*batch"),
        ({"channels": (8,)}, "two or more levels"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        R2UNet(2, 1, 5, **options)  # type: ignore[arg-type]
