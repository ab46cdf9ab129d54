"""Attention from one feature map to another, inside local windows or over the whole map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medseg.layers.windows import from_windows, pad_to_windows, real_tokens, to_windows


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
        query, context ``(B, C, *S)`` to ``(B, C, *S)``, S of any length and number of axes.
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
        edge = self.window_size
        if edge is None:
            attended = self._attend(
                self.query(asking).flatten(1, -2),
                self.key(giving).flatten(1, -2),
                self.value(giving).flatten(1, -2),
                None,
            ).reshape(asking.shape)
        else:
            size = list(asking.shape[1:-1])
            real = real_tokens(size, edge, query.device)
            if real is not None:
                real = real.repeat(query.shape[0], 1)[:, None]  # (B * windows, 1, keys), the same for every query
            attended = self._attend(  # nothing of it has a name here, so that each map is freed as soon as it is cut
                to_windows(pad_to_windows(self.query(asking), edge), edge),
                to_windows(pad_to_windows(self.key(giving), edge), edge),
                to_windows(pad_to_windows(self.value(giving), edge), edge),
                real,
            )
            attended = from_windows(attended, edge, size)
        return attended.movedim(-1, 1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        mask = None if real is None else real[:, None]
        # one head: (N, 1, tokens, C)
        attended = scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=mask, scale=self.scale)
        return attended[:, 0]
