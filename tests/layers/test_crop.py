"""Cropping at the end of each axis."""

import pytest
import torch

from medseg.layers.crop import crop_end


@pytest.mark.parametrize(("size", "kept"), [((5, 6), (4, 6)), ((5, 6), (1, 2)), ((3, 4, 5), (3, 3, 4))])
def test_keeps_the_first_pixels(size: tuple[int, ...], kept: tuple[int, ...]) -> None:
    x = torch.rand(2, 3, *size)
    first = tuple(slice(length) for length in kept)
    assert torch.equal(crop_end(x, list(kept), 2), x[(..., *first)])
    last = x.movedim(1, -1)
    assert torch.equal(crop_end(last, list(kept), 1), last[(slice(None), *first)])


def test_what_fits_is_not_touched() -> None:
    x = torch.rand(1, 2, 3, 4, requires_grad=True) + 0
    assert crop_end(x, [3, 4], 2) is x
