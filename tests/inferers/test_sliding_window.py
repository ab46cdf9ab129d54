"""Sliding window, against MONAI's."""

import math
from collections.abc import Callable
from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest
import torch
from edges_matter import edges_matter
from monai.data import MetaTensor
from monai.inferers import SlidingWindowInferer
from torch import Tensor, nn

from medseg.inferers import blocks as blocks_of_images
from medseg.inferers import sliding_window
from medseg.inferers import windows as window_parts
from medseg.inferers.blocks import Block, blocks_of, class_indices, finite, gather, whole
from medseg.inferers.memory_format import classes_last, to_memory_format
from medseg.inferers.multi_scale_flip import MultiScaleFlipInferer
from medseg.inferers.normalise import NormalisingInferer
from medseg.inferers.resize import ResizeInferer
from medseg.inferers.sliding_window import SlidingWindow
from medseg.inferers.whole_image import WholeImage
from medseg.inferers.windows import WindowGrid


def pixelwise(x: Tensor) -> Tensor:
    return torch.cat([x, 2 * x], dim=1)


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize(
    ("shape", "roi_size", "overlap"),
    [
        ((1, 2, 40, 32), (16, 12), 0.25),
        ((3, 2, 17, 22), (8, 9), 0.5),
        ((2, 2, 5, 40), (16, 16), 0.5),
        ((1, 2, 7, 6), (16, 9), 0.5),
        ((1, 2, 16, 12), (16, 12), 0.25),
        ((1, 2, 15, 21), (6, 5), 0.8),
        ((1, 2, 16, 13, 9), (8, 8, 4), 0.5),
        ((2, 2, 9, 20, 6), (8, 7, 9), 0.0),
        ((1, 2, 6, 11, 17), (5, 20, 8), 0.25),
        ((1, 2, 9, 10, 7), (5, 5, 5), 0.7),
    ],
)
@torch.no_grad()
def test_equals_monai(shape: tuple[int, ...], roi_size: tuple[int, ...], overlap: float, mode: str) -> None:
    network = edges_matter(len(roi_size))
    image = torch.randn(shape)
    for batch in (1, 4):
        expected = SlidingWindowInferer(roi_size, batch, overlap, mode)(image, network)
        found = SlidingWindow(roi_size, batch, overlap, mode)(image, network)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("classes", [1, 5])
@pytest.mark.parametrize(("roi_size", "overlap"), [((8, 9, 6), 0.5), ((8, 9), 0.7), ((6, 5, 20), 0.3)])
@torch.no_grad()
def test_blocks_lie_in_memory_as_logits_do(roi_size: tuple[int, ...], overlap: float, classes: int) -> None:
    """Voxel by voxel or class by class: the values are the same, and no block is turned round."""
    image = torch.randn(1, 2, *(17, 22, 9)[: len(roi_size)])
    network, window = edges_matter(len(roi_size), classes), SlidingWindow(roi_size, 2, overlap)
    expected = SlidingWindowInferer(roi_size, 2, overlap, "gaussian")(image, network)
    for side_by_side in (False, True):

        def laid(x: Tensor, side_by_side: bool = side_by_side) -> Any:
            plain = network(x).contiguous()
            return to_memory_format(plain) if side_by_side else plain

        blocks = list(window.blocks(image, laid))
        assert len(blocks) > 1
        several = [logits for _, logits in blocks if logits[0, 0].numel() > 1]  # a voxel lies both ways
        assert all(classes_last(logits) == (side_by_side and classes > 1) for logits in several)
        torch.testing.assert_close(window(image, laid), expected, rtol=1e-4, atol=1e-5)
        found = class_indices(finite(window.blocks(image, laid)), (1, *image.shape[2:]))
        assert torch.equal(found, class_indices([whole(image, window(image, laid))], (1, *image.shape[2:])))


@torch.no_grad()
def test_one_window_is_its_own_mean() -> None:
    image, network = torch.randn(1, 2, 7, 8), edges_matter(2)
    seen: list[Tensor] = []
    found = SlidingWindow((8, 8))(image, lambda x: seen.append(network(x)) or seen[-1])
    assert torch.equal(found, seen[0][:, :, :7])  # not even rounded


@torch.no_grad()
def test_large_windows_go_one_by_one_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    image, network, seen = torch.randn(1, 2, 20, 13), edges_matter(2), []

    def watched(x: Tensor) -> Any:
        seen.append(len(x))
        return network(x)

    expected = SlidingWindow((8, 8), 4, 0.5)(image, watched)
    assert max(seen) == 4
    for voxels, most in ((3 * 64, 3), (63, 1)):
        seen.clear()
        monkeypatch.setattr(sliding_window, "_VOXELS", voxels)
        torch.testing.assert_close(SlidingWindow((8, 8), 4, 0.5)(image, watched), expected, rtol=1e-4, atol=1e-5)
        assert max(seen) == most


