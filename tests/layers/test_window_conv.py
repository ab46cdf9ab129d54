"""Convolutions of several pixels are PyTorch's, in values and gradients, whatever kernel, stride, padding and size."""

import copy
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, conv3d

from medseg.engines.precision import network_to_channels_last
from medseg.layers import window_conv
from medseg.layers.direct_conv import DirectConv3d
from medseg.layers.quicken import quicken
from medseg.layers.window_conv import WindowConv2d, WindowConv3d, window_gradient

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
KERNELS = [
    ((3, 3, 3), (1, 1, 1), (1, 1, 1)),
    ((3, 3, 3), (2, 2, 2), (1, 1, 1)),
    ((1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ((2, 2, 2), (2, 2, 2), (0, 0, 0)),
    ((1, 1, 3), (3, 3, 1), (0, 0, 2)),  # planes and rows that nothing uses
    ((5, 3, 2), (1, 3, 2), (2, 0, 1)),
    ((4, 5, 1), (3, 2, 1), (3, 4, 0)),  # results that lie outside alone
]


@pytest.fixture
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let any processor and any size do it."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    monkeypatch.setattr(window_conv, "_LEAST_CHANNELS", 1)
    monkeypatch.setattr(window_conv, "_LEAST_PIXELS", 1)


@pytest.mark.parametrize("cache", [1, 3000, 2**22], ids=["a plane", "some planes", "all planes"])
@pytest.mark.parametrize("size", [(7, 6, 9), (4, 5, 5), (2, 3, 4)], ids=str)
@pytest.mark.parametrize(("kernel", "stride", "padding"), KERNELS)
@pytest.mark.parametrize("dims", [2, 3])
def test_gradients_are_those_of_double_precision(
    dims: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    size: Sequence[int],
    cache: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(window_conv, "_CACHE", cache)
    torch.manual_seed(0)
    kernel, stride, padding, size = kernel[-dims:], stride[-dims:], padding[-dims:], size[-dims:]
    lies = FORMATS[dims + 2]
    image = torch.randn(2, 3, *size, dtype=torch.float64)
    weight = torch.randn(4, 3, *kernel, dtype=torch.float64, requires_grad=True)
    if any(edge + 2 * pad < wanted for edge, pad, wanted in zip(size, padding, kernel, strict=True)):
        pytest.skip("the kernel is larger than the image")
    out = (conv2d if dims == 2 else conv3d)(image, weight, None, stride, padding)
    coming = torch.randn_like(out)
    (wanted,) = torch.autograd.grad(out, weight, coming)
    given, its_gradient = (each.contiguous(memory_format=lies) for each in (image, coming))
    found = window_gradient(given, its_gradient, kernel, stride, padding)
    torch.testing.assert_close(found, wanted)
    assert found.is_contiguous(memory_format=lies)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    ("layer", "size"),
    [(nn.Conv2d(16, 4, 3, padding=1), (9, 40)), (nn.Conv3d(16, 5, (3, 1, 2), (2, 1, 1), padding=1), (6, 7, 8))],
    ids=["2D", "3D"],
)
def test_values_and_gradients_are_pytorchs(
    layer: nn.Conv2d | nn.Conv3d, size: tuple[int, ...], batch: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    theirs = copy.deepcopy(layer)
    if not bias:
        theirs.bias = None
    ours = copy.deepcopy(theirs)
    network_to_channels_last(ours)
    assert isinstance(ours, WindowConv2d | WindowConv3d)
    image = torch.randn(batch, 16, *size).contiguous(memory_format=FORMATS[len(size) + 2])
    calls = []

    def counted(*arguments: Any) -> torch.Tensor:
        calls.append(1)
        return window_gradient(*arguments)

    monkeypatch.setattr(window_conv, "window_gradient", counted)
    found = []
    for each in (ours, theirs):
        given = image.clone().requires_grad_()
        out = each(given)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out.detach(), given.grad, *(p.grad for p in each.parameters())])
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
    assert calls
    assert found[0][2].stride() == ours.weight.stride()
    with torch.no_grad():
        assert ours(image).is_contiguous(memory_format=FORMATS[image.ndim])


@pytest.mark.usefixtures("everywhere")
def test_gradients_are_the_same_each_time() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 16, 6, 40, 33).contiguous(memory_format=torch.channels_last_3d)
    coming = torch.randn(2, 16, 6, 40, 33).contiguous(memory_format=torch.channels_last_3d)
    held = []
    for n in range(5):
        held.append(torch.empty(1000 * n + 17))  # memory lies elsewhere each time
        held.append(window_gradient(image.clone(), coming.clone(), (3, 3, 3), (1, 1, 1), (1, 1, 1)))
    assert all(torch.equal(held[1], other) for other in held[3::2])


@pytest.mark.usefixtures("everywhere")
def test_what_needs_no_gradient_of_weights_or_two_of_them_is_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    theirs = nn.Conv3d(16, 4, 3)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    image = torch.randn(1, 16, 5, 7, 8).contiguous(memory_format=torch.channels_last_3d)
    second = []
    for layer in (ours, theirs):
        given = image.clone().requires_grad_()
        (first,) = torch.autograd.grad(layer(given).square().sum(), layer.weight, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), [given, layer.weight]))
    for mine, reference in zip(*second, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5 * float(reference.abs().max()))
    monkeypatch.setattr(window_conv, "window_gradient", lambda *_: pytest.fail("asked for"))
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-5, atol=1e-6)
    double = copy.deepcopy(ours).double()
    double(image.double()).sum().backward()
    ours(image.contiguous()).sum().backward()  # the plain layout
    ours.weight.requires_grad_(False)
    ours(image.requires_grad_()).sum().backward()
    assert image.grad is not None


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Conv2d(16, 16, 3, dilation=2),
        nn.Conv2d(16, 16, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(16, 16, 3, padding="same"),
        nn.Conv3d(2, 16, 3),
        nn.ConvTranspose3d(16, 16, 3),
        nn.Conv1d(16, 16, 3),
    ],
    ids=repr,
)
def test_others_are_left(layer: nn.Module) -> None:
    quicken(layer)
    assert not isinstance(layer, WindowConv2d | WindowConv3d)


def test_a_processor_that_has_a_kernel_of_its_own_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    layer = nn.Conv3d(16, 16, 3)
    quicken(layer)
    assert type(layer) is DirectConv3d


@pytest.mark.usefixtures("everywhere")
def test_an_exported_network_says_convolution() -> None:
    network = nn.Sequential(nn.Conv2d(16, 4, 3, padding=1)).eval()
    image = torch.randn(2, 16, 6, 33)
    expected = network(image)
    quicken(network)
    exported = torch.export.export(network, (image,))
    assert any("conv" in str(node.target) for node in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(image), expected, rtol=1e-4, atol=1e-4)


def test_on_another_device_all_are_pytorchs() -> None:
    network = nn.Sequential(nn.Conv3d(16, 16, 3), nn.InstanceNorm3d(16, affine=True), nn.Conv3d(16, 2, 1)).to("meta")
    network_to_channels_last(network)
    assert [type(layer) for layer in network] == [nn.Conv3d, nn.InstanceNorm3d, nn.Conv3d]
