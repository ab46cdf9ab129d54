"""Attention from one feature map to another, inside local windows or over the whole map."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medseg.layers.windows import from_windows, pad_end, real_keys, to_windows


class WindowedAttention(nn.Module):
    """One-head attention with keys and values from ``context``, inside non-overlapping windows.

    Windows that reach over the edge are padded; padded keys never enter the softmax.

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
            raise ValueError(f"window_size is {window_size}; it must be at least 1, or null for the whole map")
        self.window_size = window_size
        self.scale = scale
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)

    def forward(self, query: Tensor, context: Tensor) -> Tensor:
        """Return, for each pixel of ``query``, the values of ``context`` that it attends to."""
        if query.shape != context.shape:
            raise ValueError(f"the maps have shapes {list(query.shape)} and {list(context.shape)}; they must agree")
        size: list[int] = list(query.shape[2:])
        # projections before padding, pixel by pixel: (B, *S, C), a free view of a channels-last map
        q = self.query(query.movedim(1, -1))
        k = self.key(context.movedim(1, -1))
        v = self.value(context.movedim(1, -1))
        edge = self.window_size
        if edge is None:
            attended = scaled_dot_product_attention(
                q.flatten(1, -2).unsqueeze(1),
                k.flatten(1, -2).unsqueeze(1),
                v.flatten(1, -2).unsqueeze(1),
                scale=self.scale,
            )
            return attended.reshape(q.shape).movedim(-1, 1)
        real: Tensor | None = None
        padded: list[int] = []
        for length in size:
            padded.append(length + (-length) % edge)
        if sum(padded) > sum(size):  # (B * windows, 1, 1, keys), the same for every query
            real = real_keys(size, edge, query.device).repeat(query.size(0), 1).unsqueeze(1).unsqueeze(1)
        attended = scaled_dot_product_attention(
            to_windows(pad_end(q, edge), edge).unsqueeze(1),
            to_windows(pad_end(k, edge), edge).unsqueeze(1),
            to_windows(pad_end(v, edge), edge).unsqueeze(1),
            attn_mask=real,
            scale=self.scale,
        )  # (B * windows, 1, pixels, C)
        joined = from_windows(attended.squeeze(1), edge, padded)  # (B, *S', C)
        for axis, length in enumerate(size):
            joined = joined.narrow(axis + 1, 0, length)
        return joined.movedim(-1, 1)
