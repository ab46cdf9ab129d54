"""Normalisations are PyTorch's, in either layout, in values and gradients; networks get them without noticing."""

import copy

import pytest
import torch
from timm.layers import BatchNormAct2d, GroupNormAct
from timm.layers import GroupNorm as TimmGroupNorm
from timm.layers import LayerNorm as TimmLayerNorm
from timm.layers import LayerNorm2d as TimmLayerNorm2d
from torch import nn

from medseg.engines.precision import network_to_channels_last
from medseg.layers import norms
from medseg.layers.normalised import normalised
from medseg.layers.norms import InstanceNorm2d, InstanceNorm3d
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


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("affine", [True, False])
def test_derivatives_twice(affine: bool, joined: bool, groups: int) -> None:
    if joined and groups != 4:
        pytest.skip("a batch has a mean a channel")
    torch.manual_seed(0)
    image = torch.randn(3, 4, 3, 2).double().contiguous(memory_format=torch.channels_last)
    scale = [torch.rand(4).double() if affine else None for _ in range(2)]
    inputs = [tensor.requires_grad_() for tensor in (image, *scale) if tensor is not None]

    def layer(*tensors: torch.Tensor) -> torch.Tensor:
        return normalised(*(tensors if affine else (*tensors, None, None)), 1e-5, groups, joined=joined).result

    assert torch.autograd.gradcheck(layer, inputs)
    assert torch.autograd.gradgradcheck(layer, inputs)


LAYERS = {
    "group": lambda _: nn.GroupNorm(4, 8),
    "group of one": lambda _: nn.GroupNorm(8, 8),
    "all": lambda _: nn.GroupNorm(1, 8),
    "instance": lambda dims: (nn.InstanceNorm2d if dims == 2 else nn.InstanceNorm3d)(8, affine=True),
    "batch": lambda dims: (nn.BatchNorm2d if dims == 2 else nn.BatchNorm3d)(8),
    "layer": lambda dims: nn.LayerNorm([8, 9, 10, 11][: dims + 1]),
    "group and activation": lambda _: GroupNormAct(8, 4, act_layer=nn.Sigmoid),
    "batch and activation": lambda _: BatchNormAct2d(8, act_layer=nn.Sigmoid),
    "timm's group": lambda _: TimmGroupNorm(8, 4),
    "timm's layer": lambda _: TimmLayerNorm(10),
    "timm's layer over channels": lambda _: TimmLayerNorm2d(8),
}
FOR_PICTURES = ("batch and activation", "timm's layer", "timm's layer over channels")


