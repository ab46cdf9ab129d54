"""Mean and standard deviation taken out of images on the device, so that they travel there as 8-bit values.

`medseg.io.load.LoadImagesd(keep_uint8=True)` leaves 8-bit images as they are: a quarter of float32's memory in
the cache, and of its transfer. `medseg.inferers.normalise.NormalisingInferer` applies this to what a network gets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.errors import MedsegError

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # RGB in [0, 1], as the weights of timm and torchvision expect it
IMAGENET_STD = (0.229, 0.224, 0.225)


class ImageNormalisation(nn.Module):
    """Bring images to ``(image / scale - mean) / std``, channel by channel, in float32 on the images' device.

    The defaults are ImageNet's for RGB values 0 to 255. Nothing of it is stored with weights.

    Args:
        mean: of each channel after the division by ``scale``; one value serves all channels.
        std: likewise.
        scale: value that becomes 1; 1 where images are in the units of ``mean`` already.

    Raises:
        ValueError: if mean and std differ in length, std or scale is not above 0, or an image has another number of
            channels.

    Shape:
        ``(B, C, *S)`` of any type to the same shape in float32, in the same memory format.
    """

    factor: Tensor
    offset: Tensor

    def __init__(
        self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD, scale: float = 255.0
    ) -> None:
        super().__init__()
        if not mean or len(mean) != len(std):
            raise MedsegError(
                f"mean {list(mean)} and std {list(std)} must have one value for each channel, or one each"
            )
        if min(std) <= 0 or scale <= 0:
            raise MedsegError(f"std {list(std)} and scale {scale} divide the image; they must be above 0")
        self.mean, self.std, self.scale = tuple(mean), tuple(std), scale
        spread = torch.tensor(self.std, dtype=torch.float64)
        offset = -torch.tensor(self.mean, dtype=torch.float64) / spread
        self.register_buffer("factor", (1 / (spread * scale)).float(), persistent=False)
        self.register_buffer("offset", offset.float(), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return normalised images."""
        channels = len(self.mean)
        if images.ndim < 2 or channels not in (1, images.shape[1]):
            raise MedsegError(
                f"images of shape {tuple(images.shape)} do not have the {channels} channels of mean {list(self.mean)}; "
                "give one value for each channel"
            )
        if self.factor.device != images.device:
            with torch.inference_mode(False):  # what is made in that mode can never serve a gradient again
                self.to(images.device)
        shape = (1, channels, *[1] * (images.ndim - 2))
        return torch.addcmul(self.offset.view(shape), images.float(), self.factor.view(shape))

    def extra_repr(self) -> str:
        """Return the values, for the printed network."""
        return f"mean={list(self.mean)}, std={list(self.std)}, scale={self.scale}"
