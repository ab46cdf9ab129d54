"""How windows are put together, against MONAI's sliding window."""

import math

import pytest
import torch
from edges_matter import edges_matter
from monai.inferers import SlidingWindowInferer

from medseg.inferers import windows as window_parts
from medseg.inferers.sliding_window import SlidingWindow
from medseg.inferers.windows import WindowGrid


@pytest.mark.parametrize("overlap", [0.1, 0.5, 0.7, 0.9])
@pytest.mark.parametrize(("at_once", "block"), [(1, 1), (1, 700), (500, 2**23), (2000, 500)])
@torch.no_grad()
def test_some_planes_at_a_time(monkeypatch: pytest.MonkeyPatch, overlap: float, at_once: int, block: int) -> None:
    """However many are weighted at once and given as a block; of large overlaps what is kept lies where it was read."""
    monkeypatch.setattr(window_parts, "_AT_ONCE", at_once)
    monkeypatch.setattr(window_parts, "_BLOCK", block)
    network, image = edges_matter(3, classes=3), torch.randn(1, 2, 17, 12, 9)
    expected = SlidingWindowInferer((10, 7, 6), 2, overlap, "gaussian")(image, network)
    inferer = SlidingWindow((10, 7, 6), 2, overlap)
    torch.testing.assert_close(inferer(image, network), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(window_parts, "_FULL", (0, 0))
    for scale in (1.0, 1e6):
        found = inferer(image, lambda x, scale=scale: scale * network(x))
        torch.testing.assert_close(found, scale * expected, rtol=2e-3, atol=2e-3 * scale * float(expected.abs().max()))


@pytest.mark.parametrize("mode", ["gaussian", "constant"])
@pytest.mark.parametrize("at_once", [1, 1000])
@torch.no_grad()
def test_large_overlaps_are_kept_in_half_precision(monkeypatch: pytest.MonkeyPatch, mode: str, at_once: int) -> None:
    """As of a volume of many classes, of which one or a few planes are added at a time."""
    network, image = edges_matter(3, classes=5), torch.randn(1, 2, 17, 22, 9)
    expected = SlidingWindowInferer((8, 9, 6), 2, 0.5, mode)(image, network)
    monkeypatch.setattr(window_parts, "_AT_ONCE", at_once)
    inferer = SlidingWindow((8, 9, 6), 2, 0.5, mode)
    torch.testing.assert_close(inferer(image, network), expected, rtol=1e-4, atol=1e-5)
    monkeypatch.setattr(window_parts, "_FULL", (0, 0))
    found = inferer(image, network)
    apart = float((found - expected).abs().max())
    assert 1e-6 < apart < 2e-3 * float(expected.abs().max())
    huge = inferer(image, lambda x: 1e6 * network(x))  # more than half precision can hold
    torch.testing.assert_close(huge, 1e6 * expected, rtol=2e-3, atol=2e3 * float(expected.abs().max()))


@torch.no_grad()
def test_windows_of_which_only_the_last_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last one ends with the image; those before leave nothing, in half precision too."""
    monkeypatch.setattr(window_parts, "_FULL", (0, 0))
    network, image = edges_matter(3), torch.randn(1, 2, 17, 22, 9)
    expected = SlidingWindowInferer((8, 9, 6), 2, 0.0, "gaussian")(image, network)
    found = SlidingWindow((8, 9, 6), 2, 0.0)(image, network)
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=2e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("overlap", [0.25, 0.7])
@pytest.mark.parametrize("full", [(2**31, 2**28), (0, 0)])
def test_a_device_of_its_own_has_room_for_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, overlap: float, full: tuple[int, int]
) -> None:
    """As on a GPU, where windows go through at once: large overlaps, and half precision, need room for their sums."""
    monkeypatch.setattr(window_parts, "_FULL", full)
    monkeypatch.setattr(window_parts, "ends", lambda sums: torch.zeros(2))  # there are no values to look at
    grid = WindowGrid((17, 12, 9), (10, 7, 6), (overlap,) * 3)
    weight = torch.ones((10, 7, 6), device="meta")
    outputs = (torch.empty((3, 10, 7, 6), device="meta") for _ in range(len(grid)))
    blocks = [(at, block.shape, block.device.type) for at, block in window_parts.merge(outputs, grid, weight)]
    assert len(blocks) == len(grid)
    assert all(shape == (3, *(part.stop - part.start for part in at)) for at, shape, _ in blocks)
    assert sum(math.prod(shape[1:]) for _, shape, _ in blocks) == 17 * 12 * 9
    assert {kind for *_, kind in blocks} == {"meta"}