@pytest.mark.parametrize("options", [{"padding_mode": "reflect"}, {"padding_mode": "replicate"}, {"cval": -3.0}])
@torch.no_grad()
def test_padding_is_that_of_monai(options: dict[str, Any]) -> None:
    image, network = torch.randn(1, 2, 11, 40), edges_matter(2)
    expected = SlidingWindowInferer((16, 16), 3, 0.5, "gaussian", **options)(image, network)
    torch.testing.assert_close(
        SlidingWindow((16, 16), 3, 0.5, **options)(image, network), expected, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_no_forward_more_than_monai_and_the_same_windows() -> None:
    """Batches run on from one row and one image to the next."""
    seen: tuple[list[Tensor], list[Tensor]] = ([], [])
    image = torch.randn(2, 1, 20, 13, 9)
    for windows, kind in zip(seen, (SlidingWindowInferer, SlidingWindow), strict=True):
        kind((8, 8, 4), 5, 0.5, "constant")(image, lambda x, windows=windows: windows.append(x.clone()) or x)
    assert [len(batch) for batch in seen[0]] == [len(batch) for batch in seen[1]]
    theirs, ours = ({window.numpy().tobytes() for window in torch.cat(windows)} for windows in seen)
    assert theirs == ours


@pytest.mark.parametrize("shape", [(1, 1, 40, 56), (2, 1, 16, 16), (1, 1, 5, 70), (1, 1, 33, 20, 11)])
def test_a_pixelwise_network_is_reproduced(shape: tuple[int, ...]) -> None:
    x = torch.rand(shape)
    torch.testing.assert_close(SlidingWindow([16, 16], overlap=0.5)(x, pixelwise), pixelwise(x))


@torch.no_grad()
def test_slices_of_a_volume_are_pictures() -> None:
    volume, network = torch.randn(2, 2, 20, 13, 11), edges_matter(2)
    found = SlidingWindow((8, 8), 3, 0.5)(volume, network)
    for depth in range(11):
        expected = SlidingWindowInferer((8, 8), 3, 0.5, "gaussian")(volume[..., depth], network)
        torch.testing.assert_close(found[..., depth], expected, rtol=1e-4, atol=1e-5)


def test_windows_are_channels_last() -> None:
    seen = []

    def network(x: Tensor) -> Tensor:
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return x

    SlidingWindow([8, 8])(torch.rand(1, 3, 16, 16), network)
    assert seen
    assert all(seen)


@torch.no_grad()
def test_types_and_places() -> None:
    image, network = torch.randn(1, 2, 20, 20), edges_matter(2)
    window = SlidingWindow((8, 8), overlap=0.5)
    expected = window(image, network)
    half = window(image, lambda x: network(x).bfloat16())
    assert half.dtype == torch.float32  # sums of half precision would lose a digit a window
    torch.testing.assert_close(half, expected, rtol=1e-2, atol=1e-2)
    assert window(image.double(), lambda x: network(x.float()).double()).dtype == torch.float64
    placed = window(MetaTensor(image, affine=torch.diag(torch.tensor([2.0, 2, 2, 1]))), network)
    assert isinstance(placed, MetaTensor)
    assert placed.affine[0, 0] == 2
    torch.testing.assert_close(placed.as_tensor(), expected)


@torch.no_grad()
def test_an_ensemble_is_a_network_that_gives_the_mean() -> None:
    image, window = torch.randn(1, 2, 21, 18), SlidingWindow((8, 8), overlap=0.5)
    torch.manual_seed(1)
    one, two = edges_matter(2), nn.Conv2d(2, 3, 1)
    together = window(image, lambda x: (one(x) + two(x)) / 2)
    torch.testing.assert_close(together, (window(image, one) + window(image, two)) / 2, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------------------------------------- mirroring


def flipped_images(
    image: Tensor, network: Callable[[Tensor], Tensor], window: SlidingWindow, axes: tuple[int, ...]
) -> Tensor:
    """Mean of the probabilities of flipped images, whose windows' probabilities are blended."""
    views = []
    for chosen in product([False, True], repeat=len(axes)):
        turned = [axis for axis, turn in zip(axes, chosen, strict=True) if turn]
        views.append(window(image.flip(turned), lambda x: network(x).softmax(1)).flip(turned))
    return torch.stack(views).mean(0)


@pytest.mark.parametrize(
    ("size", "roi_size"), [((32, 24), (16, 16)), ((12, 40), (16, 16)), ((18, 9), (12, 9)), ((16, 9, 12), (8, 6, 12))]
)
@torch.no_grad()
def test_flipped_windows_are_flipped_images_where_windows_lie_symmetrically(
    size: tuple[int, ...], roi_size: tuple[int, ...]
) -> None:
    image, network = torch.randn(1, 2, *size), edges_matter(len(size))
    window = SlidingWindow(roi_size, 3, 0.5)
    expected = flipped_images(image, network, window, tuple(range(2, len(size) + 2)))
    found = MultiScaleFlipInferer([1.0], tuple(range(len(size))), window)(image, network)
    torch.testing.assert_close(found.exp(), expected, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_elsewhere_they_are_other_windows() -> None:
    """The last window of three is shifted: what is documented as different is different, and by little."""
    image, network = torch.randn(1, 2, 37, 37), edges_matter(2)
    window = SlidingWindow((16, 16), overlap=0.25)
    expected = flipped_images(image, network, window, (2, 3))
    found = MultiScaleFlipInferer([1.0], (0, 1), window)(image, network).exp()
    assert 1e-4 < float((found - expected).abs().max()) < 0.2


@torch.no_grad()
def test_flips_see_windows_alone() -> None:
    sizes = []
    network = edges_matter(2, classes=1)

    def watched(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        logits: Tensor = network(x)
        return logits

    volume = torch.randn(1, 2, 20, 20, 3)
    found = MultiScaleFlipInferer([1.0], (-1,), SlidingWindow((12, 12), 2, 0.25))(volume, watched)
    assert set(sizes) == {(2, 2, 12, 12)}
    expected = flipped_images(
        volume[..., 1], lambda x: torch.cat([0 * network(x), network(x)], 1), SlidingWindow((12, 12), 2, 0.25), (3,)
    )
    torch.testing.assert_close(found[..., 1].sigmoid(), expected[:, 1:], rtol=1e-4, atol=1e-6)


# ---------------------------------------------------------------------------------------------- blocks

INFERERS = {
    "window": SlidingWindow((8, 8, 6), 3, 0.5),
    "slices": SlidingWindow((8, 8), 3, 0.25),
    "whole": WholeImage(3),
    "whole slices": WholeImage(2),
    "resized": ResizeInferer((8, 16, 12)),
    "normalised": NormalisingInferer(lambda x: x - 1, SlidingWindow((8, 8, 6))),
    "flipped": MultiScaleFlipInferer([1.0], (-1,), SlidingWindow((8, 8, 6))),
    "scaled": MultiScaleFlipInferer([0.5, 1.0], (), SlidingWindow((8, 8, 6))),
}


@pytest.mark.parametrize("block", [600, 2**23])
@pytest.mark.parametrize("name", INFERERS)
@torch.no_grad()
def test_blocks_cover_the_image_once_in_order(name: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_parts, "_BLOCK", block)
    image = torch.randn(2, 2, 21, 18, 13)
    network = edges_matter(2 if "slices" in name else 3)
    blocks = [Block(at, logits.clone()) for at, logits in blocks_of(INFERERS[name], image, network)]
    count = torch.zeros(2, 21, 18, 13, dtype=torch.int64)
    starts: list[set[tuple[int, int]]] = [set(), set(), set()]
    seen: set[tuple[int, ...]] = set()
    for at, logits in blocks:
        assert logits.shape == (at[0].stop - at[0].start, 3, *(each.stop - each.start for each in at[1:]))
        count[at] += 1
        for axis, each in enumerate(at[1:]):
            starts[axis].add((each.start, each.stop))
            before = (at[0].start, *(other.start for other in at[1 : 1 + axis]), *(o.start for o in at[2 + axis :]))
            known = [
                place[axis + 1] for place in seen if (place[0], *place[1 : 1 + axis], *place[2 + axis :]) == before
            ]
            assert all(start < each.start for start in known)
        seen.add(tuple(each.start for each in at))
    assert bool((count == 1).all())
    for edges in starts:  # along each axis the same bounds everywhere
        ordered = sorted(edges)
        assert all(stop == start for (_, stop), (start, _) in pairwise(ordered))
    logits = gather(iter(blocks), (2, 21, 18, 13))
    torch.testing.assert_close(logits, INFERERS[name](image, network))
    assert torch.equal(class_indices(iter(blocks), (2, 21, 18, 13)), logits.argmax(1).to(torch.uint8))


def test_classes() -> None:
    logits = torch.randn(1, 1, 4, 5)
    at = (slice(0, 1), slice(0, 4), slice(0, 5))
    assert torch.equal(class_indices([Block(at, logits)], (1, 4, 5)), (logits[:, 0] > 0).to(torch.uint8))
    many = torch.zeros(1, 300, 4, 5)
    many[:, 299] = 1
    found = class_indices([Block(at, many)], (1, 4, 5))
    np.testing.assert_array_equal(found, np.full((1, 4, 5), 299))


def test_bad_use() -> None:
    with pytest.raises(ValueError, match="overlap is 1"):
        SlidingWindow([8, 8], overlap=1.0)
    with pytest.raises(ValueError, match=r"roi_size is \[8, 0\]; give an edge of at least 1"):
        SlidingWindow([8, 0])
    with pytest.raises(ValueError, match="sw_batch_size is 0"):
        SlidingWindow([8, 8], 0)
    with pytest.raises(ValueError, match="mode is 'hann'; choose one of gaussian, constant"):
        SlidingWindow([8, 8], mode="hann")
    with pytest.raises(ValueError, match="padding_mode is 'mirror'; choose one of constant, reflect"):
        SlidingWindow([8, 8], padding_mode="mirror")
    image = torch.rand(1, 1, 16, 16)
    with pytest.raises(ValueError, match="three take volumes"):
        SlidingWindow([8, 8, 8])(image, pixelwise)
    with pytest.raises(ValueError, match=r"the network returns a dict; .* call network.eval\(\)"):
        SlidingWindow([8, 8])(image, lambda x: {"pred": x})
    with pytest.raises(
        ValueError, match=r"returns \(4, 1, 4, 4\) for an input of \(4, 1, 8, 8\); it must return logits"
    ):
        SlidingWindow([8, 8])(image, lambda x: x[..., ::2, ::2])
    for value in (float("nan"), float("inf"), float("-inf")):
        logits = torch.zeros(1, 2, 4, 4)
        logits[0, 1, 2, 2] = value
        blocks = [Block((slice(0, 1), slice(0, 4), slice(0, 4)), logits)]
        with pytest.raises(ValueError, match=r"the network gives 1 of 32 logits that are NaN or infinite"):
            list(finite(blocks))


def test_a_gpu_is_asked_once_whether_logits_are_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks_of_images, "_WAITS", ())
    good, bad = torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 4, 4)
    bad[0, 1, 2, 1:3] = float("nan")
    places = [(slice(0, 1), slice(first, first + 4), slice(0, 4)) for first in (0, 4, 8)]
    assert len(list(finite(Block(place, good) for place in places))) == 3
    with pytest.raises(ValueError, match=r"the network gives 2 of 96 logits that are NaN or infinite"):
        list(finite(map(Block, places, (good, bad, good))))
    handed = iter(finite(map(Block, places, (bad, good, good))))
    assert [next(handed).at for _ in places] == places  # and none is looked at before


def test_several_images_share_forwards() -> None:
    """Windows of images of any size, in one stream: the logits are those of each image alone."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(1, 1, *size, generator=generator) for size in ((12, 9), (5, 20), (8, 8))]
    network = nn.Conv2d(1, 2, 3, padding=1)
    batches: list[int] = []
    network.register_forward_hook(lambda module, given, out: batches.append(len(out)))
    inferer = SlidingWindow((8, 8), 4, 0.25)
    windows = sum(len(WindowGrid(tuple(image.shape[2:]), (8, 8), (0.25, 0.25))) for image in images)
    found = [torch.zeros(1, 2, *image.shape[2:]) for image in images]
    with torch.no_grad():
        for number, (at, logits) in inferer.several(images, network):
            found[number][(at[0], slice(None), *at[1:])] = logits
    assert batches == [4] * (windows // 4) + [windows % 4] * bool(windows % 4)
    for image, logits in zip(images, found, strict=True):
        torch.testing.assert_close(logits, inferer(image, network), rtol=1e-5, atol=1e-5)


def test_what_is_held_of_a_large_image_is_little() -> None:
    size = (256, 128, 160)
    held = SlidingWindow((32, 32, 32), 1, 0.25).held(size)
    assert held < 0.2 * math.prod(size)
    assert held >= 8 * 128 * 160  # the overlap along the longest axis
    assert SlidingWindow((32, 32), 1).held(size) == SlidingWindow((32, 32), 1).held(size[:2]) + 8 * 256 * 128
