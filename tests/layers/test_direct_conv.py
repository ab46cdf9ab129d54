"""Convolutions without gradients are PyTorch's, of one sample as of several, and keep the memory layout."""

import copy

import pytest
import torch
from torch import nn

from medseg.layers.direct_conv import DirectConv2d, DirectConv3d
from medseg.layers.pointwise import PointConv2d, PointConv3d
from medseg.layers.quicken import quicken
from medseg.layers.window_conv import WindowConv2d, WindowConv3d

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
LAYERS = [
    (nn.Conv2d(4, 6, 3, padding=1), (9, 12)),
    (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), bias=False), (9, 12)),
    (nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=4), (9, 12)),
    (nn.Conv2d(4, 1, 1), (9, 12)),
    (nn.Conv3d(4, 6, 3, padding=1), (6, 5, 7)),
    (nn.Conv3d(4, 6, (3, 1, 2), stride=(1, 2, 2), padding=(0, 1, 1)), (6, 5, 7)),
    (nn.Conv3d(4, 6, 3, groups=2, dilation=(1, 2, 1)), (6, 5, 7)),
    (nn.Conv3d(4, 3, 1, stride=2), (6, 5, 7)),
]


def pair(layer: nn.Module) -> tuple[nn.Module, nn.Module]:
    ours = copy.deepcopy(layer)
    quicken(ours)
    return ours, layer


@pytest.mark.parametrize("batch", [0, 1, 3])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize(("layer", "size"), LAYERS, ids=lambda each: repr(each))
def test_values_are_those_of_double_precision(
    layer: nn.Conv2d | nn.Conv3d, size: tuple[int, ...], last: bool, batch: int
) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(layer)
    image = torch.randn(batch, 4, *size)
    if last:
        image = image.contiguous(memory_format=FORMATS[image.ndim])
    with torch.inference_mode():
        found = ours(image)
        wanted = copy.deepcopy(theirs).double()(image.double())
    torch.testing.assert_close(found.double(), wanted, rtol=1e-5, atol=1e-6)
    if last and batch:
        assert found.is_contiguous(memory_format=FORMATS[image.ndim])


def test_a_single_volume_goes_the_way_of_several() -> None:
    torch.manual_seed(0)
    ours, theirs = pair(nn.Conv3d(8, 8, 3, padding=1))
    image = torch.randn(2, 8, 6, 7, 5).contiguous(memory_format=torch.channels_last_3d)

    def operations(layer: nn.Module, images: torch.Tensor) -> set[str]:
        with torch.no_grad(), torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            layer(images)
        return {event.key for event in profile.key_averages()}

    way = "aten::mkldnn_convolution"
    assert way in operations(theirs, image)
    assert way in operations(ours, image[:1])
    with torch.no_grad():
        torch.testing.assert_close(ours(image[:1]), theirs(image)[:1], rtol=1e-5, atol=1e-6)


def test_gradients_are_pytorchs() -> None:
    torch.manual_seed(0)
    ours, theirs = pair(nn.Conv3d(4, 6, 3, padding=1))
    image = torch.randn(1, 4, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    for layer in (ours, theirs):
        layer(image).square().sum().backward()
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:TF32 acceleration:UserWarning")
def test_where_onednn_is_switched_off_it_is_not_asked() -> None:
    ours, theirs = pair(nn.Conv3d(4, 6, 3, padding=1))
    image = torch.randn(1, 4, 5, 6, 7).contiguous(memory_format=torch.channels_last_3d)
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("image", [torch.randn(1, 4, 2, 2), torch.randn(1, 3, 9, 9), torch.randn(1, 4, 9, 9).double()])
def test_what_does_not_fit_is_refused_by_pytorch(image: torch.Tensor) -> None:
    ours, theirs = pair(nn.Conv2d(4, 6, 3))
    image = image.contiguous(memory_format=torch.channels_last)
    said = []
    for layer in (ours, theirs):
        with torch.no_grad(), pytest.raises(RuntimeError) as caught:
            layer(image)
        said.append(str(caught.value))
    assert said[0] == said[1]


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (nn.Conv2d(2, 4, 3), (DirectConv2d, WindowConv2d)),
        (nn.Conv3d(2, 4, 3), (DirectConv3d, WindowConv3d)),
        (nn.Conv2d(2, 4, 1), (PointConv2d,)),
        (nn.Conv3d(2, 4, 1), (PointConv3d,)),
        (nn.Conv2d(2, 4, 3, padding="same"), (nn.Conv2d,)),
        (nn.Conv3d(2, 4, 3, padding=1, padding_mode="reflect"), (nn.Conv3d,)),
        (nn.Conv1d(2, 4, 3), (nn.Conv1d,)),
    ],
    ids=lambda each: repr(each),
)
def test_which_are_taken(layer: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    quicken(layer)
    assert type(layer) in kinds


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning", "ignore::DeprecationWarning")
def test_what_is_scripted_or_exported_takes_any_batch() -> None:
    network = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.Conv3d(4, 3, 3)).eval()
    images = [torch.randn(n, 1, 6, 5, 4) for n in (2, 3)]
    expected = [network(image) for image in images]
    quicken(network)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (images[0],), dynamic_shapes=({0: batch},))
    assert any("conv3d" in str(node.target) for node in exported.graph.nodes)  # other tools know what it is
    for made in (torch.jit.script(network), exported.module()):
        for image, wanted in zip(images, expected, strict=True):
            with torch.no_grad():
                torch.testing.assert_close(made(image), wanted, rtol=1e-4, atol=1e-4)
