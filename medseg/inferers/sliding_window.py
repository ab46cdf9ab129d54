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
from medseg.inferers.memory_format import to_memory_format
from medseg.inferers.slices import SLICES_AT_ONCE, fit_dimensions
from medseg.inferers.windows import WindowGrid, merge

_VOXELS = 2**21  # of the windows of a forward on a CPU
_MODES = ("gaussian", "constant")
_PADDING = ("constant", "reflect", "replicate", "circular")


class SlidingWindow(BlockInferer):
    """MONAI's sliding window with memory for what windows still overlap, and volumes for 2D networks.

    Windows, weights and logits are those of ``monai.inferers.SlidingWindowInferer``, within rounding. MONAI holds the
    logits of the whole image, and their weights; here a block is handed on as soon as no window reaches it any more
    (`blocks`), and put together the logits are held once. Kept is the overlap along the axis with the most windows.
    Windows go to the network in the memory format of `to_memory_format`: on a CPU convolutions are several times
    faster. No gradients are kept. An ensemble, or views of a window, is a network that gives their mean.

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

    @torch.no_grad()
    def several(self, images: Sequence[Tensor], network: Callable[..., Any]) -> Iterator[tuple[int, Block]]:
        """Give the logits of several images in blocks; windows of several share a forward."""
        plain = [image.as_tensor() if isinstance(image, MetaTensor) else image for image in images]
        if all(image.ndim - 2 == len(self.roi_size) for image in plain):
            yield from self._each(plain, network)
        else:
            yield from super().several(plain, network)

    def one_forward(self, size: Sequence[int]) -> bool:
        """Return whether an image is one window."""
        return len(size) == len(self.roi_size) and all(
            edge <= window for edge, window in zip(size, self.roi_size, strict=True)
        )

    def held(self, size: Sequence[int]) -> int:
        """Return how many voxels windows overlap, and those of a forward; of a volume slice by slice, some slices."""
        dims = len(self.roi_size)
        grid = WindowGrid(tuple(size[:dims]), self.roi_size, (self.overlap,) * dims)
        overlapped = sum(math.prod(grid.overlapped(axis)) for axis in range(dims))
        slices = SLICES_AT_ONCE * math.prod(size[:dims]) if len(size) > dims else 0
        return overlapped + (self.sw_batch_size + 1) * math.prod(self.roi_size) + slices

    def _predict(self, image: Tensor, network: Callable[[Tensor], Any]) -> Iterator[Block]:
        for number, (at, logits) in self._each([image[n : n + 1] for n in range(len(image))], network):
            yield Block((slice(number, number + 1), *at[1:]), logits)

    def _each(self, images: Sequence[Tensor], network: Callable[[Tensor], Any]) -> Iterator[tuple[int, Block]]:
        overlap = (self.overlap,) * len(self.roi_size)
        grids = [WindowGrid(tuple(image.shape[2:]), self.roi_size, overlap) for image in images]
        outputs = self._forwards(images, grids, network)
        for number, (image, grid) in enumerate(zip(images, grids, strict=True)):
            weight = self._weight(torch.promote_types(image.dtype, torch.float32), image.device)[grid.inside]
            for at, logits in merge(outputs, grid, weight):
                yield number, Block((slice(0, 1), *at), logits[None])

    def _forwards(
        self, images: Sequence[Tensor], grids: Sequence[WindowGrid], network: Callable[[Tensor], Any]
    ) -> Iterator[Tensor]:
        """Give the logits of each window of each image; a forward may take windows of several images."""
        places = ((number, window) for number, grid in enumerate(grids) for window in grid)
        at_once = self.sw_batch_size
        if images[0].device.type == "cpu":
            at_once = max(1, min(at_once, _VOXELS // math.prod(self.roi_size)))
        while some := list(islice(places, at_once)):
            batch = torch.cat([self._window(images[number], grids[number], window) for number, window in some])
            batch = to_memory_format(batch)
            logits = network(batch)
            check_logits(batch, logits)
            outputs = [
                output[(slice(None), *grids[number].inside)] for (number, _), output in zip(some, logits, strict=True)
            ]
            del logits, batch
            while outputs:
                yield outputs.pop(0)  # and with the last one the memory of all is free

    def _window(self, image: Tensor, grid: WindowGrid, window: Sequence[int]) -> Tensor:
        """Return a window of an image ``(1, C, *S)``, padded where the image is smaller."""
        part = image[(slice(None), slice(None), *grid.voxels(window))]
        padding = [width for pair in reversed(grid.padding) for width in pair]
        if not any(padding):
            return part
        constant = {"value": self.cval} if self.padding_mode == "constant" else {}
        return pad(part, padding, mode=self.padding_mode, **constant)

    def _weight(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return the weights of a window's voxels; they are made once."""
        if (dtype, device) not in self._weights:
            weight = compute_importance_map(
                self.roi_size, mode=self.mode, sigma_scale=self.sigma_scale, device=device, dtype=dtype
            )
            self._weights[dtype, device] = weight
        return self._weights[dtype, device]
