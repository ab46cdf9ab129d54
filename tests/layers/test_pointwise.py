"""Convolutions of single pixels are PyTorch's, in values and gradients, and keep the memory layout."""

import copy

import pytest
import torch
from torch import nn

from medseg.layers.pointwise import PointConv2d, PointConv3d, SplitConv2d, SplitConv3d, is_pointwise
from medseg.layers.quicken import quicken

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LAYERS = {
    "2D": (nn.Conv2d(4, 3, 1), (9, 7), PointConv2d),
    "3D": (nn.Conv3d(4, 3, 1), (6, 5, 7), PointConv3d),
    "no bias, one channel": (nn.Conv3d(4, 1, 1, bias=False), (6, 5, 7), PointConv3d),
    "one pixel": (nn.Conv2d(4, 3, 1, padding="same"), (1, 1), PointConv2d),
    "split 2D": (nn.ConvTranspose2d(4, 3, 2, 2), (5, 3), SplitConv2d),
    "split 3D": (nn.ConvTranspose3d(4, 3, (2, 1, 3), (2, 1, 3)), (3, 4, 5), SplitConv3d),
    "split no bias": (nn.ConvTranspose3d(4, 1, 2, 2, bias=False), (3, 4, 5), SplitConv3d),
}


def pair(name: str) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
    theirs, size, kind = LAYERS[name]
    ours = copy.deepcopy(theirs)
    quicken(ours)
    assert type(ours) is kind
    return ours, theirs, size


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("name", LAYERS)
def test_values_and_gradients_are_pytorchs(name: str, last: bool, batch: int) -> None:
    torch.manual_seed(0)
    ours, theirs, size = pair(name)
    image = torch.randn(batch, 4, *size)
    if last:
        image = image.contiguous(memory_format=FORMATS[image.ndim])
    found = []
    for layer in (ours, theirs):
        layer.zero_grad()
        given = image.clone().requires_grad_()
        out = layer(given)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out.detach(), given.grad, *(p.grad for p in layer.parameters())])
    for mine, reference in zip(*found, strict=True):
        largest = float(reference.abs().max()) if reference.numel() else 0.0
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5 * largest)
    if last:
        assert found[0][0].is_contiguous(memory_format=FORMATS[image.ndim])
    with torch.inference_mode():
        torch.testing.assert_close(ours(image), theirs(image), rtol=1e-4, atol=1e-4)


STRIDED = [
    (nn.Conv2d(channels, features, 1, stride=2, bias=False), edges)
    for channels in (4, 8)
    for features in (8, 16)
    for edges in ((8, 8), (7, 9))
]


@pytest.mark.parametrize(
    ("layer", "size"), [*STRIDED, (nn.Conv2d(4, 8, 1, (1, 3)), (8, 8)), (nn.Conv3d(4, 8, 1, 2), (4, 6, 5))]
)
def test_strided_ones_are_right_where_pytorch_is_not(layer: nn.Conv2d | nn.Conv3d, size: tuple[int, ...]) -> None:
    """PyTorch's own backward of the first ones ends the process ("free(): invalid size"): double precision is right."""
    torch.manual_seed(0)
    lies = FORMATS[len(size) + 2]
    ours, theirs = copy.deepcopy(layer), copy.deepcopy(layer).double()
    quicken(ours)
    image = torch.randn(2, layer.in_channels, *size).contiguous(memory_format=lies)
    given, wanted = image.clone().requires_grad_(), image.double().contiguous().requires_grad_()
    out, reference = ours(given), theirs(wanted)
    factors = torch.randn(out.shape)
    (out * factors).sum().backward()
    (reference * factors).sum().backward()
    found = [out.detach(), given.grad, *(p.grad for p in ours.parameters())]
    for mine, right in zip(
        found, [reference.detach(), wanted.grad, *(p.grad for p in theirs.parameters())], strict=True
    ):
        assert mine is not None
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-5, check_dtype=False)
    assert out.is_contiguous(memory_format=lies)


@pytest.mark.parametrize("name", ["2D", "split 3D"])
def test_other_numbers_and_shapes_go_pytorchs_way(name: str) -> None:
    ours, theirs, size = pair(name)
    lies = FORMATS[len(size) + 2]
    image = torch.randn(2, 4, *size).contiguous(memory_format=lies)
    assert torch.equal(ours(image[0]), theirs(image[0]))  # no batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ours(image).dtype == theirs(image).dtype == torch.bfloat16
    said = []
    for layer in (ours, theirs):
        with pytest.raises(RuntimeError) as caught:
            layer(image[:, :3].contiguous(memory_format=lies))
        said.append(str(caught.value))
    assert said[0] == said[1]
    double = copy.deepcopy(ours).double()
    assert torch.equal(double(image.double()), copy.deepcopy(theirs).double()(image.double()))


def test_the_size_asked_of_a_transposed_convolution_is_given() -> None:
    ours, theirs, size = pair("split 2D")
    image = torch.randn(2, 4, *size).contiguous(memory_format=torch.channels_last)
    wanted = [2 * edge + 1 for edge in size]
    assert ours(image, wanted).shape == theirs(image, wanted).shape == (2, 3, *wanted)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, (1, 3)),
        nn.Conv2d(4, 4, 2, stride=2),
        nn.Conv2d(4, 4, 1, padding=1),
        nn.Conv3d(4, 4, 1, groups=2),
        nn.ConvTranspose2d(4, 4, 3, 2),
        nn.ConvTranspose2d(4, 4, 2, 2, padding=1),
        nn.ConvTranspose2d(4, 4, 2, 2, output_padding=1),
        nn.ConvTranspose3d(4, 4, 2, 2, groups=2),
    ],
    ids=repr,
)
def test_others_are_left(layer: nn.Module) -> None:
    assert not is_pointwise(layer)
    quicken(layer)
    assert not isinstance(layer, PointConv2d | PointConv3d | SplitConv2d | SplitConv3d)


def test_hooks_shared_layers_and_derived_classes() -> None:
    class Derived(nn.Conv2d):
        pass

    shared = nn.Conv2d(4, 4, 1)
    network = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared, Derived(4, 4, 1))})
    seen: list[int] = []
    shared.register_forward_hook(lambda *_: seen.append(1))
    parameters = dict(network.named_parameters())
    quicken(network)
    assert network["a"] is network["b"][0] is shared
    assert type(shared) is PointConv2d
    assert type(network["b"][1]) is Derived
    assert all(parameter is parameters[name] for name, parameter in network.named_parameters())
    shared(torch.randn(1, 4, 3, 3))
    assert seen == [1]


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning", "ignore::DeprecationWarning")
def test_what_is_scripted_or_exported_takes_any_batch() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(1, 4, 2, 2), nn.Conv2d(4, 3, 1)).eval()
    images = [torch.randn(n, 1, 6, 5) for n in (2, 3)]
    expected = [network(image) for image in images]
    quicken(network)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (images[0],), dynamic_shapes=({0: batch},))
    assert any("conv" in str(node.target) for node in exported.graph.nodes)  # other tools know what it is
    for made in (torch.jit.script(network), exported.module()):
        for image, wanted in zip(images, expected, strict=True):
            torch.testing.assert_close(made(image), wanted, rtol=1e-4, atol=1e-4)
