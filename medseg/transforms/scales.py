"""Values brought to a scale, image by image: by percentiles, by mean and deviation, and negatives of some.

Each is of one image alone, so that a prediction scales an image as the training did.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

__all__ = ["Percentilesd", "Polarityd", "ZScored"]

_ROUNDING = 1e-5  # of a mean: a deviation as small may be its rounding alone


class Percentilesd(MapTransform):
    """Dictionary transform: bring two percentiles of each channel to 0 and 1; what lies beyond stays beyond.

    Where both are one value, as of a few bright voxels on an even ground, the least and greatest are brought there
    (MONAI's ``ScaleIntensityRangePercentiles`` leaves the scale as it is then); of a channel of one value all are 0.

    Args:
        keys: of images.
        low: percentile that becomes 0.
        high: percentile that becomes 1.

    Shape:
        ``(C, *S)``, kept; float32.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, low: float, high: float) -> None:
        super().__init__(keys)
        self.ends = [low, high]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            image = scaled[key].to(torch.float32, copy=True)
            for channel in image:
                plain = channel.as_tensor() if isinstance(channel, MetaTensor) else channel
                low, high = np.percentile(plain.numpy(), self.ends).tolist()
                if not high > low:
                    low, high = float(plain.min()), float(plain.max())
                plain.sub_(low).div_(high - low if high > low else 1.0)
            scaled[key] = image
        return scaled


class ZScored(MapTransform):
    """Dictionary transform: each channel to mean 0 and deviation 1; of a channel of one value all are 0.

    Else the values are those of MONAI's ``NormalizeIntensityd(channel_wise=True)``, to the last bit, which makes 1 or
    -1 of all of a channel of one value if its mean is another one by rounding, as of 0.1. That one makes a
    `MetaTensor` of every channel and every number, which takes several times as long as the arithmetic, and keeps
    other threads waiting: it is Python.

    Args:
        keys: of images.
        nonzero: count and change values above or below 0 alone.

    Shape:
        ``(C, *S)``, kept; float32.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, *, nonzero: bool = False) -> None:
        super().__init__(keys)
        self.nonzero = nonzero

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the images."""
        scaled = dict(data)
        for key in self.key_iterator(scaled):
            image = scaled[key].to(torch.float32, copy=True)
            for channel in image.as_tensor() if isinstance(image, MetaTensor) else image:
                seen = channel[channel != 0] if self.nonzero else channel
                if not seen.numel():
                    continue
                mean, deviation = seen.mean().item(), seen.std(unbiased=False).item()
                if deviation <= _ROUNDING * abs(mean) and bool(seen.min() == seen.max()):
                    mean, deviation = seen[(0,) * seen.ndim].item(), 0.0
                seen.sub_(mean).div_(deviation or 1.0)
                if self.nonzero:
                    channel[channel != 0] = seen
            scaled[key] = image
        return scaled


class Polarityd(MapTransform):
    """Dictionary transform: turn images into negatives whose median is on the other side of the middle of their range.

    Args:
        keys: of images.
        polarity: ``"bright"``: what is turned has its median above the middle (objects, the lesser part, are dark);
            ``"dark"``: below it.
        nonzero: count and change values above or below 0 alone.

    Shape:
        ``(C, *S)``, kept; a negative has the range of the image.
    """

    def __init__(self, keys: Sequence[Hashable] | Hashable, polarity: str, *, nonzero: bool = False) -> None:
        super().__init__(keys)
        self.polarity, self.nonzero = polarity, nonzero

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn the images."""
        turned = dict(data)
        for key in self.key_iterator(turned):
            image = turned[key]
            seen = image[image != 0] if self.nonzero else image
            if not seen.numel():
                continue
            low, high = seen.min(), seen.max()
            above = float(seen.median()) > (float(low) + float(high)) / 2  # as tensors, bytes would wrap round
            if above == (self.polarity == "bright") and bool(high > low):
                negative = low + high - image
                turned[key] = _beside_zero(negative, image) if self.nonzero else negative
        return turned


def _beside_zero(negative: Tensor, image: Tensor) -> Tensor:
    """Return a negative in which what is 0 in the image is 0, and nothing else: 0 stands for no value."""
    least = torch.finfo(image.dtype).tiny if image.is_floating_point() else 1
    return torch.where(image == 0, image, torch.where(negative == 0, torch.full_like(negative, least), negative))
