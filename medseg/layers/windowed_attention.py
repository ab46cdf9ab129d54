"""Attention from one feature map to another, inside local windows or over the whole map."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.hooks import RemovableHandle

from medseg.layers.windows import cut_windows, join_windows, real_tokens

_PRODUCTS = 2**22  # of queries and keys held at a time where they are looked at: 16 MiB in single precision


class WindowedAttention(nn.Module):
    """One-head attention with keys and values from ``context``, inside non-overlapping windows.

    Windows that reach over the edge are padded; padded keys never enter the softmax. The result is laid out
    channels-last in memory, as the projections want it.

    Args:
        channels: channels C of both maps.
        window_size: edge m of a window in pixels; ``None`` attends to the whole map.
        scale: factor on the products before the softmax; ``None`` for 1 / sqrt(C).

    Raises:
        ValueError: if the window has no pixel, or the maps differ in shape.

    Shape:
        query, context ``(B, C, *S)`` to ``(B, C, *S)``, S of any length and two or three axes.
    """

    def __init__(self, channels: int, window_size: int | None = 7, scale: float | None = None) -> None:
        super().__init__()
        if window_size is not None and window_size < 1:
            raise ValueError(f"window_size is {window_size}; it must be at least 1, or None for the whole map")
        self.window_size = window_size
        self.scale = scale
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)  # its bias shifts all products of a query alike: softmax drops it
        self.value = nn.Linear(channels, channels)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Return, for each pixel of ``query``, the values of ``context`` that it attends to."""
        if query.shape != context.shape:
            raise ValueError(f"the maps have shapes {list(query.shape)} and {list(context.shape)}; they must agree")
        # projected pixel by pixel, before padding: (B, *S, C), a view without copy where the map is channels-last
        asking, giving = query.movedim(1, -1), context.movedim(1, -1)
        attended = self._attend(  # nothing of it has a name here, so that each map is freed as soon as it is cut
            self._tokens(self.query(asking)),
            self._tokens(self.key(giving)),
            self._tokens(self.value(giving)),
            self._real(asking),
        )
        return self._map(attended, asking)

    def received(self, query: Tensor, context: Tensor) -> Tensor:
        """Return how much attention each pixel of ``context`` receives from the queries of its window.

        It is the mean over the queries times the number of keys, both without padding: 1 where a pixel receives as
        much as every other, and 1 on average over each window. No gradient is kept.

        Args:
            query: ``(B, C, *S)``.
            context: ``(B, C, *S)``.

        Raises:
            ValueError: if the maps differ in shape.

        Shape:
            ``(B, 1, *S)``.
        """
        if query.shape != context.shape:
            raise ValueError(f"the maps have shapes {list(query.shape)} and {list(context.shape)}; they must agree")
        with torch.no_grad():
            asking, giving = query.movedim(1, -1), context.movedim(1, -1)
            q, k = self._tokens(self.query(asking)), self._tokens(self.key(giving))
            sums = self._sum_over_queries(q, k, self._real(asking))
            return self._map(sums[:, :, None], asking)

    def _tokens(self, x: Tensor) -> Tensor:
        """``(B, *S, C)`` to ``(N, tokens, C)``, N windows or, without windows, maps."""
        edge = self.window_size
        return x.flatten(1, -2) if edge is None else cut_windows(x, edge)

    def _map(self, tokens: Tensor, like: Tensor) -> Tensor:
        """``(N, tokens, C)`` to ``(B, C, *S)``, with B and S of a channels-last map."""
        edge, shape = self.window_size, like.shape
        if edge is not None:
            x = join_windows(tokens, edge, like)
        elif like.ndim == 4:  # no list of axes: the exporter that works on TorchScript would lose the data type
            x = tokens.reshape(shape[0], shape[1], shape[2], -1)
        else:
            x = tokens.reshape(shape[0], shape[1], shape[2], shape[3], -1)
        return x.permute(0, 3, 1, 2) if like.ndim == 4 else x.permute(0, 4, 1, 2, 3)

    def _real(self, like: Tensor) -> Tensor | None:
        """Tell tokens from padding, ``(N, tokens)``; ``None`` if nothing is padded."""
        real = None if self.window_size is None else real_tokens(like, self.window_size)
        return None if real is None else real.repeat(like.shape[0], 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        mask = None if real is None else real[:, None, None]  # (N, 1, 1, keys), the same for every query
        # one head: (N, 1, tokens, C)
        attended = scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask, scale=self.scale)
        return attended.reshape(q.shape)

    def _sum_over_queries(self, q: Tensor, k: Tensor, real: Tensor | None) -> Tensor:
        """Sum what each key receives, ``(N, keys)``, with no more than a chunk of the products in memory."""
        windows, tokens, channels = q.shape
        scale = channels**-0.5 if self.scale is None else self.scale
        sums = torch.zeros(windows, tokens, device=q.device)
        many, rows = max(1, _PRODUCTS // tokens**2), max(1, _PRODUCTS // tokens)
        for first in range(0, windows, many):
            some = slice(first, first + many)
            for row in range(0, tokens, rows):
                products = scale * q[some, row : row + rows] @ k[some].mT
                if real is not None:
                    products.masked_fill_(~real[some, None], -torch.inf)
                weights = products.softmax(-1, dtype=torch.float32)
                if real is not None:
                    weights *= real[some, row : row + rows, None]
                sums[some] += weights.sum(1)
        return sums


def received_in(layers: Mapping[str, WindowedAttention], run: Callable[[], object]) -> dict[str, Tensor]:
    """Return what `WindowedAttention.received` gives for the maps that reach each layer while ``run`` runs.

    Args:
        layers: by the name of their map.
        run: calls the network.

    Returns:
        ``(B, 1, *S)`` by name, in the order in which the layers ran.
    """
    maps: dict[str, Tensor] = {}

    def watch(name: str, layer: WindowedAttention) -> RemovableHandle:
        def keep(_: nn.Module, inputs: tuple[Tensor, Tensor]) -> None:
            maps[name] = layer.received(*inputs)

        return layer.register_forward_pre_hook(keep)

    hooks = [watch(name, layer) for name, layer in layers.items()]
    try:
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return maps
