"""Cut a map into non-overlapping windows of tokens and put it together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_windows(x: Tensor, window: Sequence[int]) -> Tensor:
    """Cut a channels-last map into windows.

    Args:
        x: ``(B, *S, C)``, each S a multiple of the window.
        window: edges of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B * windows, pixels of a window, C)``.
    """
    batch, channels = x.shape[0], x.shape[-1]
    dims = len(window)
    shape = [batch]
    for size, edge in zip(x.shape[1:-1], window, strict=True):
        shape += [size // edge, edge]
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    cut = x.reshape(*shape, channels).permute(order)
    return cut.reshape(-1, _product(window), channels)


def from_windows(windows: Tensor, window: Sequence[int], size: Sequence[int]) -> Tensor:
    """Undo `to_windows`.

    Args:
        windows: ``(B * windows, pixels of a window, C)``.
        window: edges of a window in pixels.
        size: S of the map.

    Shape:
        ``(B * windows, pixels, C)`` to ``(B, *S, C)``.
    """
    dims = len(window)
    counts = [s // e for s, e in zip(size, window, strict=True)]
    channels = windows.shape[-1]
    parts = windows.reshape(-1, *counts, *window, channels)
    order = [0]
    for axis in range(dims):
        order += [1 + axis, 1 + dims + axis]
    return parts.permute([*order, 2 * dims + 1]).reshape(-1, *size, channels)


def real_keys(size: Sequence[int], window: Sequence[int], device: torch.device) -> Tensor | None:
    """Tell which tokens of each window are pixels of the map and which are padding.

    Args:
        size: S of the map before padding.
        window: edges of a window in pixels.
        device: of the result.

    Returns:
        ``None`` if nothing is padded, else ``(windows, pixels of a window)``, true where a token is real.
    """
    if all(s % e == 0 for s, e in zip(size, window, strict=True)):
        return None
    real = torch.ones(1, *size, 1, dtype=torch.bool, device=device)
    return to_windows(pad_end(real, window), window)[..., 0]


def pad_end(x: Tensor, window: Sequence[int]) -> Tensor:
    """Pad a channels-last map with zeros at the end of each axis to whole windows.

    Args:
        x: ``(B, *S, C)``.
        window: edges of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B, *S', C)``.
    """
    padding = [0, 0]
    for size, edge in zip(reversed(x.shape[1:-1]), reversed(list(window)), strict=True):
        padding += [0, (-size) % edge]
    return torch.nn.functional.pad(x, padding) if any(padding) else x


def _product(values: Sequence[int]) -> int:
    result = 1
    for value in values:
        result *= value
    return result
