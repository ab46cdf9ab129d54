"""Sliding window over an image of any size, and slice by slice over a volume for a 2D network."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from monai.data import MetaTensor
from monai.data.utils import compute_importance_map
from torch import Tensor
from torch.nn.functional import pad

from medseg.errors import MedsegError
from medseg.inferers.blocks import Block, BlockInferer, check_logits
from medseg.inferers.slices import fit_dimensions
from medseg.inferers.windows import WindowGrid, merge

_VOXELS = 2**21  # of the windows of a forward on a CPU
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}
_MODES = ("gaussian", "constant")
_PADDING = ("constant", "reflect", "replicate", "circular")


class SlidingWindow(BlockInferer):
    """MONAI's sliding window with memory for what windows still overlap, and volumes for 2D networks.

    Windows, weights and logits are those of ``monai.inferers.SlidingWindowInferer``, within rounding. MONAI holds the
    logits of the whole image, and their weights; here a block is handed on as soon as no window reaches it any more
    (`blocks`), and put together the logits are held once. Kept is the overlap along the axis with the most windows.
    Windows go to the network in channels-last memory format: on a CPU convolutions are several times faster. No
    gradients are kept. An ensemble, or views of a window, is a network that gives their mean.

    Args:
        roi_size: window, as the network was trained: two numbers for a 2D network, three for 3D.
        sw_batch_size: windows a forward; on a CPU at most as many as hold 2 million voxels together (but one), since
            several large ones take memory there and no less time.
        overlap: share of a window that the next one covers, in [0, 1).
        mode: ``"gaussian"`` (default) or ``"constant"`` weighting.
        sigma_scale: standard deviation of the Gaussian, in edges of the window.
        padding_mode: of images smaller than the window: ``"constant"``, ``"reflect"``, ``"replicate"``, ``"circular"``.
        cval: what is padded with, where ``"constant"``.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``, float32 (float64 of such). With a 2D window, ``S`` may be ``(H, W, D)``:
        slices along the last axis.

    Raises:
        MedsegError: if an option is out of range, the image's axes are not the window's, or the network returns
            anything but logits.
    """

    def __init__(
        self,
        roi_size: Sequence[int],
        sw_batch_size: int = 4,
        overlap: float = 0.25,
        mode: str = "gaussian",
        *,
        sigma_scale: float = 0.125,
        padding_mode: str = "constant",
        cval: float = 0.0,
    ) -> None:
        super().__init__()
        if not roi_size or min(roi_size) < 1:
            raise MedsegError(f"roi_size is {list(roi_size)}; give an edge of at least 1 pixel for each axis")
        if sw_batch_size < 1:
            raise MedsegError(f"sw_batch_size is {sw_batch_size}; it must be at least 1")
        if not 0 <= overlap < 1:
            raise MedsegError(f"overlap is {overlap}; it must be in [0, 1)")
        if mode not in _MODES:
            raise MedsegError(f"mode is {mode!r}; choose one of {', '.join(_MODES)}")
        if padding_mode not in _PADDING:
            raise MedsegError(f"padding_mode is {padding_mode!r}; choose one of {', '.join(_PADDING)}")
        self.roi_size = tuple(int(edge) for edge in roi_size)
        self.sw_batch_size = sw_batch_size
        self.overlap = overlap
        self.mode = mode
        self.sigma_scale = sigma_scale
        self.padding_mode = padding_mode
        self.cval = cval
        self._weights: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return the logits of the whole image; those of a ``MetaTensor`` are one, at its place."""
        logits = super().__call__(inputs, network, *args, **kwargs)
        if isinstance(inputs, MetaTensor):
            return MetaTensor(logits).copy_meta_from(inputs, copy_attr=False)
        return logits

    @torch.no_grad()
    def blocks(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Iterator[Block]:
        """Give the logits in blocks, each a window without what later ones overlap."""
        image = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs

        def predict(x: Tensor) -> Iterator[Block]:
            return self._predict(x, lambda windows: network(windows, *args, **kwargs))

        yield from fit_dimensions(image, self.roi_size, predict)

    def _predict(self, image: Tensor, network: Callable[[Tensor], Any]) -> Iterator[Block]:
        grid = WindowGrid(tuple(image.shape[2:]), self.roi_size, (self.overlap,) * len(self.roi_size))
        outputs = self._forwards(image, grid, network)
        weight = self._weight(torch.promote_types(image.dtype, torch.float32), image.device)[grid.inside]
        for number in range(image.shape[0]):
            for at, logits in merge(outputs, grid, weight):
                yield Block((slice(number, number + 1), *at), logits[None])

    def _forwards(self, image: Tensor, grid: WindowGrid, network: Callable[[Tensor], Any]) -> Iterator[Tensor]:
        """Give the logits of each window of each image; a forward may take windows of several images."""
        padding = [width for pair in reversed(grid.padding) for width in pair]
        places = ((number, window) for number in range(image.shape[0]) for window in grid)
        constant = {"value": self.cval} if self.padding_mode == "constant" else {}
        at_once = self.sw_batch_size
        if image.device.type == "cpu":
            at_once = max(1, min(at_once, _VOXELS // math.prod(self.roi_size)))
        while some := list(islice(places, at_once)):
            windows = [image[(slice(n, n + 1), slice(None), *grid.voxels(window))] for n, window in some]
            batch = torch.cat(windows)
            if any(padding):
                batch = pad(batch, padding, mode=self.padding_mode, **constant)
            if batch.ndim in _FORMATS:
                batch = batch.contiguous(memory_format=_FORMATS[batch.ndim])
            logits = network(batch)
            check_logits(batch, logits)
            outputs = [output[(slice(None), *grid.inside)] for output in logits]
            del logits, windows, batch
            while outputs:
                yield outputs.pop(0)  # and with the last one the memory of all is free

    def _weight(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the weights of a window's voxels; they are made once."""
        if (dtype, device) not in self._weights:
            weight = compute_importance_map(
                self.roi_size, mode=self.mode, sigma_scale=self.sigma_scale, device=device, dtype=dtype
            )
            self._weights[dtype, device] = weight
        return self._weights[dtype, device]
