"""Windows cut by hand, put together again, and their padding."""

import itertools

import pytest
import torch
from torch import Tensor

from medseg.layers.windows import (
    cut_windows,
    fits,
    from_windows,
    join_windows,
    pad_to_windows,
    real_tokens,
    to_windows,
)

SIZES = [(6, 9), (7, 5), (2, 3), (1, 1), (3, 4, 5), (6, 3, 9), (1, 7, 2)]


def windows_by_hand(x: Tensor, edge: int) -> Tensor:
    """Cut ``(B, *S, C)`` window by window, row by row; the missing pixels are zeros."""
    size, result = x.shape[1:-1], []
    for image in x:
        for corner in itertools.product(*(range(0, length, edge) for length in size)):
            tokens = []
            for step in itertools.product(range(edge), repeat=len(size)):
                at = tuple(c + s for c, s in zip(corner, step, strict=True))
                inside = all(a < length for a, length in zip(at, size, strict=True))
                tokens.append(image[at] if inside else torch.zeros(x.shape[-1]))
            result.append(torch.stack(tokens))
    return torch.stack(result)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edge", [1, 2, 3, 7])
def test_windows_are_cut_as_by_hand(size: tuple[int, ...], edge: int) -> None:
    x = torch.randn(2, *size, 3)
    assert torch.equal(to_windows(pad_to_windows(x, edge), edge), windows_by_hand(x, edge))
    assert torch.equal(cut_windows(x, edge), windows_by_hand(x, edge))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edge", [1, 2, 3, 7])
def test_roundtrip(size: tuple[int, ...], edge: int) -> None:
    x = torch.randn(2, *size, 3)
    like = torch.empty(1, *size, 1)
    assert torch.equal(from_windows(to_windows(pad_to_windows(x, edge), edge), edge, like), x)
    assert torch.equal(join_windows(windows_by_hand(x, edge), edge, like), x)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("edge", [1, 2, 3, 7])
def test_real_tokens_are_the_maps_pixels(size: tuple[int, ...], edge: int) -> None:
    real = real_tokens(torch.rand(2, *size, 3), edge)
    expected = windows_by_hand(torch.ones(1, *size, 1), edge)[:, :, 0] > 0
    if real is None:
        assert expected.all()
    else:
        assert real.dtype == torch.bool
        assert torch.equal(real, expected)
        assert real.any(dim=1).all()  # a window of padding alone would have no softmax
        assert not real.all()


@pytest.mark.parametrize(
    ("size", "edge", "expected"), [([14, 21], 7, True), ([14, 20], 7, False), ([4, 6, 8], 2, True), ([5], 1, True)]
)
def test_fits(size: list[int], edge: int, expected: bool) -> None:
    assert fits(size, edge) is expected


def test_what_fits_is_not_copied() -> None:
    x = torch.randn(1, 6, 9, 4)
    assert pad_to_windows(x, 3) is x


def test_padding_is_zeros_at_the_end() -> None:
    padded = pad_to_windows(torch.ones(1, 3, 5, 2), 4)
    assert padded.shape == (1, 4, 8, 2)
    assert padded[:, :3, :5].all()
    assert float(padded.sum()) == 3 * 5 * 2


@pytest.mark.parametrize("size", [(5, 4), (6, 3), (2, 4, 5)])
def test_gradient_passes_through(size: tuple[int, ...]) -> None:
    x = torch.randn(2, *size, 3, requires_grad=True)
    weight = torch.randn(2, *size, 3)
    for cut, join in ((lambda m, e: to_windows(pad_to_windows(m, e), e), from_windows), (cut_windows, join_windows)):
        x.grad = None
        (join(cut(x, 3), 3, x) * weight).sum().backward()
        assert x.grad is not None
        torch.testing.assert_close(x.grad, weight)


@pytest.mark.parametrize("size", [(5, 3), (3, 3), (2, 3, 4)])
def test_gradients_of_any_order_are_numbers_of_small_steps(size: tuple[int, ...]) -> None:
    """The gradients are written out: of the windows' squares, so that the second derivative is not zero."""
    x = torch.randn(1, *size, 2, dtype=torch.float64, requires_grad=True)
    windows = cut_windows(x, 2).detach().requires_grad_()
    for function, argument in ((lambda m: cut_windows(m, 2) ** 2, x), (lambda w: join_windows(w, 2, x) ** 2, windows)):
        assert torch.autograd.gradcheck(function, argument)
        assert torch.autograd.gradgradcheck(function, argument)


def test_no_padded_map_is_made() -> None:
    """Eagerly each direction is copies between the map and the windows alone, in the gradient as well."""
    x = torch.rand(1, 8, 9, 4, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        join_windows(cut_windows(x, 7), 7, x).sum().backward()
    called = {event.key for event in profile.key_averages()}
    assert "aten::copy_" in called
    assert not called & {"aten::constant_pad_nd", "aten::slice_backward", "aten::clone"}


def test_scripted_windows_are_the_same() -> None:
    with pytest.warns((DeprecationWarning, FutureWarning), match="torch.jit.script"):
        cut, join = torch.jit.script(cut_windows), torch.jit.script(join_windows)
    for size in SIZES:
        x = torch.randn(2, *size, 3)
        assert torch.equal(cut(x, 3), cut_windows(x, 3))
        assert torch.equal(join(cut(x, 3), 3, x), x)
