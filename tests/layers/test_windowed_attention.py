"""What windowed attention hands to PyTorch, and that a traced copy works on other sizes.

That its values are right is tested with the network that it comes from, LFA U-Net.
"""

import itertools
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


def received_by_hand(layer: WindowedAttention, query: Tensor, context: Tensor) -> Tensor:
    """Window by window over real pixels alone: the mean over the queries, times the keys."""
    size = query.shape[2:]
    edge = layer.window_size or max(size)
    scale = query.shape[1] ** -0.5 if layer.scale is None else layer.scale
    result = torch.zeros(query.shape[0], 1, *size)
    for image in range(query.shape[0]):
        for corner in itertools.product(*(range(0, length, edge) for length in size)):
            cut = tuple(slice(c, c + edge) for c in corner)
            asking, giving = (m[(image, slice(None), *cut)].flatten(1).T for m in (query, context))
            weights = torch.softmax(scale * layer.query(asking) @ layer.key(giving).T, dim=-1)
            shape = result[(image, 0, *cut)].shape
            result[(image, 0, *cut)] = (weights.mean(0) * len(giving)).reshape(shape)
    return result


@pytest.mark.parametrize("products", [2**22, 100, 1])
@pytest.mark.parametrize(("window_size", "scale"), [(3, 1.0), (4, None), (None, 2.0)])
@pytest.mark.parametrize("size", [(8, 12), (5, 9), (4, 3, 5)])
def test_received_is_the_mean_over_queries(
    window_size: int | None,
    scale: float | None,
    size: tuple[int, ...],
    products: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The size of a chunk changes nothing: windows at once, some of them, or a query at a time."""
    monkeypatch.setattr(module, "_PRODUCTS", products)
    torch.manual_seed(0)
    layer = WindowedAttention(6, window_size, scale)
    maps = torch.randn(2, 2, 6, *size)
    received = layer.received(*maps)
    torch.testing.assert_close(received, received_by_hand(layer, *maps).detach(), rtol=1e-4, atol=1e-5)
    assert not received.requires_grad
    assert float(received.std()) > 0.05
    assert float(received.mean()) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("window_size", [4, None])
def test_without_queries_all_receive_alike(window_size: int | None) -> None:
    layer = WindowedAttention(4, window_size)
    torch.nn.init.zeros_(layer.query.weight)
    torch.nn.init.zeros_(layer.query.bias)
    received = layer.received(*torch.randn(2, 2, 4, 7, 9))
    torch.testing.assert_close(received, torch.ones(2, 1, 7, 9))


def test_no_more_than_a_chunk_of_products_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PRODUCTS", 300)
    held: list[int] = []
    softmax = Tensor.softmax

    def record(products: Tensor, *args: Any, **options: Any) -> Tensor:
        held.append(products.numel())
        return softmax(products, *args, **options)

    monkeypatch.setattr(Tensor, "softmax", record)
    for window_size in (3, None):
        held.clear()
        WindowedAttention(4, window_size).received(*torch.randn(2, 2, 4, 8, 9))
        assert len(held) > 2
        assert max(held) <= 300


def test_received_of_maps_that_differ() -> None:
    with pytest.raises(ValueError, match=r"shapes \[1, 4, 6, 6\] and \[1, 4, 6, 7\]; they must agree"):
        WindowedAttention(4).received(torch.rand(1, 4, 6, 6), torch.rand(1, 4, 6, 7))
