"""What windowed attention hands to PyTorch, and that a traced copy works on other sizes.

That its values are right is tested with the network that it comes from, LFA U-Net.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

import medseg.layers.windowed_attention as module
from medseg.layers.windowed_attention import WindowedAttention


@pytest.mark.parametrize(
    ("window_size", "size", "masked"),
    [(4, (8, 12), False), (4, (8, 13), True), (4, (3, 3), True), (None, (5, 7), False)],
)
def test_a_mask_is_built_only_for_padding(
    window_size: int | None, size: tuple[int, ...], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[Tensor | None] = []

    def record(*tokens: Tensor, attn_mask: Tensor | None, **options: Any) -> Tensor:
        masks.append(attn_mask)
        return torch.nn.functional.scaled_dot_product_attention(*tokens, attn_mask=attn_mask, **options)

    monkeypatch.setattr(module, "scaled_dot_product_attention", record)
    WindowedAttention(4, window_size)(torch.rand(1, 4, *size), torch.rand(1, 4, *size))
    assert [mask is not None for mask in masks] == [masked]


def test_pixels_see_their_window_alone() -> None:
    layer = WindowedAttention(4, 3)
    asking, giving = torch.randn(2, 1, 4, 7, 8)
    giving.requires_grad_()
    layer(asking, giving)[0, :, 4, 7].sum().backward()
    assert giving.grad is not None
    seen = giving.grad[0].abs().sum(0) > 0
    expected = torch.zeros(7, 8, dtype=torch.bool)
    expected[3:6, 6:8] = True
    assert torch.equal(seen, expected)


def test_the_whole_map_is_seen_without_windows() -> None:
    layer = WindowedAttention(4, None)
    asking, giving = torch.randn(2, 1, 4, 7, 8)
    giving.requires_grad_()
    layer(asking, giving)[0, :, 4, 7].sum().backward()
    assert giving.grad is not None
    assert (giving.grad[0].abs().sum(0) > 0).all()


@pytest.mark.filterwarnings("ignore:.*torch.jit.*deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("traced_at", [(8, 12), (9, 5)])
def test_a_trace_is_right_for_other_sizes(traced_at: tuple[int, int]) -> None:
    layer = WindowedAttention(4, 4, scale=1.0)
    traced = torch.jit.trace(layer, tuple(torch.randn(2, 1, 4, *traced_at)))
    for size in [(8, 12), (10, 11), (3, 4)]:
        maps = torch.randn(2, 1, 4, *size)
        torch.testing.assert_close(traced(*maps), layer(*maps))
