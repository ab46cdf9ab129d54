"""Bring images to one size without aliasing.

MONAI's ``Resized(anti_aliasing=True)`` blurs with zeros beyond the border, which darkens the pixels there by a fifth;
PyTorch's own anti-aliasing does not.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor
from torch.nn.functional import interpolate

from medseg.errors import MedsegError

_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def resize_images(images: Tensor, spatial_size: Sequence[int]) -> Tensor:
    """Resize images: bilinear with anti-aliasing in 2D; in 1D and 3D averages where it shrinks, linear where not.

    Args:
        images: of floating point.
        spatial_size: new size in pixels, one edge an axis.

    Raises:
        ValueError: if an edge is below 1, or their number is not that of the images' axes.

    Shape:
        ``(B, C, *S)`` to ``(B, C, *spatial_size)``.
    """
    size = tuple(spatial_size)
    if not size or min(size) < 1:
        raise MedsegError(f"spatial_size is {list(size)}; give an edge of at least 1 pixel for each axis")
    if len(size) != images.ndim - 2:
        raise MedsegError(
            f"spatial_size is {list(size)}, but the image has the size {list(images.shape[2:])}; "
            f"give {images.ndim - 2} edges"
        )
    if size == tuple(images.shape[2:]):
        return images
    if len(size) == 2:
        return smooth(images, size)
    between = tuple(min(new, old) for new, old in zip(size, images.shape[2:], strict=True))
    shrunk = interpolate(images, between, mode="area")
    return interpolate(shrunk, size, mode=_MODES[len(size)], align_corners=False)


def smooth(images: Tensor, size: tuple[int, ...]) -> Tensor:
    """Resize pictures, bilinear with anti-aliasing.

    PyTorch gives every row the value of the first where a picture is one pixel wide, before or after, but not where it
    is one pixel high: such a one is turned.

    Args:
        images: of floating point, or 8-bit.
        size: height and width.

    Shape:
        ``(B, C, H, W)`` to ``(B, C, *size)``.
    """
    if 1 in (size[1], images.shape[3]):
        return _smooth(images.transpose(2, 3).contiguous(), size[::-1]).transpose(2, 3).contiguous()
    return _smooth(images, size)


def _smooth(images: Tensor, size: tuple[int, ...]) -> Tensor:
    return interpolate(images, size, mode="bilinear", align_corners=False, antialias=True)


class ResizeImagesd(MapTransform):
    """Dictionary transform: images to one size, see `resize_images`.

    Labels go with them by MONAI's ``Resized(mode="nearest-exact")``. Its ``"nearest"`` takes the first of several
    pixels and not the middle one, which moves what is labelled by half a pixel.

    Args:
        keys: of images.
        spatial_size: new size in pixels, one edge an axis.

    Shape:
        ``(C, *S)`` to ``(C, *spatial_size)``, a plain tensor: the affine of the file no longer holds.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, spatial_size: Sequence[int]) -> None:
        super().__init__(keys)
        self.spatial_size = tuple(spatial_size)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize the images."""
        resized = dict(data)
        for key in self.key_iterator(resized):
            image = resized[key]
            plain = image.as_tensor() if isinstance(image, MetaTensor) else torch.as_tensor(image)
            resized[key] = resize_images(plain[None].float(), self.spatial_size)[0]
        return resized
