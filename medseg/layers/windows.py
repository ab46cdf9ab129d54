"""Cut a channels-last map into non-overlapping windows of tokens, and put it together again.

Windows are laid from the first pixel; those that reach over the far edge are padded. All functions work on any number
of spatial axes, in TorchScript, and on sizes that an exporter leaves open.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.jit import is_scripting  # type: ignore[attr-defined]

from medseg.layers.crop import crop_end


def pad_to_windows(x: Tensor, edge: int) -> Tensor:
    """Pad a channels-last map with zeros at the end of each axis to whole windows.

    Args:
        x: ``(B, *S, C)``.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B, *S', C)`` with every S' a multiple of the edge.
    """
    size = list(x.shape[1:-1])
    if fits(size, edge):
        return x
    padding = [0, 0]
    for length in size[::-1]:
        padding.append(0)
        padding.append((length + edge - 1) // edge * edge - length)
    return torch.nn.functional.pad(x, padding)


def to_windows(x: Tensor, edge: int) -> Tensor:
    """Cut a channels-last map into windows.

    Args:
        x: ``(B, *S, C)``, each S a multiple of the edge.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B * windows, pixels of a window, C)``.
    """
    shape, outer, pixels = [x.shape[0]], [0], 1
    inner: list[int] = []
    for axis in range(1, x.ndim - 1):
        shape.append(x.shape[axis] // edge)
        shape.append(edge)
        outer.append(2 * axis - 1)
        inner.append(2 * axis)
        pixels *= edge
    shape.append(x.shape[-1])
    # (B, windows, edge, windows, edge, C) to (B, windows, windows, edge, edge, C)
    cut = x.reshape(shape).permute(outer + inner + [2 * x.ndim - 3])
    return cut.reshape(-1, pixels, x.shape[-1])


def from_windows(windows: Tensor, edge: int, size: list[int]) -> Tensor:
    """Put windows together again, and leave out what padding added.

    Args:
        windows: ``(B * windows, pixels of a window, C)``.
        edge: of a window in pixels.
        size: S of the map.

    Shape:
        ``(B * windows, pixels, C)`` to ``(B, *S, C)``.
    """
    channels, dims = windows.shape[-1], len(size)
    counts, whole, order = [-1], [-1], [0]
    for axis, length in enumerate(size):
        count = (length + edge - 1) // edge
        counts.append(count)
        whole.append(count * edge)
        order.append(1 + axis)
        order.append(1 + axis + dims)
    # (B, windows, windows, edge, edge, C) to (B, windows, edge, windows, edge, C)
    parts = windows.reshape(counts + [edge] * dims + [channels]).permute(order + [2 * dims + 1])  # noqa: RUF005  TorchScript has no `*order`
    return crop_end(parts.reshape(whole + [channels]), size, 1)  # noqa: RUF005


def real_tokens(size: list[int], edge: int, device: torch.device) -> Tensor | None:
    """Tell which tokens of each window are pixels of the map and which are padding.

    Args:
        size: S of the map before padding.
        edge: of a window in pixels.
        device: of the result.

    Returns:
        ``None`` if nothing is padded, else ``(windows, pixels of a window)``, true where a token is real.
    """
    if fits(size, edge):
        return None
    real = torch.ones([1] + size + [1], dtype=torch.bool, device=device)  # noqa: RUF005  TorchScript has no `*size`
    return to_windows(pad_to_windows(real, edge), edge)[:, :, 0]


def fits(size: list[int], edge: int) -> bool:
    """Tell whether windows fill a map exactly.

    Args:
        size: S of the map. A size that a tracer or exporter leaves open counts as not filled, so that the exported
            network is right for every size.
        edge: of a window in pixels.
    """
    if not is_scripting() and any(isinstance(length, torch.SymInt | Tensor) for length in size):
        return False
    for length in size:  # noqa: SIM110  TorchScript knows no generators
        if length % edge != 0:
            return False
    return True
