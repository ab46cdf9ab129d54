"""Sliding window over an image of any size, and slice by slice over a volume for a 2D network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

_SLICES_AT_ONCE = 8


class SlidingWindow(SlidingWindowInferer):
    """MONAI's sliding window with windows in channels-last memory format, and volumes for 2D networks.

    Args:
        roi_size: window, as the network was trained: two numbers for a 2D network, three for 3D.
        sw_batch_size: windows a forward.
        overlap: share of a window that the next one covers, in [0, 1).
        mode: ``"gaussian"`` (default) or ``"constant"`` weighting.
        options: further arguments of ``SlidingWindowInferer``.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``. With a 2D window, ``S`` may be ``(H, W, D)``: slices along the last
        axis.

    Raises:
        ValueError: if the overlap is out of range.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 4,
        overlap: float = 0.25,
        mode: str = "gaussian",
        **options: Any,
    ) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap is {overlap}; it must be in [0, 1)")
        super().__init__(tuple(roi_size), sw_batch_size, overlap, mode, **options)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Predict the whole image."""
        spatial = inputs.ndim - 2
        window = len(self.roi_size)
        if spatial == window:
            return super().__call__(inputs, _ChannelsLast(network), *args, **kwargs)
        if (window, spatial) != (2, 3):
            raise ValueError(
                f"the image has {spatial} spatial dimensions {tuple(inputs.shape[2:])}, the window has {window} "
                f"{tuple(self.roi_size)}; a 2D window takes images and volumes, a 3D window volumes"
            )
        depth = inputs.shape[-1]
        parts = []
        for first in range(0, depth, _SLICES_AT_ONCE):
            slices = inputs[..., first : first + _SLICES_AT_ONCE]  # (B, C, H, W, d)
            count = slices.shape[-1]
            flat = slices.permute(0, 4, 1, 2, 3).flatten(0, 1)  # (B * d, C, H, W)
            logits = super().__call__(flat, _ChannelsLast(network), *args, **kwargs)
            parts.append(logits.unflatten(0, (-1, count)).permute(0, 2, 3, 4, 1))  # (B, classes, H, W, d)
        return torch.cat(parts, dim=-1)


class _ChannelsLast:
    """Call the network on windows in channels-last memory format: on a CPU convolutions are several times faster."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network

    def __call__(self, window: Tensor, *args: Any, **kwargs: Any) -> Any:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if window.ndim in formats:
            window = window.contiguous(memory_format=formats[window.ndim])
        return self.network(window, *args, **kwargs)
