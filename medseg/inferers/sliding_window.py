"""Sliding window over an image of any size, and slice by slice over a volume for a 2D network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import SlidingWindowInferer
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.slices import fit_dimensions


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
            raise MedsegError(f"overlap is {overlap}; it must be in [0, 1)")
        super().__init__(tuple(roi_size), sw_batch_size, overlap, mode, **options)

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Predict the whole image."""
        whole = super().__call__
        return fit_dimensions(inputs, self.roi_size, lambda x: whole(x, _ChannelsLast(network), *args, **kwargs))


class _ChannelsLast:
    """Call the network on windows in channels-last memory format: on a CPU convolutions are several times faster."""

    def __init__(self, network: Callable[..., Any]) -> None:
        self.network = network

    def __call__(self, window: Tensor, *args: Any, **kwargs: Any) -> Any:
        formats = {4: torch.channels_last, 5: torch.channels_last_3d}
        if window.ndim in formats:
            window = window.contiguous(memory_format=formats[window.ndim])
        return self.network(window, *args, **kwargs)
