"""Inference at the one size that a network was trained at, for images of any size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor

from medseg.errors import MedsegError
from medseg.inferers.slices import fit_dimensions
from medseg.transforms.resize import resize_images

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ResizeInferer(Inferer):
    """Resize the image, run another inferer, bring the logits back to the image's size.

    The image is resized as `medseg.transforms.resize.ResizeImagesd` does it in training, so that the network sees what
    it was trained on; logits come back by linear interpolation.

    Args:
        spatial_size: size in pixels that the network runs at, one edge an axis.
        inferer: runs the network on the resized image; MONAI's ``SimpleInferer`` by default.

    Raises:
        ValueError: if an edge is below 1, or their number does not fit the image's axes.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``, any S. With two edges, ``S`` may be ``(H, W, D)``: slices along the last
        axis.
    """

    def __init__(self, spatial_size: Sequence[int], inferer: Inferer | None = None) -> None:
        super().__init__()
        if not spatial_size or min(spatial_size) < 1:
            raise MedsegError(f"spatial_size is {list(spatial_size)}; give an edge of at least 1 pixel for each axis")
        self.spatial_size = tuple(spatial_size)
        self.inferer = inferer or SimpleInferer()

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        """Return logits at the size of ``inputs``."""
        return fit_dimensions(inputs, self.spatial_size, lambda x: self._predict(x, network, *args, **kwargs))

    def _predict(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Tensor:
        size = inputs.shape[2:]
        logits: Tensor = self.inferer(resize_images(inputs.float(), self.spatial_size), network, *args, **kwargs)
        if tuple(size) == self.spatial_size:
            return logits
        return torch.nn.functional.interpolate(logits.float(), size=size, mode=_MODES[len(size)], align_corners=False)
