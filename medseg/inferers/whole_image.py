"""The whole image at once; a volume for a 2D network slice by slice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from monai.inferers import SimpleInferer
from torch import Tensor

from medseg.inferers.slices import fit_dimensions


class WholeImage(SimpleInferer):
    """MONAI's ``SimpleInferer`` that takes volumes slice by slice, along their last axis, for a 2D network.

    Args:
        spatial_dims: dimensions of the network.

    Raises:
        MedsegError: if the image has fewer dimensions than the network.

    Shape:
        ``(B, C, *S)`` to ``(B, classes, *S)``.
    """

    def __init__(self, spatial_dims: int) -> None:
        super().__init__()
        self.spatial_dims = spatial_dims

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Return what the network gives for the image."""
        return fit_dimensions(inputs, (1,) * self.spatial_dims, lambda x: network(x, *args, **kwargs))
