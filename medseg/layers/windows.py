"""Cut a channels-last map into non-overlapping windows of tokens, and put it together again.

Windows are laid from the first pixel; those that reach over the far edge are padded with zeros. All functions work on
two or three spatial axes, in TorchScript, and on sizes that an exporter leaves open. What TorchScript sees has no list
of axes or sizes, no branch on a size and no rounded division of a negative number: its exporter to ONNX knows none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.jit import is_scripting, is_tracing  # type: ignore[attr-defined]

from medseg.layers.crop import crop_end


def cut_windows(x: Tensor, edge: int) -> Tensor:
    """Pad a map with zeros to whole windows and cut it into them, in one copy where autograd works eagerly.

    Args:
        x: ``(B, *S, C)``.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B * windows, pixels of a window, C)``.
    """
    if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
        return to_windows(pad_to_windows(x, edge), edge)
    else:
        windows: Tensor = _Cut.apply(x, edge)
        return windows


def join_windows(windows: Tensor, edge: int, like: Tensor) -> Tensor:
    """Put windows together again and leave out what padding added, in one copy where autograd works eagerly.

    Args:
        windows: ``(B * windows, pixels of a window, C)``.
        edge: of a window in pixels.
        like: a channels-last map with the S that is wanted.

    Shape:
        ``(B * windows, pixels, C)`` to ``(B, *S, C)``.
    """
    if is_scripting() or is_tracing() or torch.compiler.is_compiling():  # type: ignore[no-untyped-call]
        return from_windows(windows, edge, like)
    else:
        x: Tensor = _Join.apply(windows, edge, list(like.shape[1:-1]))
        return x


def pad_to_windows(x: Tensor, edge: int) -> Tensor:
    """Pad a channels-last map with zeros at the end of each axis to whole windows.

    Args:
        x: ``(B, *S, C)``.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B, *S', C)`` with every S' a multiple of the edge.
    """
    if not is_scripting() and fits(list(x.shape[1:-1]), edge):
        return x
    padding = [0, 0, 0, _missing(x.shape[-2], edge), 0, _missing(x.shape[-3], edge)]
    if x.ndim == 5:
        padding += [0, _missing(x.shape[-4], edge)]
    return torch.nn.functional.pad(x, padding)


def _missing(length: int, edge: int) -> int:
    """Return by how many pixels a length falls short of whole windows, so that an exporter sees their sum divisible."""
    return (length + edge - 1) // edge * edge - length


def to_windows(x: Tensor, edge: int) -> Tensor:
    """Cut a channels-last map into windows.

    Args:
        x: ``(B, *S, C)``, each S a multiple of the edge.
        edge: of a window in pixels.

    Shape:
        ``(B, *S, C)`` to ``(B * windows, pixels of a window, C)``.
    """
    channels = x.shape[-1]
    if x.ndim == 4:
        # (B, windows, edge, windows, edge, C) to (B, windows, windows, edge, edge, C)
        cut = x.reshape(x.shape[0], x.shape[1] // edge, edge, x.shape[2] // edge, edge, channels)
        return cut.permute(0, 1, 3, 2, 4, 5).reshape(-1, edge * edge, channels)
    cut = x.reshape(x.shape[0], x.shape[1] // edge, edge, x.shape[2] // edge, edge, x.shape[3] // edge, edge, channels)
    return cut.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, edge * edge * edge, channels)


def from_windows(windows: Tensor, edge: int, like: Tensor) -> Tensor:
    """Put windows together again, and leave out what padding added.

    Args:
        windows: ``(B * windows, pixels of a window, C)``.
        edge: of a window in pixels.
        like: a channels-last map with the S that is wanted.

    Shape:
        ``(B * windows, pixels, C)`` to ``(B, *S, C)``.
    """
    channels = windows.shape[-1]
    rows, columns = (like.shape[-3] + edge - 1) // edge, (like.shape[-2] + edge - 1) // edge
    if like.ndim == 4:
        # (B, windows, windows, edge, edge, C) to (B, windows, edge, windows, edge, C)
        parts = windows.reshape(-1, rows, columns, edge, edge, channels).permute(0, 1, 3, 2, 4, 5)
        x = parts.reshape(-1, rows * edge, columns * edge, channels)
        return crop_end(x, [like.shape[1], like.shape[2]], 1)
    slices = (like.shape[1] + edge - 1) // edge
    parts = windows.reshape(-1, slices, rows, columns, edge, edge, edge, channels).permute(0, 1, 4, 2, 5, 3, 6, 7)
    x = parts.reshape(-1, slices * edge, rows * edge, columns * edge, channels)
    return crop_end(x, [like.shape[1], like.shape[2], like.shape[3]], 1)


def real_tokens(like: Tensor, edge: int) -> Tensor | None:
    """Tell which tokens of each window are pixels of the map and which are padding.

    Args:
        like: ``(B, *S, C)``, the map before padding.
        edge: of a window in pixels.

    Returns:
        ``None`` if nothing is padded, else ``(windows, pixels of a window)``, true where a token is real. TorchScript
        gives the mask always.
    """
    if not is_scripting() and fits(list(like.shape[1:-1]), edge):
        return None
    real = torch.ones_like(like[:1, ..., :1], dtype=torch.bool)
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


class _Cut(torch.autograd.Function):
    """``to_windows`` of ``pad_to_windows``, without the padded map; ``_Join`` gives its gradient."""

    @staticmethod
    def forward(x: Tensor, edge: int) -> Tensor:
        counts = [-(-length // edge) for length in x.shape[1:-1]]
        windows = x.new_empty((x.shape[0], *counts, *[edge] * len(counts), x.shape[-1]))
        for axis, length in enumerate(x.shape[1:-1], start=1):
            if length % edge:
                windows.select(axis, -1).zero_()
        for pixels, tokens in _same_places(x, windows, edge):
            tokens.copy_(pixels)
        return windows.view(-1, edge ** len(counts), x.shape[-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int], output: Tensor) -> None:
        ctx.edge, ctx.size = inputs[1], list(inputs[0].shape[1:-1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return _Join.apply(gradient, ctx.edge, ctx.size), None


class _Join(torch.autograd.Function):
    """``from_windows``, without the padded map; ``_Cut`` gives its gradient."""

    @staticmethod
    def forward(windows: Tensor, edge: int, size: list[int]) -> Tensor:
        counts = [-(-length // edge) for length in size]
        windows = windows.reshape(-1, *counts, *[edge] * len(counts), windows.shape[-1])
        x = windows.new_empty((windows.shape[0], *size, windows.shape[-1]))
        for pixels, tokens in _same_places(x, windows, edge):
            pixels.copy_(tokens)
        return x

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, int, list[int]], output: Tensor) -> None:
        ctx.edge = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _Cut.apply(gradient, ctx.edge), None, None


def _same_places(x: Tensor, windows: Tensor, edge: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Pair views of the same pixels: whole windows, and those that reach over an edge or corner.

    Shape:
        x ``(B, *S, C)``, windows ``(B, *windows, *edges, C)``; each pair is alike, of the windows' number of axes.
    """
    dims, everything = x.ndim - 2, slice(None)
    runs: list[list[tuple[int, int, int, int]]] = []  # of each axis: first window, windows, first pixel, pixels of each
    for length in x.shape[1:-1]:
        whole, rest = divmod(length, edge)
        runs.append([(0, whole, 0, edge)] * (whole > 0) + [(whole, 1, whole * edge, rest)] * (rest > 0))
    order = [0, *range(1, 2 * dims, 2), *range(2, 2 * dims + 1, 2), 2 * dims + 1]
    for piece in itertools.product(*runs):
        pixels = x[(everything, *(slice(start, start + count * each) for _, count, start, each in piece))]
        pixels = pixels.view(x.shape[0], *(number for run in piece for number in run[1::2]), x.shape[-1])
        of_windows = (slice(first, first + count) for first, count, _, _ in piece)
        of_tokens = (slice(each) for _, _, _, each in piece)
        yield pixels.permute(order), windows[(everything, *of_windows, *of_tokens)]
