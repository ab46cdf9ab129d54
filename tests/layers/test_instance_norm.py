"""Instance normalisation is PyTorch's, in either layout, in values and gradients; networks get it without noticing."""

import copy

import pytest
import torch
from torch import nn

from medseg.engines.precision import network_to_channels_last
from medseg.layers.instance_norm import InstanceNorm2d, InstanceNorm3d, _SampleBySample
from medseg.layers.quicken import quicken

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def pair(dims: int, channels: int, *, affine: bool) -> tuple[nn.Module, nn.Module]:
    theirs = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](channels, affine=affine)
    if affine:
        nn.init.uniform_(theirs.weight)
        nn.init.uniform_(theirs.bias)
    ours = {2: InstanceNorm2d, 3: InstanceNorm3d}[dims](channels, affine=affine)
    ours.load_state_dict(theirs.state_dict())
    return ours, theirs


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("size", [(9, 7), (6, 5, 7)], ids=["2D", "3D"])
def test_values_and_gradients_are_pytorchs(size: tuple[int, ...], last: bool, affine: bool, batch: int) -> None:
    torch.manual_seed(0)
    ours, theirs = pair(len(size), 4, affine=affine)
    image = 5 + 3 * torch.randn(batch, 4, *size)
    if last:
        image = image.contiguous(memory_format=FORMATS[image.ndim])
    found = []
    for layer in (ours, theirs):
        given = image.clone().requires_grad_()
        out = layer(given)
        (out * torch.arange(out.numel()).view(out.shape)).sum().backward()
        found.append([out.detach(), given.grad, *(p.grad for p in layer.parameters())])
    for mine, reference in zip(*found, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-4 * float(reference.abs().max()))
    assert ours(image).stride() == image.stride()  # the next convolution need not turn it around


def laid_out(image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the same values as they may lie in memory."""
    last = FORMATS[image.ndim]
    return {
        "plain": image.contiguous(),
        "channels-last": image.contiguous(memory_format=last),
        "axes turned": image.mT.contiguous().mT,
        "every second": torch.stack([image, image], -1)[..., 0],
        "half of the channels": torch.cat([image, image], 1).contiguous(memory_format=last)[:, : image.shape[1]],
    }


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("batch", [1, 2])
def test_however_image_and_gradient_lie(batch: int, channels: int, kind: torch.dtype) -> None:
    """PyTorch 2.15 gives wrong gradients of one sample where the gradient that comes is channels-last."""
    torch.manual_seed(0)
    ours, theirs = pair(3, channels, affine=True)
    ours.to(kind)
    image, coming = 5 + 3 * torch.randn(batch, channels, 3, 2, 4), torch.randn(batch, channels, 3, 2, 4)

    def gradients(layer: nn.Module, image: torch.Tensor, coming: torch.Tensor) -> list[torch.Tensor]:
        given = image.detach().requires_grad_()
        return list(torch.autograd.grad(layer(given), [given, *layer.parameters()], coming))

    exact = gradients(theirs.double(), image.double().contiguous(), coming.double().contiguous())
    for how, mine in laid_out(image.to(kind)).items():
        torch.testing.assert_close(ours(mine).double(), theirs(image.double()), rtol=1e-4, atol=1e-4, msg=how)
        for lies, gradient in laid_out(coming.to(kind)).items():
            for found, wanted in zip(gradients(ours, mine, gradient), exact, strict=True):
                torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-4, msg=f"{how}, {lies}")


@pytest.mark.parametrize("affine", [True, False])
def test_derivatives_twice(affine: bool) -> None:
    torch.manual_seed(0)
    image = torch.randn(3, 2, 3, 4).double().contiguous(memory_format=torch.channels_last)
    scale = [torch.rand(2).double() if affine else None for _ in range(2)]
    inputs = [tensor.requires_grad_() for tensor in (image, *scale) if tensor is not None]

    def layer(*tensors: torch.Tensor) -> torch.Tensor:
        return _SampleBySample.apply(*(tensors if affine else (*tensors, None, None)), 1e-5)[0]

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


def test_a_mean_far_from_zero_keeps_its_digits() -> None:
    """PyTorch's group norm of channels-last maps does not: it takes the difference of two squares."""
    torch.manual_seed(0)
    image = (300 + torch.randn(2, 16, 24, 24, 24)).contiguous(memory_format=torch.channels_last_3d)
    exact = nn.functional.instance_norm(image.double())
    assert (InstanceNorm3d(16)(image) - exact).abs().max() < 0.01


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 5, 6, 6)], ids=["one pixel", "other channels"])
def test_what_pytorch_refuses_or_warns_of_is_left_to_it(shape: tuple[int, ...]) -> None:
    ours, theirs = pair(2, 4, affine=False)
    said = []
    for layer in (ours, theirs):
        with pytest.raises((ValueError, UserWarning)) as caught:
            layer(torch.randn(shape))
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_other_numbers_go_pytorchs_way() -> None:
    ours, theirs = pair(2, 4, affine=True)
    image = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    assert torch.equal(ours.double()(image), theirs.double()(image))
    kept = InstanceNorm2d(4, track_running_stats=True).eval()
    assert torch.allclose(kept(image.float()), image.float(), atol=1e-4)  # by the statistics that it keeps: 0 and 1


def test_a_network_keeps_its_parameters_and_names() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Conv3d(2, 4, 3), nn.InstanceNorm3d(4, affine=True))
    network = nn.Sequential(inner, nn.InstanceNorm3d(4), nn.InstanceNorm3d(4, track_running_stats=True)).eval()
    before, kept = copy.deepcopy(network), dict(network.named_parameters())
    network_to_channels_last(network)
    assert [type(layer) for layer in network[1:]] == [InstanceNorm3d, InstanceNorm3d]
    assert list(network.state_dict()) == list(before.state_dict())
    assert all(parameter is kept[name] for name, parameter in network.named_parameters())  # an optimiser has them
    assert not network[0][1].training
    image = torch.randn(2, 2, 8, 8, 8)
    torch.testing.assert_close(network(image), before(image), rtol=1e-4, atol=1e-4)
    again = network[1]
    quicken(network)
    assert network[1] is again


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning", "ignore::DeprecationWarning")
def test_what_is_scripted_or_exported_takes_any_batch() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True)).eval()
    images = [torch.randn(n, 1, 6, 5) for n in (2, 3)]
    expected = [network(image) for image in images]
    network_to_channels_last(network)
    batch = torch.export.Dim("batch")
    exported = torch.export.export(network, (images[0],), dynamic_shapes=({0: batch},)).module()
    for made in (torch.jit.script(network), exported):
        for image, wanted in zip(images, expected, strict=True):
            torch.testing.assert_close(made(image), wanted, rtol=1e-4, atol=1e-4)
