"""Resizing against numpy's interpolation."""

import numpy as np
import pytest
import torch

from medseg.layers.resize import resize


@pytest.mark.parametrize(("before", "after"), [((33, 33), (513, 513)), ((5, 7), (9, 4)), ((3, 4, 2), (5, 4, 6))])
def test_resize_is_interpolation_between_the_first_and_the_last_pixel(
    before: tuple[int, ...], after: tuple[int, ...]
) -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, *before))
    expected = x
    for axis, length in enumerate(after, start=2):
        there = np.linspace(0, expected.shape[axis] - 1, length)
        here = np.arange(expected.shape[axis])
        expected = np.apply_along_axis(lambda line, t=there, h=here: np.interp(t, h, line), axis, expected)
    torch.testing.assert_close(resize(torch.from_numpy(x), list(after)), torch.from_numpy(expected))


def test_resize_keeps_features_on_their_pixels() -> None:
    """A ramp sampled every 16 pixels comes back."""
    ramp = torch.arange(513.0).expand(1, 1, 513, 513)
    torch.testing.assert_close(resize(ramp[..., ::16, ::16], [513, 513]), ramp)
    x = torch.rand(1, 2, 3, 4)
    assert resize(x, [3, 4]) is x
    torch.testing.assert_close(resize(x[..., :1, :1], [5, 6]), x[..., :1, :1].expand(1, 2, 5, 6))
