"""Averaging over scales and flips."""

import itertools
import weakref
from typing import Any

import pytest
import torch
from monai.data import MetaTensor
from torch import Tensor, nn
from torch.nn.functional import interpolate

from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.resize import ResizeInferer
from medseg.inferers.sliding_window import SlidingWindow


def convolution(spatial_dims: int, classes: int = 3) -> nn.Module:
    """A network that no flip and no scale leaves alone."""
    torch.manual_seed(0)
    kind = nn.Conv2d if spatial_dims == 2 else nn.Conv3d
    network: nn.Module = kind(2, classes, 3, padding=1)
    return network


def pixelwise(x: Tensor) -> Tensor:
    return torch.cat([x, -3 * x, x**2], dim=1)


def resized(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """As training does it: anti-aliased in 2D, averaged or linear in 3D; written for sizes that only shrink or grow."""
    if len(size) == 2:
        return interpolate(x, size, mode="bilinear", antialias=True)
    return interpolate(x, size, mode="area" if size[0] < x.shape[2] else "trilinear")


@pytest.mark.parametrize("classes", [1, 3])
def test_one_view_is_the_plain_inferer(classes: int) -> None:
    network = convolution(2, classes)
    image = torch.rand(2, 2, 9, 14)
    logits = network(image)
    found = MultiScaleFlipInferer([1.0], [])(image, network)
    expected = logits if classes == 1 else logits.log_softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    if classes > 1:
        torch.testing.assert_close(found.softmax(1), logits.softmax(1))
        assert torch.equal(found.argmax(1), logits.argmax(1))


def test_certain_pixels_stay_finite() -> None:
    """Where float32 rounds a probability to 0 or 1: in ignored corners of a map, infinity times 0 would be NaN."""
    logits = torch.tensor([[1000.0, 0.0, -1000.0]]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    found = MultiScaleFlipInferer([1.0, 0.5])(logits, lambda x: x)
    assert bool(found.isfinite().all())
    assert bool((found.argmax(1) == 0).all())
    steep = torch.linspace(-40, 40, 16).reshape(1, 1, 4, 4)
    torch.testing.assert_close(MultiScaleFlipInferer([1.0], [])(steep, lambda x: x), steep, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("flip_axes", [(-1,), (0, 1), (-1, 0)])
def test_a_flip_equivariant_network_is_unchanged(flip_axes: tuple[int, ...]) -> None:
    image = torch.randn(1, 1, 7, 10)
    found = MultiScaleFlipInferer([1.0], flip_axes)(image, pixelwise)
    torch.testing.assert_close(found, pixelwise(image).log_softmax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "flip_axes"), [((11, 16), (-1,)), ((11, 16), (0, 1)), ((6, 8, 10), (-1,)), ((6, 8, 10), (0, 1, 2))]
)
@pytest.mark.parametrize("classes", [1, 3])
def test_equals_averaging_by_hand(size: tuple[int, ...], flip_axes: tuple[int, ...], classes: int) -> None:
    network = convolution(len(size), classes)
    image = torch.rand(2, 2, *size)
    scales = (0.5, 1.0, 1.5)
    probabilities = []
    for scale in scales:
        view = resized(image, tuple(round(edge * scale) for edge in size)) if scale != 1 else image
        for flipped in itertools.product([False, True], repeat=len(flip_axes)):
            axes = [2 + axis % len(size) for axis, flip in zip(flip_axes, flipped, strict=True) if flip]
            logits = network(view.flip(axes)).flip(axes)
            logits = resized(logits, size) if scale != 1 else logits
            probabilities.append(logits.sigmoid() if classes == 1 else logits.softmax(1))
    mean = torch.stack(probabilities).mean(0)
    found = MultiScaleFlipInferer(scales, flip_axes)(image, network)
    torch.testing.assert_close(found.sigmoid() if classes == 1 else found.softmax(1), mean, rtol=1e-4, atol=1e-6)
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert len(probabilities) == 3 * 2 ** len(flip_axes)


@pytest.mark.parametrize("views", [1, 7])
def test_only_one_view_is_alive(views: int) -> None:
    """What the network returned for earlier views is gone at the next one; of what it was given, two are there at
    most: the image itself and the scaled one, until its flipped view is done."""
    network = convolution(2)
    given: list[weakref.ref[Tensor]] = []
    returned: list[weakref.ref[Tensor]] = []
    alive = []

    def watched(x: Tensor) -> Tensor:
        alive.append([sum(each() is not None for each in some) for some in (given, returned)])
        logits: Tensor = network(x)
        given.append(weakref.ref(x))
        returned.append(weakref.ref(logits))
        return logits

    scales = [0.5 + 0.25 * number for number in range(views)]
    MultiScaleFlipInferer(scales)(torch.rand(1, 2, 16, 16), watched)
    assert len(alive) == 2 * views
    assert max(inputs for inputs, _ in alive) <= 2
    assert max(outputs for _, outputs in alive) == 0


def test_a_sliding_window_inside() -> None:
    image = torch.randn(1, 1, 30, 22)
    sizes = set()

    def watched(x: Tensor) -> Tensor:
        sizes.add(tuple(x.shape[2:]))
        return pixelwise(x)

    found = MultiScaleFlipInferer([0.5, 1.0, 1.5], inferer=SlidingWindow([8, 8], overlap=0.5))(image, watched)
    assert sizes == {(8, 8)}
    torch.testing.assert_close(found, MultiScaleFlipInferer([0.5, 1.0, 1.5])(image, pixelwise), rtol=1e-3, atol=1e-4)


def test_one_size_inside() -> None:
    image = torch.rand(1, 2, 20, 30)
    inner = ResizeInferer((16, 16))
    network = convolution(2)
    found = MultiScaleFlipInferer([1.0], [], inner)(image, network)
    torch.testing.assert_close(found, inner(image, network).log_softmax(1))
    assert MultiScaleFlipInferer([0.5, 2.0], inferer=inner)(image, network).shape == (1, 3, 20, 30)


@pytest.mark.parametrize("options", [{"inferer": SlidingWindow([8, 8])}, {"spatial_dims": 2}])
def test_volumes_go_slice_by_slice_through_a_2d_network(options: dict[str, Any]) -> None:
    volume = torch.rand(1, 2, 12, 10, 11)
    network = convolution(2)
    inferer = MultiScaleFlipInferer([0.5, 1.0], **options)
    found = inferer(volume, network)
    assert found.shape == (1, 3, 12, 10, 11)
    for depth in (0, 10):
        torch.testing.assert_close(found[..., depth], inferer(volume[..., depth], network), rtol=1e-4, atol=1e-5)


def test_sizes_are_multiples_of_the_divisor() -> None:
    sizes = []

    def watched(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape[2:]))
        return pixelwise(x)

    found = MultiScaleFlipInferer([0.1, 0.5, 1.0, 2.0], [], size_divisor=16)(torch.rand(1, 1, 50, 70), watched)
    assert sizes == [(16, 16), (32, 32), (48, 64), (96, 144)]
    assert found.shape == (1, 3, 50, 70)


def test_files_as_they_are_read() -> None:
    pixels = torch.randint(0, 256, (1, 1, 6, 8), dtype=torch.uint8)
    found = MultiScaleFlipInferer([1.0])(MetaTensor(pixels), lambda x: pixelwise(x / 255))
    assert type(found) is Tensor
    torch.testing.assert_close(found, pixelwise(pixels / 255).log_softmax(1))


def test_bad_use() -> None:
    image = torch.rand(1, 1, 8, 8)
    for scales in ([], [1.0, 0.0]):
        with pytest.raises(ValueError, match=r"scales are \[.*\]; give at least one, each above 0"):
            MultiScaleFlipInferer(scales)
    with pytest.raises(ValueError, match="size_divisor is 0"):
        MultiScaleFlipInferer(size_divisor=0)
    with pytest.raises(ValueError, match="spatial_dims is 4; it must be 2 or 3"):
        MultiScaleFlipInferer(spatial_dims=4)
    for axes in ((2,), (-3,), (1, -1)):
        with pytest.raises(ValueError, match=r"an image of 2 spatial dimensions has the axes -2 to 1, each .* once"):
            MultiScaleFlipInferer(flip_axes=axes)(image, pixelwise)
    with pytest.raises(ValueError, match=r"the network returns a dict; .* call network.eval\(\)"):
        MultiScaleFlipInferer()(image, lambda x: {"pred": x})
    with pytest.raises(ValueError, match="the image has 2 spatial dimensions"):
        MultiScaleFlipInferer(spatial_dims=3)(image, pixelwise)