def against_exact(
    layer: nn.Module, image: torch.Tensor, coming: torch.Tensor, *, short: bool = False
) -> dict[str, float]:
    """Return by how much a quick layer's values and gradients differ from those in double precision, as shares."""
    exact = copy.deepcopy(layer).double()
    quicken(layer)
    assert type(layer).__module__ == norms.__name__
    found = []
    for one, given, gradient in (
        (layer, image, coming),
        (exact, image.double().contiguous(), coming.double().contiguous()),
    ):
        given = given.detach().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=short and one is layer):
            out = one(given)
        assert out.shape == given.shape
        out.backward(gradient.to(out.dtype))
        numbers = {"result": out.detach(), "image": given.grad} | {f"of {n}": p.grad for n, p in one.named_parameters()}
        found.append(numbers | {n: b for n, b in one.named_buffers() if b.is_floating_point()})
    return {
        name: float((found[0][name].double() - wanted).abs().max() / wanted.abs().max())
        for name, wanted in found[1].items()
    }


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mean", [0, 1, 30, 1000])
def test_a_mean_far_from_zero_keeps_its_digits(
    mean: float, dims: int, last: bool, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch 2.15 loses a group norm's result where a map is channels-last: it takes a difference of squares."""
    monkeypatch.setattr(norms, "_FEW", 1)
    if dims == 3 and kind in FOR_PICTURES:
        pytest.skip("is of pictures")
    torch.manual_seed(0)
    layer = LAYERS[kind](dims)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    image, coming = (torch.randn(2, 8, *[9, 10, 11][:dims]) for _ in range(2))
    image = (mean + image).contiguous(memory_format=FORMATS[dims + 2] if last else torch.contiguous_format)
    shares = against_exact(layer, image, coming)
    assert max(shares.values()) < 2e-6 * (1 + 0.5 * mean), shares  # half a unit in the mean's last place is 3e-8 of it


@pytest.mark.parametrize("kind", [kind for kind in LAYERS if "activation" not in kind])
@pytest.mark.parametrize("last", [True, False], ids=["channels-last", "plain"])
@pytest.mark.parametrize("mean", [0, 30, 1000])
def test_short_numbers(mean: float, last: bool, kind: str) -> None:
    """PyTorch 2.15 adds up the gradients of a layer norm's weight in bfloat16, whose sums stop growing."""
    torch.manual_seed(0)
    image, coming = (torch.randn(2, 8, 96, 88).bfloat16() for _ in range(2))
    layer = nn.LayerNorm([88]) if kind == "layer" else TimmLayerNorm(88) if kind == "timm's layer" else LAYERS[kind](2)
    image = (mean + image).contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    for name, share in against_exact(layer, image, coming, short=True).items():
        assert share < 0.01, name  # eight bits


@pytest.mark.parametrize("kind", ["group", "instance", "batch"])
def test_many_voxels_are_all_counted(kind: str) -> None:
    """PyTorch 2.15 adds up a channels-last map value after value: 0.0005 off at 1.5 million, 0.03 at 17 million."""
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        layer = nn.GroupNorm(2, 2) if kind == "group" else LAYERS[kind](3).__class__(2, affine=True)
        image = torch.rand(1, 2, 112, 112, 112).contiguous(memory_format=torch.channels_last_3d)
        coming = 2 * image + torch.rand_like(image)  # every sum is of one sign
        shares = against_exact(layer, image, coming)
    finally:
        torch.set_num_threads(threads)
    assert {name: share for name, share in shares.items() if share > 1e-5} == {}


def test_batch_norm_keeps_its_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of PyTorch in double precision: over steps, by either kind of average, and where none are kept."""
    monkeypatch.setattr(norms, "_FEW", 1)
    torch.manual_seed(0)
    images = [(3 + torch.rand(2, 4, 5, 6)).contiguous(memory_format=torch.channels_last) for _ in range(3)]
    for settings in ({}, {"momentum": None}, {"affine": False}, {"track_running_stats": False}):
        ours, exact = nn.BatchNorm2d(4, **settings), nn.BatchNorm2d(4, **settings).double()
        quicken(ours)
        for training in (True, False):
            for image in images:
                result = ours.train(training)(image)
                torch.testing.assert_close(result.double(), exact.train(training)(image.double()), rtol=0, atol=1e-5)
                assert result.stride() == image.stride()
        for name, buffer in exact.named_buffers():
            torch.testing.assert_close(ours.get_buffer(name).to(buffer), buffer, rtol=1e-5, atol=1e-6)


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


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.BatchNorm3d, BatchNormAct2d])
def test_a_scripted_batch_norm_learns_as_pytorchs(kind: type[nn.Module], momentum: float | None) -> None:
    torch.manual_seed(0)
    theirs = kind(4, momentum=momentum)
    ours = copy.deepcopy(theirs)
    quicken(ours)
    assert type(ours).__module__ == norms.__name__
    scripted = torch.jit.script(ours)
    shape = (2, 4, 3, 5, 6) if kind is nn.BatchNorm3d else (2, 4, 5, 6)
    for training in (True, True, False):
        image = 2 + torch.randn(shape)
        scripted.train(training)
        torch.testing.assert_close(scripted(image), theirs.train(training)(image))
    for name, buffer in theirs.named_buffers():
        torch.testing.assert_close(dict(scripted.named_buffers())[name], buffer)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning", "ignore::DeprecationWarning")
def test_a_scripted_group_norm_drops_and_activates() -> None:
    theirs = GroupNormAct(8, 4, act_layer=nn.Sigmoid)
    ours, image = copy.deepcopy(theirs), 2 + torch.randn(2, 8, 5, 6)
    quicken(ours)
    torch.testing.assert_close(torch.jit.script(ours)(image), theirs(image))
