"""Cut a map into non-overlapping windows of tokens and put it together again."""

from __future__ import annotations

import torch
from torch import Tensor


def to_windows(x: Tensor, edge: int) -> Tensor:
    """Cut a channels-last map into windows.

    Args:
        x: ``(B, *S, C)``, each S a multiple of the edge.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B * windows, pixels of a window, C)``.
    """
    dims = x.dim() - 2
    shape = [x.size(0)]
    order = [0]
    inner: list[int] = []
    for axis in range(dims):
        shape += [x.size(axis + 1) // edge, edge]
        order.append(2 * axis + 1)
        inner.append(2 * axis + 2)
    order += inner
    order.append(2 * dims + 1)
    shape.append(x.size(-1))
    return x.reshape(shape).permute(order).reshape(-1, int(edge**dims), x.size(-1))


def from_windows(windows: Tensor, edge: int, size: list[int]) -> Tensor:
    """Undo `to_windows`.

    Args:
        windows: ``(B * windows, pixels of a window, C)``.
        edge: of a window in pixels.
        size: S of the map.

    Shape:
        ``(B * windows, pixels, C)`` to ``(B, *S, C)``.
    """
    dims = len(size)
    shape = [-1]
    order = [0]
    for axis in range(dims):
        shape.append(size[axis] // edge)
        order += [1 + axis, 1 + dims + axis]
    for _ in range(dims):
        shape.append(edge)
    shape.append(windows.size(-1))
    order.append(2 * dims + 1)
    return windows.reshape(shape).permute(order).reshape([-1] + size + [windows.size(-1)])  # noqa: RUF005 - TorchScript


def pad_end(x: Tensor, edge: int) -> Tensor:
    """Pad a channels-last map with zeros at the end of each axis to whole windows.

    Args:
        x: ``(B, *S, C)``.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B, *S', C)``.
    """
    padding = [0, 0]
    for axis in range(x.dim() - 2, 0, -1):
        padding += [0, (-x.size(axis)) % edge]
    return torch.nn.functional.pad(x, padding) if sum(padding) > 0 else x


def real_keys(size: list[int], edge: int, device: torch.device) -> Tensor:
    """Tell which tokens of each window are pixels of the map and which are padding.

    Args:
        size: S of the map before padding.
        edge: of a window in pixels.
        device: of the result.

    Returns:
        ``(windows, pixels of a window)``, true where a token is real.
    """
    real = torch.ones([1] + size + [1], dtype=torch.uint8, device=device)  # noqa: RUF005 - TorchScript
    return to_windows(pad_end(real, edge), edge)[:, :, 0].to(torch.bool)
